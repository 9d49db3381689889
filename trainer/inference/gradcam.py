"""Grad-CAM: where in a photograph the evidence for a grade lies.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017. The map
is the mean of those of `layer4`, which was published, and of `layer3`, which is twice as fine. On drawn eyes, whose
lesions are known, the mean has more on lesions than that of `layer4` in each of three networks (docs/experiments.md).
A network of the user's may name its layers; else they are those with the last two feature maps of different sizes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.errors import RunError
from pipeline.photos.retina import Square
from trainer.network.backbones import GRADCAM_LAYERS
from trainer.network.model import Grader, Network, graders

TINT: Final = (86, 180, 233)
"""Sky blue of Okabe and Ito's palette, which colour-blind people can distinguish. It is the complement of orange."""
OPACITY: Final = 0.55
"""Opacity of the tint where the heat is 1. The photograph must stay visible beneath it."""
FEWEST: Final = 7
"""With fewer cells per side of the last feature map, the map is too coarse to be relied on. Images of 224 px have 7; at
that size torchvision's ResNets were trained and Grad-CAM was published."""
Style = Literal["heat", "outline"]


def grad_cam(model: Network, images: Tensor, grades: Tensor) -> NDArray[np.float32]:
    """How much each pixel speaks for a grade: (n, s, s), 0 to 1. The highest value of each photograph is 1.

    images: uint8 (n, 3, s, s), RGB, on the model's device. grades: int64 (n,), 0 to 4, the grade to explain in each.
    The maps of the two layers (of a ResNet s / 16 and s / 32 cells per side) are enlarged by bilinear interpolation. If
    the last layer has no evidence for the grade, all values are 0. The map of an ensemble is the mean of its members'
    maps. The model is left in evaluation mode. Raises RunError for a network without feature maps.
    """
    model.eval()
    maps = [_map_of(member, images, grades) for member in graders(model)]
    mean: NDArray[np.float32] = _highest_1(torch.stack(maps).mean(dim=0)).cpu().numpy()
    return mean


def _map_of(model: Grader, images: Tensor, grades: Tensor) -> Tensor:
    """The map (n, s, s) of one network. The highest value of each photograph is 1."""
    with torch.no_grad():
        normalised = model.normalise(images)
    with torch.enable_grad(), _outputs(model) as outputs:
        # Of the images, for layers may be frozen; of a copy, for a network may change them in place.
        logits = model.head(model.backbone(normalised.requires_grad_().clone()))
        layers = [each for each in feature_maps(model, outputs) if each.requires_grad]
        score = logits.gather(1, grades.to(images.device)[:, None]).sum()
        gradients = torch.autograd.grad(score, layers, allow_unused=True) if layers else ()
    pairs = [(layer, each) for layer, each in zip(layers, gradients, strict=True) if each is not None]
    if not pairs:
        raise RunError(f"{model.architecture} has no feature maps that could explain a prediction")
    maps = [
        _scaled(torch.einsum("nk,nkyx->nyx", gradient.float().mean(dim=(2, 3)), layer.detach().float()), images)
        for layer, gradient in pairs
    ]
    speaks = maps[-1].amax(dim=(1, 2), keepdim=True) > 0
    return _highest_1(torch.where(speaks, torch.stack(maps).mean(dim=0), 0))


@contextmanager
def _outputs(model: Grader) -> Iterator[list[Tensor]]:
    """In the block, collects the outputs of the layers that the backbone names, or of all its layers."""
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output)

    named = getattr(model.backbone, GRADCAM_LAYERS, ())
    try:
        layers = [model.backbone.get_submodule(name) for name in named] or list(model.backbone.modules())
    except AttributeError as error:
        raise RunError(f"{model.architecture} names the layers {', '.join(named)}, and has no such: {error}") from error
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def feature_maps(model: Grader, outputs: list[Tensor]) -> list[Tensor]:
    """Of the layers' outputs, those that the backbone names; else the last one of each of the last two sizes, (n, d, h,
    h) with h above 1: the mean over all places has h = 1. Empty if there is none."""
    maps = [each for each in outputs if each.ndim == 4 and each.shape[2] == each.shape[3]]
    if getattr(model.backbone, GRADCAM_LAYERS, ()):
        return maps
    last: dict[int, Tensor] = {}
    for each in maps:
        last.pop(each.shape[-1], None)
        if each.shape[-1] > 1:
            last[each.shape[-1]] = each
    return list(last.values())[-2:]


def _scaled(heat: Tensor, images: Tensor) -> Tensor:
    """The positive part of maps (n, y, x), enlarged to the images' size. The highest value of each photograph is 1."""
    heat = interpolate(heat.relu()[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return _highest_1(heat)


def _highest_1(heat: Tensor) -> Tensor:
    highest = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, heat / highest, heat)


@torch.no_grad()
def cells_a_side(model: Network, size: int) -> int:
    """Cells per side of the last feature map for images of `size` pixels, the fewest of an ensemble's members. A ResNet
    has 7 at 224 px, 4 at 128 px, four times that with a small stem. 0 if a network has no feature maps."""
    model.eval()
    fewest = []
    for member in graders(model):
        black = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=member.head.weight.device)
        with _outputs(member) as outputs:
            member.backbone(member.normalise(black))
        maps = feature_maps(member, outputs)
        fewest.append(maps[-1].shape[-1] if maps else 0)
    return min(fewest)


def heat_on_photograph(heat: NDArray[np.float32], square: Square, width: int, height: int) -> NDArray[np.float32]:
    """The heat (s, s) of a square, placed on the full photograph: (height, width), 0 outside the square.

    square: in pixels of the photograph; it may extend beyond the frame.
    """
    scale = square.side / len(heat)
    # From a pixel of the photograph to one of the heat; OpenCV's pixel centres lie at whole numbers.
    shifts = [(0.5 - offset) / scale - 0.5 for offset in (square.left, square.top)]
    matrix = np.array([[1 / scale, 0, shifts[0]], [0, 1 / scale, shifts[1]]])
    # Without a border the heat would fade out half a cell inside the edge.
    edged = cv2.copyMakeBorder(heat, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    matrix[:, 2] += 1
    laid = cv2.warpAffine(edged, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    columns, rows = np.arange(width) + 0.5 - square.left, np.arange(height) + 0.5 - square.top
    laid[(rows < 0) | (rows > square.side)] = 0
    laid[:, (columns < 0) | (columns > square.side)] = 0
    return np.asarray(laid, np.float32)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], style: Style = "heat") -> NDArray[np.uint8]:
    """The photograph with the heat laid over it: (h, w, 3), RGB.

    image: (h, w, 3), RGB. heat: (h, w), 0 to 1. style: "heat" tints by the heat, with a white line where the heat is
    one half, so that it can be read in grey too. "outline" draws only this line, with a black one around it, so that
    the photograph inside is unchanged.
    """
    mixed = image.copy()
    if style == "heat":
        opacity = np.float32(OPACITY) * heat[..., None]
        mixed = np.rint(image * (1 - opacity) + np.array(TINT, np.float32) * opacity).astype(np.uint8)
    hot = (heat >= 0.5).astype(np.uint8)
    width = max(1, min(mixed.shape[:2]) // 256)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(hot, kernel)  # no line along the edge of the picture
    if style == "outline":
        mixed[hot != cv2.dilate(hot, kernel)] = 0
    mixed[hot != inner] = 255
    return np.asarray(mixed, np.uint8)
