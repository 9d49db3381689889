"""What commands do with the weights of a network of the user's own, and where its package is missing."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.errors import RunError
from tests.trainer.conftest import FAST, invoke, write_tiny_cache
from tests.trainer.plugged import MODULE
from trainer.fellow_run import fellow_defaults
from trainer.inference.forward import probabilities
from trainer.network.export import Reference, describe, export_model
from trainer.network.metadata import read_metadata
from trainer.network.model import Grader, load_model
from trainer.plugs import load_function
from trainer.run_folder import RunFolder

FUNCTIONS = ("--loss", f"{MODULE}:each", "--augment", f"{MODULE}:brighter")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, and runs of a ConvNeXt, of a ResNet of timm's and of a network without feature maps."""
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    folder = tmp_path_factory.mktemp("own")
    write_tiny_cache(folder / "cache", size=64)
    for name in ("convnext", "resnet10t", "flat"):
        options = ("--model", f"{MODULE}:{name}", *FUNCTIONS, *FAST, "--epochs", 1)
        invoke("fit", "--cache", folder / "cache", *options, "--run", folder / name)
    return folder


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home, tmp_path / "home"))


@pytest.mark.parametrize("name", ["convnext", pytest.param("resnet10t", marks=pytest.mark.slow)])
def test_exported_it_gives_pytorchs_probabilities(name: str, home: Path) -> None:
    invoke("export", home / name, "--onnx", "x.onnx", "--pt2", "x.pt2")
    model, metadata = load_model(home / name / "model.safetensors")
    session = onnxruntime.InferenceSession("x.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 3):
        images = np.random.default_rng(n).integers(0, 256, (n, 3, 64, 64), np.uint8)
        wanted = probabilities(model, torch.from_numpy(images), metadata)
        (found,) = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["model"] == f"{MODULE}:{name}"


class Unexportable(nn.Module):
    """What it does depends on the numbers in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layer(images.mean((2, 3)))
        return features if features.sum() > 0 else -features


def test_what_cannot_be_exported_is_one_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.network.backbones.load_function", lambda name: lambda: (Unexportable(), 4))
    metadata, weights = read_metadata(home / "flat/model.safetensors"), home / "flat/model.safetensors"
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    reference = Reference(images, np.full((3, 5), 0.2, np.float32), "black")
    said = r"x\.pt2 is not written: .*plugged:flat cannot be exported \("
    with pytest.raises(RunError, match=said) as raised:
        export_model(tmp_path / "x.pt2", "pt2", Grader("nets:x"), metadata, describe(metadata, weights), reference)
    assert "\n" not in raised.value.message
    assert not (tmp_path / "x.pt2").exists()


def test_every_command_takes_its_run(folder: Path) -> None:
    run, photo = folder / "convnext", folder / "photo.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photo)
    invoke("evaluate", run, "--device", "cpu")
    invoke("predict", run, photo, "--device", "cpu")
    invoke("explain", run, photo, "--device", "cpu")
    invoke("report", run, "--card", folder / "CARD.md")
    invoke("compare", run, folder / "resnet10t", "--out", folder / "compare")
    assert MODULE in (folder / "compare.csv").read_text()
    needs = "tests.trainer.plugged:convnext, needs tests; tests.trainer.plugged:each, needs tests"
    assert f"Code from outside this program: {needs}" in (folder / "CARD.md").read_text()
    page = (run / "report.html").read_text()
    assert f"<dt>Code from outside</dt><dd>{needs}" in page
    assert "the function tests.trainer.plugged:each, all photographs count alike" in page
    assert "changed by the function tests.trainer.plugged:brighter" in page
    assert f"code             --model {MODULE}:convnext, needs tests" in invoke("show", run).output

    invoke("ensemble", folder / "both", run, folder / "resnet10t", "--device", "cpu")
    plugs = read_metadata(folder / "both/model.safetensors").plugs
    assert [each.function for each in plugs] == [f"{MODULE}:convnext", f"{MODULE}:resnet10t"]
    assert json.loads((folder / "both/config.json").read_text())["plugs"][1]["needs"].keys() == {"tests", "timm"}
    invoke("predict", folder / "both", photo, "--device", "cpu")


def test_a_training_with_both_eyes_keeps_its_functions(home: Path) -> None:
    kept = fellow_defaults(RunFolder(home / "convnext"))
    assert [kept[name] for name in ("model", "loss", "augment")] == [f"{MODULE}:convnext", *FUNCTIONS[1::2]]


def test_a_network_without_feature_maps_is_reported_and_not_explained(folder: Path) -> None:
    invoke("report", folder / "flat")
    page = (folder / "flat/report.html").read_text()
    assert "tests.trainer.plugged:flat has no feature maps, so no evidence is drawn on the photographs" in page
    assert 'class="heat"' not in page
    said = invoke("explain", folder / "flat", folder / "cache", "--device", "cpu", exit=1).stderr.splitlines()[-1]
    assert said.endswith("flat: tests.trainer.plugged:flat has no feature maps that could explain a prediction")
    assert not Path("explained").exists()


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "timm", None)
    load_function.cache_clear()
    yield
    load_function.cache_clear()


@pytest.mark.usefixtures("without_timm")
@pytest.mark.parametrize(
    "command",
    [
        ("predict", "photo.png"),
        ("evaluate",),
        ("export", "--pt2", "x.pt2"),
        ("serve", "--port", "0"),
        ("explain", "photo.png"),
        ("report",),
    ],
)
def test_without_the_package_it_is_named_with_the_line_that_installs_it(command: tuple[str, ...], home: Path) -> None:
    name, *options = command
    Path("photo.png").touch()
    stderr = invoke(name, home / "resnet10t", *options, exit=1).stderr.splitlines()
    assert re.fullmatch(
        r"Error: .*resnet10t/model.safetensors needs tests.trainer.plugged:resnet10t, and timm is not installed: "
        r"pip install 'timm==[\d.]+'",
        stderr[-1],
    )
    assert not Path("x.pt2").exists()


@pytest.mark.usefixtures("without_timm")
def test_what_reads_no_weights_needs_no_package(home: Path) -> None:
    invoke("show", home / "resnet10t")
    invoke("compare", home / "resnet10t", home / "convnext")


def test_the_weights_of_another_function_are_no_start(home: Path) -> None:
    options = ("--cache", home / "cache", "--model", f"{MODULE}:convnext", "--device", "cpu", "--run", "x")
    stderr = invoke("fit", *options, "--weights", home / "flat/model.safetensors", exit=1).stderr
    assert f"is a {MODULE}:flat, not a {MODULE}:convnext; choose it with --model {MODULE}:flat" in stderr
    weights = home / "convnext/model.safetensors"
    invoke("fit", *options, "--loader", "torchvision", "--weights", weights, "--head-epochs", 1, "--epochs", 0)
