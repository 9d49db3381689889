"""A torchvision ResNet that takes raw photographs and gives five grades."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.files import write_whole
from pipeline.grades import N_GRADES
from trainer.about import MEAN, STD, About, read_about


class Normalise(nn.Module):
    """uint8 0-255 to float with the mean and deviation of ImageNet's photographs taken out."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # In place: two temporaries of a batch's size would double the time, 7.7 ms a photograph of 512 px to 4.1.
        return images.to(torch.float32, copy=True).sub_(255 * self.mean).div_(255 * self.std)


class Grader(nn.Module):
    """Normalisation, a ResNet without its last layer, and a linear layer to the grades."""

    def __init__(self, architecture: str) -> None:
        """`architecture`: one of trainer.config.MODELS; initialised by torch's global generator."""
        super().__init__()
        resnet = torchvision.models.get_model(architecture, weights=None)
        self.architecture = architecture
        self.normalise = Normalise()
        self.head = nn.Linear(resnet.fc.in_features, N_GRADES)
        resnet.fc = nn.Identity()
        self.backbone: nn.Module = resnet

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 5) of images uint8 (n, 3, s, s), RGB."""
        logits: Tensor = self.head(self.backbone(self.normalise(images)))
        return logits


def compiled(model: Grader, batch: int) -> Callable[[Tensor], Tensor]:
    """The model's forward and backward pass, compiled for whole batches; the short one at an epoch's end, which would
    be compiled anew, goes the plain way. Raises RunError, at the first batch, where there is no working compiler."""
    from torch._dynamo.exc import TorchDynamoException  # half a second to import

    fast: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        if len(images) != batch:
            logits: Tensor = model(images)
            return logits
        try:
            return fast(images)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"torch.compile fails ({reason}); leave out --compile") from error

    return forward


def save_model(path: Path, model: Grader, about: About) -> None:
    """Writes the weights as safetensors, whole or not at all; equal weights make equal bytes."""
    # contiguous: channels-last strides cannot be saved as they are.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with write_whole(path) as file:
        file.write(save(tensors, metadata=about.as_metadata()))


def load_model(path: Path) -> tuple[Grader, About]:
    """A model as `save_model` wrote it, on the CPU, in evaluation mode. Raises RunError for any other file."""
    about = read_about(path)
    model = Grader(about.model)
    load_state(model, read_tensors(path), str(path))
    return model.eval(), about


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises RunError where it cannot be read."""
    try:
        return load_file(path)
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
