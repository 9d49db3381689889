"""Pretrained weights: torchvision's, from torch.hub's folder or downloaded, or of a file. No pickled code runs."""

import hashlib
import logging
import re
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import torch
import torchvision
from torch import Tensor

from pipeline.errors import RunError
from pipeline.storage.atomic import write_atomically
from trainer.network.backbones import find_backbone, has_own_weights
from trainer.network.metadata import read_metadata
from trainer.network.model import Grader, load_state, read_weights
from trainer.network.torch_files import read_torch
from trainer.plugs import failing, is_plug

logger = logging.getLogger(__name__)

PRETRAINED: Final = "pretrained"
"""The name of the weights that a function of the user's brings."""
TIMEOUT: Final = 10.0
"""A download fails after so many seconds without data."""


def pretrain(model: Grader, weights: str) -> str:
    """Loads the given weights. Returns "imagenet", "pretrained", "none", or the file. Warns if "auto" becomes "none".

    "pretrained": those that a function of the user's brings. With such a function "auto" takes them if there are any
    and they can be loaded.
    """
    if weights == "none":
        return weights
    if is_plug(model.architecture) and weights in ("auto", PRETRAINED):
        return _of_function(model, weights)
    if weights not in ("auto", "imagenet"):
        file = Path(weights).resolve()
        load_weights(model, file)
        return str(file)
    try:
        file = imagenet_file(model.architecture)
    except RunError as error:
        if weights == "imagenet":
            raise
        logger.warning(f"TRAINING FROM SCRATCH: {error.message}")
        return "none"
    load_weights(model, file)
    return "imagenet"


def _of_function(model: Grader, weights: str) -> str:
    """Takes the weights that the function of the backbone brings. Raises RunError if it must and there are none."""
    if not has_own_weights(model.architecture):
        if weights == PRETRAINED:
            raise RunError(f"{model.architecture} takes no argument `pretrained`, so it brings no weights")
        return "none"
    try:
        backbone, _ = find_backbone(model.architecture, model.stem)(pretrained=True)
    except RunError as error:  # a network that cannot be reached, mostly
        if weights == PRETRAINED:
            raise
        logger.warning(f"TRAINING FROM SCRATCH: {error.message}")
        return "none"
    with failing(model.architecture):
        model.backbone.load_state_dict(backbone.state_dict())
    return PRETRAINED


def load_weights(model: Grader, path: Path) -> None:
    """Copies a file's weights into a model: torchvision's state dict, or a model.safetensors of ours.

    A last layer for other classes, such as ImageNet's thousand, or for another loss, is left out. Raises RunError if
    the file cannot be read, or with the first layer that does not fit.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; give the file of weights, such as {path / 'model.safetensors'}")
    new_head = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        if metadata.members:
            raise RunError(f"{path} is an ensemble; training continues from one of its runs")
        if metadata.model != model.architecture:
            raise RunError(
                f"{path} is a {metadata.model}, not a {model.architecture}; choose it with --model {metadata.model}"
            )
        if metadata.stem != model.stem:
            raise RunError(f"{path} has another stem, choose it with --stem {metadata.stem}")
        if metadata.fellow and not model.head.fellow:
            raise RunError(f"{path} takes the fellow eye too; training continues from the run that it began with")
        of_fellow = {name: tensor for name, tensor in new_head.items() if name.startswith("head.fellow.")}
        state = of_fellow | read_weights(path) | (new_head if metadata.link != model.link else {})
    else:
        state = {_our_name(name): tensor for name, tensor in _read_torch(path).items()}
        if (weight := state.get("head.weight")) is None or weight.shape != model.head.weight.shape:
            state |= new_head
        # Files from before torch 0.4.1 lack these counters, and with a fixed momentum nothing reads them.
        counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
        state = counters | model.normalise.state_dict(prefix="normalise.") | state
    load_state(model, state, str(path))


def imagenet_file(architecture: str) -> Path:
    """The file in torch.hub's folder with ImageNet weights for an architecture. If missing, it is downloaded there.

    Raises RunError if that fails; the message says what to download and where to put it.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    weights = torchvision.models.get_model_weights(architecture)
    urls: list[str] = [weights.DEFAULT.url, *(each.url for each in weights)]  # the best first, then the others
    paths = [folder / url.rpartition("/")[2] for url in urls]
    for path in paths:
        if path.is_file():
            return path
    url, path = urls[0], paths[0]
    try:
        _download(url, path)
    except (OSError, HTTPException, ValueError) as error:
        raise RunError(
            f"ImageNet weights for {architecture} cannot be downloaded ({getattr(error, 'reason', error)}): "
            f"fetch {url} and put it into {folder} as {path.name}"
        ) from error
    return path


def _download(url: str, path: Path) -> None:
    """Downloads a file. Raises ValueError if its sha256 does not begin with the digits in the file's name.

    torch.hub.download_url_to_file has no timeout, so it may wait for ever, and does not sync the file to disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with urlopen(url, timeout=TIMEOUT) as answer, write_atomically(path) as file:
        while block := answer.read(1 << 20):
            sha256.update(block)
            file.write(block)
        promised = re.search(r"-([0-9a-f]{8,})\.", path.name)
        if promised and not sha256.hexdigest().startswith(promised[1]):
            raise ValueError("the download is damaged")


def _our_name(name: str) -> str:
    return f"head.{name[3:]}" if name.startswith("fc.") else f"backbone.{name}"


def _read_torch(path: Path) -> dict[str, Tensor]:
    state = read_torch(path)
    for wrapping in ("state_dict", "model"):  # many training scripts save the state dict inside a dict
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path} is not a table of layers and weights")
    return state
