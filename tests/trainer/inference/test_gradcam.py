"""Heat maps are the mean of captum's Grad-CAM of two layers, and overlays leave the photograph to be seen."""

import numpy as np
import pytest
import torch

from pipeline.errors import RunError
from pipeline.photos.retina import Square
from tests.trainer.plugged import MODULE
from trainer.inference.gradcam import TINT, cells_a_side, grad_cam, heat_on_photograph, overlay
from trainer.network.model import Grader


def grader(architecture: str, seed: int = 0, link: str = "softmax") -> Grader:
    torch.manual_seed(seed)
    return Grader(architecture, link).eval()


def photographs(n: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, size, size), np.uint8))


@pytest.mark.parametrize(
    ("architecture", "size", "link"),
    [("resnet18", 96, "softmax"), ("resnet18", 100, "softmax"), ("resnet50", 64, "softmax"), ("resnet18", 64, "corn")],
)
def test_heat_is_the_mean_of_captums_grad_cam_of_two_layers(architecture: str, size: int, link: str) -> None:
    import captum.attr as captum

    model, images, grades = grader(architecture, link=link), photographs(5, size), torch.arange(5)

    def of(layer: torch.nn.Module) -> torch.Tensor:
        found = captum.LayerGradCam(model, layer).attribute(images, grades, relu_attributions=True)
        found = captum.LayerAttribution.interpolate(found, (size, size), "bilinear")[:, 0].detach()
        return found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)

    fine, last = of(model.backbone.layer3), of(model.backbone.layer4)
    reference = (fine + last) / 2 * (last.amax(dim=(1, 2), keepdim=True) > 0)  # 0 where nothing speaks for the grade
    reference /= reference.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)

    heat = grad_cam(model, images, grades)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, reference.numpy(), atol=1e-5)


def test_a_frozen_backbone_is_explained_as_well() -> None:
    model, images, grades = grader("resnet18"), photographs(2, 64), torch.tensor([1, 4])
    before = grad_cam(model, images, grades)
    model.backbone.requires_grad_(False)
    assert np.array_equal(grad_cam(model.train(), images, grades), before)
    assert not model.training


@pytest.mark.parametrize(
    ("name", "layers", "cells"),
    [
        ("convnext", ("features.4.0", "features.5"), 4),
        ("resnet10t", ("layer3", "layer4"), 2),
        ("named", ("2", "5"), 16),
    ],
)
def test_a_network_of_the_users_is_explained_by_its_last_two_sizes_or_by_the_layers_that_it_names(
    name: str, layers: tuple[str, str], cells: int
) -> None:
    import captum.attr as captum

    model, images, grades = grader(f"{MODULE}:{name}"), photographs(5, 64), torch.arange(5)
    maps = []
    for layer in layers:
        module = model.backbone.get_submodule(layer)
        found = captum.LayerGradCam(model, module).attribute(images, grades, relu_attributions=True)
        found = captum.LayerAttribution.interpolate(found, (64, 64), "bilinear")[:, 0].detach()
        maps.append(found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9))
    reference = sum(maps) / 2 * (maps[-1].amax(dim=(1, 2), keepdim=True) > 0)
    reference /= reference.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    heat = grad_cam(model, images, grades)
    assert heat.any()
    np.testing.assert_allclose(heat, reference.numpy(), atol=1e-5)
    assert cells_a_side(model, 64) == cells


