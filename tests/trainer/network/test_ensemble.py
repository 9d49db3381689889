"""An ensemble's probabilities are the mean of its members' calibrated ones, in one view and in eight."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.photos.preparation import Recipe
from trainer.inference.forward import probabilities
from trainer.inference.gradcam import grad_cam
from trainer.network.ensemble import Ensemble
from trainer.network.metadata import Member, Metadata, Operating, read_metadata
from trainer.network.model import Grader, load_model, save_model
from trainer.network.pretrained import load_weights

TEMPERATURES = (0.5, 2.0)
ONE = Metadata("resnet18", 64, Recipe(64), epoch=3)
BOTH = replace(
    ONE,
    epoch=0,
    members=(
        Member("resnet18", 3, "softmax", "imagenet", TEMPERATURES[0]),
        Member("resnet34", 5, "corn", "small", TEMPERATURES[1]),
    ),
)


@pytest.fixture(scope="module")
def members() -> list[Grader]:
    torch.manual_seed(0)
    return [Grader("resnet18").eval(), Grader("resnet34", "corn", "small").eval()]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_are_the_mean_of_the_members_calibrated_ones(
    members: list[Grader], images: Tensor, tta: bool
) -> None:
    own = [
        probabilities(member, images, replace(ONE, tta=tta, operating=Operating(temperature, 0.5, "sensitivity", 0.9)))
        for member, temperature in zip(members, TEMPERATURES, strict=True)
    ]
    found = probabilities(Ensemble(members, TEMPERATURES).eval(), images, replace(BOTH, tta=tta))
    np.testing.assert_allclose(found, (own[0] + own[1]) / 2, atol=1e-6)


def test_a_file_gives_the_ensemble_back_bit_for_bit(members: list[Grader], images: Tensor, tmp_path: Path) -> None:
    ensemble, path = Ensemble(members, TEMPERATURES).eval(), tmp_path / "model.safetensors"
    save_model(path, ensemble, BOTH)
    loaded, metadata = load_model(path)
    assert metadata == read_metadata(path) == BOTH
    assert metadata.title == "Ensemble of 1 resnet18 and 1 resnet34 with a small stem"
    with torch.no_grad():
        assert torch.equal(loaded(images), ensemble(images))
    with pytest.raises(RunError, match="is an ensemble; training continues from one of its runs"):
        load_weights(members[0], path)


def test_the_file_of_one_network_says_nothing_of_members(members: list[Grader], tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", members[0], ONE)
    assert b"members" not in (tmp_path / "model.safetensors").read_bytes()[:4000]


def test_evidence_is_the_mean_of_the_members_maps(members: list[Grader], images: Tensor) -> None:
    grades = torch.tensor([0, 2, 4])
    mean = np.mean([grad_cam(member, images, grades) for member in members], axis=0)
    mean /= mean.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(grad_cam(Ensemble(members, TEMPERATURES), images, grades), mean, atol=1e-6)
