"""Backbones: the network between the normalised images and the head. A function gives each, ours or the user's."""

from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import Final, Protocol

import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.errors import RunError
from trainer.config import MODELS
from trainer.plugs import Plug, check_installed, failing, is_plug, load_function

GRADCAM_LAYERS: Final = "gradcam_layers"
"""Attribute of a backbone that may name the layers whose maps explain a prediction, the finer one first."""
RESNETS: Final = ("layer3", "layer4")


class BackboneFunction(Protocol):
    """Gives a network from images float32 (n, 3, s, s), normalised by ImageNet's mean and standard deviation, to
    features (n, d); and d.

    A function that takes an argument `pretrained` has weights of its own. It is true when a training starts with them,
    and false when weights are loaded afterwards, as for every prediction.
    """

    def __call__(self, *, pretrained: bool = False) -> tuple[nn.Module, int]: ...


def find_backbone(architecture: str, stem: str) -> BackboneFunction:
    """The function that gives a backbone: torchvision's ResNets by name, or the user's, `package.module:function`.

    Raises RunError if there is none.
    """
    if architecture in MODELS:
        return partial(_resnet, architecture, stem)
    if not is_plug(architecture):
        raise RunError(f"{architecture!r} is no network that this version knows")
    return partial(_checked, architecture)


def has_own_weights(architecture: str) -> bool:
    """Whether a function of the user's takes the argument `pretrained`."""
    return is_plug(architecture) and "pretrained" in signature(load_function(architecture)).parameters


def check_backbone(architecture: str, plugs: Sequence[Plug], source: str) -> None:
    """Raises RunError if a package is missing that a backbone needs. plugs: as recorded in `source`, a file."""
    if is_plug(architecture):
        check_installed(plugs, architecture, source)


def _resnet(architecture: str, stem: str, *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """A ResNet without its last layer. Its pretrained weights are files: trainer.network.pretrained."""
    assert not pretrained
    resnet = torchvision.models.get_model(architecture, weights=None)
    if stem == "small":
        resnet.conv1 = nn.Conv2d(3, resnet.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
        resnet.maxpool = nn.Identity()
    elif stem == "coarse":
        resnet.maxpool = nn.MaxPool2d(5, stride=4, padding=2)
    features = resnet.fc.in_features
    resnet.fc = nn.Identity()
    setattr(resnet, GRADCAM_LAYERS, RESNETS)
    return resnet, features


def _checked(function: str, *, pretrained: bool = False) -> tuple[nn.Module, int]:
    """What a function of the user's gives. Raises RunError if it is no backbone whose weights can be saved."""
    with failing(function):
        given = load_function(function)(**({"pretrained": pretrained} if has_own_weights(function) else {}))
    match given:
        case (nn.Module() as backbone, int(features)) if features > 0 and not isinstance(features, bool):
            pass
        case _:
            said = (
                ", ".join(type(each).__name__ for each in given) if isinstance(given, tuple) else type(given).__name__
            )
            raise RunError(f"{function} gives {said}; it must give two: a torch.nn.Module and its number of features")
    if any(map(is_lazy, (*backbone.parameters(), *backbone.buffers()))):
        raise RunError(f"{function} gives layers without a shape; call it once with an image before it is given")
    state = backbone.state_dict()
    places: dict[int, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise RunError(f"{function} gives a layer whose state {name} is no tensor, and cannot be saved")
        place = tensor.data_ptr()
        if tensor.numel() and places.setdefault(place, name) != name:
            raise RunError(f"{function} gives two layers with one tensor, {places[place]} and {name}; copy it")
    return backbone, features
