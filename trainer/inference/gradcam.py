"""Grad-CAM: where in a photograph the evidence for a grade lies.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017. A
ResNet ends in an average over places and the head, so the gradient of a grade's logit by channel k of the last maps is
the head's for k, divided by the number of places, at each of them. Hence no backward pass through the network, and
frozen layers explain themselves as well as trained ones.
"""

from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.photos.retina import Square
from trainer.network.metadata import Metadata
from trainer.network.model import Grader

TINT: Final = (86, 180, 233)
"""Sky blue (Okabe and Ito's palette, safe for the colour-blind): the complement of a retina's orange."""
OPACITY: Final = 0.55
"""Of the tint where the heat is 1: what it marks must stay visible beneath it."""
FEWEST: Final = 7
"""Cells a side of the last feature map below which a place is too coarse to be trusted: those of 224 px, at which
torchvision's ResNets were trained and Grad-CAM was published."""
Style = Literal["heat", "outline"]


@torch.no_grad()
def grad_cam(model: Grader, images: Tensor, grades: Tensor) -> NDArray[np.float32]:
    """How much each place speaks for a grade: (n, s, s), 0 to 1, each photograph's highest being 1.

    images: uint8 (n, 3, s, s), RGB, on the model's device; grades: int64 (n,), 0 to 4, the grade to explain in each.
    The maps are as coarse as the network's last, s / 32 places a side, between which it is interpolated. A photograph
    in which nothing speaks for the grade is 0 throughout. The model is left in evaluation mode.
    """
    model.eval()
    maps: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        maps.append(output)

    hook = model.backbone.get_submodule("layer4").register_forward_hook(keep)
    try:
        features = model.backbone(model.normalise(images))
    finally:
        hook.remove()
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        logits = model.head(features).gather(1, grades.to(features.device)[:, None])
        (weights,) = torch.autograd.grad(logits.sum(), features)
    heat = torch.einsum("nk,nkyx->nyx", weights.float(), maps[0].float()).relu_()
    heat = interpolate(heat[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    highest = heat.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[np.float32] = torch.where(highest > 0, heat / highest, heat).cpu().numpy()
    return scaled


def cells_a_side(metadata: Metadata) -> int:
    """Of the network's last feature map: 7 for images of 224 px, 4 for 128 px; four times as many with a small stem."""
    return -(-metadata.size // (8 if metadata.stem == "small" else 32))


def heat_on_photograph(heat: NDArray[np.float32], square: Square, width: int, height: int) -> NDArray[np.float32]:
    """The heat (s, s) of a square of a photograph, laid where that lies: (height, width), 0 outside the square.

    square: in pixels of the photograph; it may reach past the frame.
    """
    scale = square.side / len(heat)
    # From a pixel of the photograph to one of the heat; OpenCV's pixel centres lie at whole numbers.
    shifts = [(0.5 - offset) / scale - 0.5 for offset in (square.left, square.top)]
    matrix = np.array([[1 / scale, 0, shifts[0]], [0, 1 / scale, shifts[1]]])
    edged = cv2.copyMakeBorder(heat, 1, 1, 1, 1, cv2.BORDER_REPLICATE)  # else it fades out half a cell within the edge
    matrix[:, 2] += 1
    laid = cv2.warpAffine(edged, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    columns, rows = np.arange(width) + 0.5 - square.left, np.arange(height) + 0.5 - square.top
    laid[(rows < 0) | (rows > square.side)] = 0
    laid[:, (columns < 0) | (columns > square.side)] = 0
    return np.asarray(laid, np.float32)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], style: Style = "heat") -> NDArray[np.uint8]:
    """The photograph with the heat laid over it: (h, w, 3), RGB.

    image: (h, w, 3), RGB; heat: (h, w), 0 to 1. "heat": one hue that covers the more the hotter, and a white line at
    one half of the heat, so that it can be read in grey as well. "outline": that line alone, with a black one around
    it, so that all within it is seen as it is.
    """
    mixed = image.copy()
    if style == "heat":
        opacity = np.float32(OPACITY) * heat[..., None]
        mixed = np.rint(image * (1 - opacity) + np.array(TINT, np.float32) * opacity).astype(np.uint8)
    hot = (heat >= 0.5).astype(np.uint8)
    width = max(1, min(mixed.shape[:2]) // 256)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(hot, kernel)  # the picture's own edge is no line
    if style == "outline":
        mixed[hot != cv2.dilate(hot, kernel)] = 0
    mixed[hot != inner] = 255
    return np.asarray(mixed, np.uint8)
