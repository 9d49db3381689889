"""Grad-CAM: where in a photograph the evidence for a grade lies.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017. A
ResNet ends in an average over places and the head, so the gradient of a grade's logit by channel k of the last maps is
the head's for k, divided by the number of places, at each of them. Hence no backward pass through the network, and
frozen layers explain themselves as well as trained ones.
"""

from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from trainer.network.model import Grader

TINT: Final = (86, 180, 233)
"""Sky blue (Okabe and Ito's palette, safe for the colour-blind): the complement of a retina's orange."""
OPACITY: Final = 0.55
"""Of the tint where the heat is 1: what it marks must stay visible beneath it."""


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


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photograph with the heat laid over it: (s, s, 3), RGB.

    image: (s, s, 3), RGB; heat: (s, s), 0 to 1. One hue that covers the more the hotter, and a white line at one half
    of the heat, so that it can be read in grey as well.
    """
    opacity = OPACITY * heat[..., None]
    mixed: NDArray[np.uint8] = np.rint(image * (1 - opacity) + np.array(TINT) * opacity).astype(np.uint8)
    hot = (heat >= 0.5).astype(np.uint8)
    width = max(1, len(mixed) // 256)
    inner = cv2.erode(hot, np.ones((2 * width + 1, 2 * width + 1), np.uint8))  # the picture's own edge is no line
    mixed[hot != inner] = 255
    return mixed
