"""A torchvision ResNet that takes raw photographs and gives five grades."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.grades import N_GRADES
from pipeline.loading.batch import normalise
from pipeline.storage.atomic import write_whole
from trainer.network.metadata import MEAN, STD, Metadata, read_metadata
from trainer.network.provenance import Provenance

MET: Final = "photographs."
"""What the names of tensors begin with that are no weights, but say which photographs these have met."""


class Normalise(nn.Module):
    """uint8 0-255 to float with the mean and deviation of ImageNet's photographs taken out."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return normalise(images, 255 * self.mean.flatten(), 255 * self.std.flatten())


class Head(nn.Linear):
    """A linear layer to scores, and what makes five logits of them, whose softmax are the grades' probabilities.

    "softmax": five scores, the logits themselves.
    "corn": four scores, the log-odds that the grade is above k where it is at least k, k = 0..3 (Shi, Cao, Raschka:
    Deep neural networks for rank-consistent ordinal regression, Pattern Analysis and Applications 2023). The chain rule
    makes five probabilities of them, so the logits are the logarithms of these: what follows is softmax, as ever.
    "distance": one score s on the scale of the grades; the logit of k is -(s - k)^2, a normal distribution around s
    with a variance of 1/2 on the grades, which the temperature fitted on validation makes wider or narrower. The
    likeliest grade is the nearest.
    """

    def __init__(self, features: int, link: str) -> None:
        self._link = LINKS[link]
        super().__init__(features, self._link.scores)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 5) logits of (n, d) features."""
        return self._link.logits(super().forward(features))


def _corn(scores: Tensor) -> Tensor:
    above, here = F.logsigmoid(scores.float()), F.logsigmoid(-scores.float())
    certain = torch.zeros_like(above[:, :1])
    at_least = torch.cat([certain, above.cumsum(dim=1)], dim=1)
    return at_least + torch.cat([here, certain], dim=1)  # there is nothing above the last grade


def _distance(scores: Tensor) -> Tensor:
    return -((scores.float() - torch.arange(N_GRADES, device=scores.device)) ** 2)


class _Link(NamedTuple):
    scores: int
    logits: Callable[[Tensor], Tensor]


LINKS: Final = {
    "softmax": _Link(N_GRADES, lambda scores: scores),
    "corn": _Link(N_GRADES - 1, _corn),
    "distance": _Link(1, _distance),
}


class Grader(nn.Module):
    """Normalisation, a ResNet without its last layer, and a linear layer to the grades."""

    def __init__(self, architecture: str, link: str = "softmax", stem: str = "imagenet") -> None:
        """Initialised by torch's global generator.

        architecture: one of trainer.config.MODELS. link: see Head. stem: "imagenet", a 7x7 convolution and a pooling
        that together leave a quarter of the side, or "small", a 3x3 convolution that leaves all of it (He et al., CVPR
        2016, section 4.2), which costs seven times as much (ResNet-18, 64 images of 56 px: a step of 4.6 s, not 0.64).
        """
        super().__init__()
        resnet = torchvision.models.get_model(architecture, weights=None)
        if stem == "small":
            resnet.conv1 = nn.Conv2d(3, resnet.conv1.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
            resnet.maxpool = nn.Identity()
        self.stem = stem
        self.architecture = architecture
        self.link = link
        self.normalise = Normalise()
        self.head = Head(resnet.fc.in_features, link)
        resnet.fc = nn.Identity()
        self.backbone: nn.Module = resnet

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 5) of images uint8 (n, 3, s, s), RGB."""
        logits: Tensor = self.head(self.backbone(self.normalise(images)))
        return logits


def compiled(model: nn.Module, batch: int, size: int) -> Callable[[Tensor], Tensor]:
    """The model's forward and backward pass, compiled for whole batches of images of that side, pixels.

    Others, the short batch at an epoch's end and images that still grow, would each be compiled anew, of which torch
    does eight at most: they go the plain way. Raises RunError, at the first batch, where there is no working compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # half a second to import

    fast: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        if len(images) != batch or images.shape[-1] != size:
            logits: Tensor = model(images)
            return logits
        try:
            return fast(images)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"torch.compile fails ({reason}); leave out --compile") from error

    return forward


def save_model(path: Path, model: Grader, metadata: Metadata, provenance: Provenance | None = None) -> None:
    """Writes the weights as safetensors, whole or not at all; equal weights make equal bytes."""
    # contiguous: channels-last strides cannot be saved as they are.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if provenance:
        tensors |= {f"{MET}{name}": tensor for name, tensor in provenance.as_tensors().items()}
    with write_whole(path) as file:
        file.write(save(tensors, metadata=metadata.as_header()))


def load_model(path: Path) -> tuple[Grader, Metadata]:
    """A model as `save_model` wrote it, on the CPU, in evaluation mode. Raises RunError for any other file."""
    metadata = read_metadata(path)
    model = Grader(metadata.model, metadata.link, metadata.stem)
    load_state(model, read_weights(path), str(path))
    return model.eval(), metadata


def read_weights(path: Path) -> dict[str, Tensor]:
    """The layers of a model's file. Raises RunError where it cannot be read."""
    return {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith(MET)}


def read_provenance(path: Path) -> Provenance | None:
    """Which photographs a model's weights have met; None where it does not say, as older files. Raises RunError where
    it cannot be read."""
    tensors = read_tensors(path)
    return Provenance.from_tensors({name.removeprefix(MET): tensors[name] for name in tensors if name.startswith(MET)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises RunError where it cannot be read."""
    try:
        return load(path.read_bytes())  # load_file opens no path that is not UTF-8
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def load_state(model: Grader, state: Mapping[str, Tensor], source: str) -> None:
    """Copies a state dict that must fit layer by layer. Raises RunError naming the first layer that does not."""
    layers = model.state_dict()
    for name, layer in layers.items():
        if name not in state:
            problem = f"layer {name} is missing"
        elif state[name].shape != layer.shape:
            problem = f"layer {name} is {_shape(state[name])}, it must be {_shape(layer)}"
        else:
            continue
        raise RunError(f"{source} does not fit {model.architecture}: {problem}")
    surplus = [name for name in state if name not in layers]
    if surplus:
        raise RunError(f"{source} does not fit {model.architecture}: it has no layer {surplus[0]}")
    model.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