class Branched(torch.nn.Module):
    """Changes its images in place, and its last maps are not what it decides by."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 4, 3, 2, 1)
        self.aside = torch.nn.Conv2d(4, 4, 3, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        decided = self.second(self.first(images.mul_(2)))
        self.aside(decided)
        return decided.mean((2, 3))


def test_maps_that_decide_nothing_explain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (Branched(), 4))
    model = grader("nets:branched")
    model.head.weight.data.abs_()
    heat = grad_cam(model, photographs(1, 64), torch.tensor([2]))
    assert len(np.unique(heat[0])) > 16 * 16, "of the map with 16 x 16 cells, not of that with 4 x 4"


def test_a_network_without_feature_maps_is_not_explained() -> None:
    model = grader(f"{MODULE}:flat")
    assert cells_a_side(model, 64) == 0
    with pytest.raises(RunError, match="plugged:flat has no feature maps that could explain a prediction"):
        grad_cam(model, photographs(1, 64), torch.tensor([0]))


def test_heat_lies_where_the_evidence_is() -> None:
    """A head that counts on one channel alone is hot where that is, and nowhere for a grade it speaks against."""
    model, images = grader("resnet18"), photographs(1, 256)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[3, 7], model.head.weight[0, 7] = 1, -1
        features = model.backbone.relu(
            torch.nn.Sequential(model.normalise, *list(model.backbone.children())[:-2])(images)
        )[0, 7]
    heat = grad_cam(model, images, torch.tensor([3]))[0]
    row, column = divmod(int(features.argmax()), features.shape[1])
    there = heat[32 * row + 16, 32 * column + 16]
    assert there >= 0.5, "the half of the mean that is layer4's is 1 here, within its interpolation"
    assert (heat < there).mean() > 0.99
    assert not grad_cam(model, images, torch.tensor([0])).any()


def test_a_batch_is_explained_as_its_photographs_are() -> None:
    model, images, grades = grader("resnet18"), photographs(3, 64), torch.tensor([0, 2, 4])
    together = grad_cam(model, images, grades)
    alone = [grad_cam(model, images[i : i + 1], grades[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_an_overlay_tints_what_is_hot_and_leaves_the_rest() -> None:
    image = np.full((64, 64, 3), (200, 100, 40), np.uint8)
    heat = np.zeros((64, 64), np.float32)
    heat[16:48, 16:48] = 1
    drawn = overlay(image, heat)
    assert (drawn[:12] == image[:12]).all()
    assert (image == (200, 100, 40)).all(), "the photograph itself is left alone"
    expected = 0.45 * np.array([200, 100, 40]) + 0.55 * np.array(TINT)
    assert np.abs(drawn[30, 30] - expected).max() <= 1
    assert (drawn[16, 30] > 230).all(), "a white line runs along half the heat"


def test_an_outline_leaves_all_but_its_line_as_it_is() -> None:
    image = np.full((64, 64, 3), (200, 100, 40), np.uint8)
    heat = np.zeros((64, 64), np.float32)
    heat[16:48, 16:48] = 1
    drawn = overlay(image, heat, "outline")
    assert (drawn[17:47, 17:47] == image[17:47, 17:47]).all()
    assert (drawn[:15] == image[:15]).all()
    assert (drawn[16, 30] == 255).all()
    assert (drawn[15, 30] == 0).all(), "a black line around the white one: it is seen on bright retina too"


@pytest.mark.parametrize(("left", "top", "side"), [(30, 10, 40), (-8, 4, 64), (10.5, 2.25, 56)])
def test_heat_lies_on_the_photograph_where_the_network_saw_it(left: float, top: float, side: float) -> None:
    """A map of a quarter each of 0.2, 0.4, 0.6 and 1 lies in the quarters of the square, and nowhere else."""
    heat = np.kron(np.array([[0.2, 0.4], [0.6, 1]], np.float32), np.ones((8, 8), np.float32))
    laid = heat_on_photograph(heat, Square(left, top, side), width=100, height=60)
    assert laid.shape == (60, 100)
    x, y = np.meshgrid(np.arange(100) + 0.5, np.arange(60) + 0.5)
    across, down = (x - left) / side, (y - top) / side
    outside = (across < 0) | (across > 1) | (down < 0) | (down > 1)
    assert not laid[outside].any()
    inside = ~outside & (abs(across - 0.5) > 0.07) & (abs(down - 0.5) > 0.07)  # a cell from where they meet
    expected = np.where(down < 0.5, np.where(across < 0.5, 0.2, 0.4), np.where(across < 0.5, 0.6, 1))
    np.testing.assert_allclose(laid[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize(
    ("size", "stem", "cells"),
    [(224, "imagenet", 7), (128, "imagenet", 4), (100, "imagenet", 4), (32, "small", 4), (256, "coarse", 4)],
)
def test_the_cells_are_those_of_the_last_feature_map(size: int, stem: str, cells: int) -> None:
    model, kept = Grader("resnet18", stem=stem).eval(), []
    model.backbone.get_submodule("layer4").register_forward_hook(lambda *each: kept.append(each[2].shape))
    with torch.no_grad():
        model(photographs(1, size))
    assert cells_a_side(model, size) == cells == kept[0][-1]
