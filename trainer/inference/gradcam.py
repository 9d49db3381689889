"""Grad-CAM: where in a photograph the evidence for a grade lies.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017. The map
is the mean of those of `layer4`, which was published, and of `layer3`, which is twice as fine. On drawn eyes, whose
lesions are known, the mean has more on lesions than that of `layer4` in each of three networks (docs/experiments.md).
"""

from collections.abc import Callable
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.photos.retina import Square
from trainer.network.ensemble import Ensemble
from trainer.network.metadata import Metadata
from trainer.network.model import Grader, Network

LAYERS: Final = ("layer3", "layer4")
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
    The maps of the two layers have s / 16 and s / 32 cells per side and are enlarged by bilinear interpolation. If
    `layer4` has no evidence for the grade, all values are 0. The map of an ensemble is the mean of its members' maps.
    The model is left in evaluation mode.
    """
    model.eval()
    members = list(model.members) if isinstance(model, Ensemble) else [model]
    maps = [_map_of(member, images, grades) for member in members]
    mean: NDArray[np.float32] = _highest_1(torch.stack(maps).mean(dim=0)).cpu().numpy()
    return mean


def _map_of(model: nn.Module, images: Tensor, grades: Tensor) -> Tensor:
    """The map (n, s, s) of one network. The highest value of each photograph is 1."""
    kept: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[..., Tensor]:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            kept[layer] = output if output.requires_grad else output.requires_grad_()  # frozen layers have none
            return kept[layer]

        return hook

    assert isinstance(model, Grader)
    hooks = [model.backbone.get_submodule(layer).register_forward_hook(keep(layer)) for layer in LAYERS]
    try:
        with torch.no_grad():
            normalised = model.normalise(images)
        with torch.enable_grad():
            logits = model.head(model.backbone(normalised)).gather(1, grades.to(images.device)[:, None])
            gradients = torch.autograd.grad(logits.sum(), [kept[layer] for layer in LAYERS])
    finally:
        for hook in hooks:
            hook.remove()
    maps = [
        _scaled(torch.einsum("nk,nkyx->nyx", gradient.float().mean(dim=(2, 3)), kept[layer].detach().float()), images)
        for layer, gradient in zip(LAYERS, gradients, strict=True)
    ]
    speaks = maps[-1].amax(dim=(1, 2), keepdim=True) > 0
    return _highest_1(torch.where(speaks, torch.stack(maps).mean(dim=0), 0))


def _scaled(heat: Tensor, images: Tensor) -> Tensor:
    """The positive part of maps (n, y, x), enlarged to the images' size. The highest value of each photograph is 1."""
    heat = interpolate(heat.relu()[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return _highest_1(heat)


def _highest_1(heat: Tensor) -> Tensor:
    highest = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, heat / highest, heat)


def cells_a_side(metadata: Metadata) -> int:
    """Cells per side of the last feature map: 7 at 224 px, 4 at 128 px, and four times that with a small stem."""
    return -(-metadata.size // (8 if metadata.stem == "small" else 32))


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
