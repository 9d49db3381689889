"""The network: a backbone and a head, from images to the logits of five grades. Its file of weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.grades import N_GRADES
from pipeline.loading.batch import normalise
from pipeline.storage.atomic import write_atomically
from trainer.network.backbones import check_backbone, find_backbone
from trainer.network.ensemble import Ensemble
from trainer.network.metadata import MEAN, STD, Metadata, read_metadata
from trainer.network.provenance import Provenance

PREFIX: Final = "photographs."
"""Prefix of the tensors of the provenance, which are no weights."""


class Normalise(nn.Module):
    """uint8 images, 0-255, to float, by ImageNet's mean and standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return normalise(images, 255 * self.mean.flatten(), 255 * self.std.flatten())


class Head(nn.Linear):
    """The last layer: scores, and from them five logits, whose softmax gives the probabilities of the grades.

    "softmax": five scores, the logits themselves.
    "corn": four scores, the log-odds that the grade is above k if it is at least k, k = 0..3 (Shi, Cao, Raschka: Deep
    neural networks for rank-consistent ordinal regression, Pattern Analysis and Applications 2023). The chain rule
    gives five probabilities, and their logarithms are the logits.
    "distance": one score s on the scale of the grades; the logit of grade k is -(s - k)^2: a normal distribution
    around s with a variance of 1/2, which the temperature makes wider or narrower. The likeliest grade is the nearest.
    """

    fellow: nn.Linear | None
    """What the features of the patient's other eye add to the scores; None in a network that takes one eye."""

    def __init__(self, features: int, link: str, *, fellow: bool = False) -> None:
        self.link = LINKS[link]
        super().__init__(features, self.link.scores)
        self.fellow = nn.Linear(features, self.link.scores) if fellow else None
        if self.fellow:  # nothing is added before it is trained
            nn.init.zeros_(self.fellow.weight)
            nn.init.zeros_(self.fellow.bias)

    def scores(self, features: Tensor) -> Tensor:
        """(n, k) scores from (n, d) features."""
        return super().forward(features)

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """(n, 5) logits from (n, d) features. added: (n, k), what the other eye adds to the scores."""
        scores = self.scores(features)
        return self.link.logits(scores if added is None else scores + added)


def _corn(scores: Tensor) -> Tensor:
    above, here = F.logsigmoid(scores.float()), F.logsigmoid(-scores.float())
    certain = torch.zeros_like(above[..., :1])
    at_least = torch.cat([certain, above.cumsum(dim=-1)], dim=-1)
    return at_least + torch.cat([here, certain], dim=-1)  # no grade is above the last one


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
    """The network: normalisation, the backbone (such as a ResNet without its last layer), and the head."""

    def __init__(
        self, architecture: str, link: str = "softmax", stem: str = "imagenet", *, fellow: bool = False
    ) -> None:
        """Initialises the weights with torch's global random generator.

        architecture: one of trainer.config.MODELS, or a function of the user's (trainer.network.backbones). link: see
        Head. stem: the first layers of a ResNet. "imagenet" is a 7x7 convolution and a pooling, which reduce the side
        to a quarter. "small" is a 3x3 convolution, which keeps the side (He et al., CVPR 2016, section 4.2) and takes
        seven times as long (ResNet-18, 64 images of 56 px: a step of 4.6 s, not 0.64). "coarse" is as "imagenet", with
        the same weights, but its pooling reduces the side by 4 and not by 2. The convolution still sees each pixel,
        and the later stages are a quarter as large (ResNet-18, 16 images of 256 px, one thread: a step of 2.1 s, not
        6.6; 16 images of 128 px with "imagenet": 1.6 s).
        fellow: whether the last layer can take the patient's other eye into account.
        """
        super().__init__()
        backbone, features = find_backbone(architecture, stem)()
        self.stem = stem
        self.architecture = architecture
        self.link = link
        self.normalise = Normalise()
        self.head = Head(features, link, fellow=fellow)
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """(n, 5) logits from images uint8 (n, 3, s, s), RGB."""
        logits: Tensor = self.head(self.backbone(self.normalise(images)))
        return logits


Network = Grader | Ensemble


def graders(model: Network) -> list[Grader]:
    """The networks of an ensemble, or the one network."""
    members = model.members if isinstance(model, Ensemble) else [model]
    return [each for each in members if isinstance(each, Grader)]


def compiled(model: nn.Module, batch: int, size: int) -> Callable[[Tensor], Tensor]:
    """The model's forward and backward pass, compiled for batches of `batch` images of `size` x `size` pixels.

    Batches of other shapes (the last one of an epoch, images that still grow) are not compiled, because torch compiles
    at most eight shapes. Raises RunError at the first batch if no compiler works.
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


def save_model(path: Path, model: Network, metadata: Metadata, provenance: Provenance | None = None) -> None:
    """Writes the weights as safetensors, completely or not at all. Equal weights give equal bytes."""
    # contiguous: channels-last strides cannot be saved as they are.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if provenance:
        tensors |= {f"{PREFIX}{name}": tensor for name, tensor in provenance.as_tensors().items()}
    with write_atomically(path) as file:
        file.write(save(tensors, metadata=metadata.as_header()))


def load_model(path: Path) -> tuple[Network, Metadata]:
    """Reads a model that `save_model` wrote: on the CPU, in evaluation mode. Raises RunError for any other file."""
    metadata = read_metadata(path)
    for each in metadata.members or (metadata,):
        check_backbone(each.model, metadata.plugs, str(path))
    model: Network
    if metadata.members:
        paired = metadata.fellow is not None
        members = [Grader(each.model, each.link, each.stem, fellow=paired) for each in metadata.members]
        paired_temperatures = [each.fellow_temperature for each in metadata.members]
        model = Ensemble(members, [each.temperature for each in metadata.members], paired_temperatures)
    else:
        model = Grader(metadata.model, metadata.link, metadata.stem, fellow=metadata.fellow is not None)
    load_state(model, read_weights(path), str(path))
    return model.eval(), metadata


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a model's file, by layer. Raises RunError if it cannot be read."""
    return {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith(PREFIX)}


def read_provenance(path: Path) -> Provenance | None:
    """The provenance in a model's file; None in files of earlier versions. Raises RunError if it cannot be read."""
    tensors = read_tensors(path)
    return Provenance.from_tensors(
        {name.removeprefix(PREFIX): tensors[name] for name in tensors if name.startswith(PREFIX)}
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises RunError if it cannot be read."""
    try:
        return load(path.read_bytes())  # load_file opens no path that is not UTF-8
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def load_state(model: Network, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state dict. Raises RunError that names the first layer that is missing, of another shape, or unknown.

    source: what the state was read from, for the message.
    """
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
