"""Exported files give PyTorch's probabilities, say what they are, and are not there where they would be wrong."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.trainer.conftest import Trained, invoke
from trainer.inference.forward import probabilities
from trainer.network import export
from trainer.network.model import load_model
from trainer.run_folder import RunFolder

METADATA = {
    "made_by", "model", "images", "probabilities", "grades", "size", "recipe", "recipe_digest", "temperature",
    "grade_cuts", "referable_threshold", "views", "weights_sha256",
}  # fmt: skip


class Exported:
    def __init__(self, trained: Trained, folder: Path) -> None:
        self.onnx, self.pt2 = folder / "model.onnx", folder / "model.pt2"
        self.output = invoke("export", trained.run, "--onnx", self.onnx, "--pt2", self.pt2).output


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(trained, tmp_path_factory.mktemp("exported"))


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), np.uint8)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_number_of_images_has_pytorchs_probabilities(trained: Trained, exported: Exported, n: int) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    wanted = probabilities(model, torch.from_numpy(images(n)), metadata)
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    assert [(each.name, each.type) for each in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    (found,) = session.run(["probabilities"], {"images": images(n)})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    program = torch.export.load(exported.pt2)
    np.testing.assert_allclose(program.module()(torch.from_numpy(images(n))).detach().numpy(), wanted, atol=1e-5)


def test_files_say_what_they_are(trained: Trained, exported: Exported) -> None:
    weights = RunFolder(trained.run).model
    metadata = load_model(weights)[1]
    extra = {export.EXTRA_FILE: ""}
    torch.export.load(exported.pt2, extra_files=extra)
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(extra[export.EXTRA_FILE]) == found
    assert found.keys() == METADATA
    assert found["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert json.loads(found["recipe"]) == metadata.recipe.as_dict()
    assert json.loads(found["grades"]) == ["no DR", "mild", "moderate", "severe", "proliferative"]
    assert metadata.operating is not None
    assert float(found["temperature"]) == metadata.operating.temperature
    assert float(found["referable_threshold"]) == metadata.operating.threshold


def test_an_onnx_file_is_valid_and_whole(exported: Exported) -> None:
    onnx.checker.check_model(onnx.load(exported.onnx), full_check=True)
    assert [path.name for path in sorted(exported.onnx.parent.iterdir())] == ["model.onnx", "model.pt2"]


def test_what_was_checked_is_said(exported: Exported) -> None:
    first, second = exported.output.splitlines()
    for line, path in ((first, exported.onnx), (second, exported.pt2)):
        assert line.startswith(f"{path}: ")
        assert line.endswith("from PyTorch (9 photographs, batches of 1 and 8)")


def test_a_wrong_export_is_not_written(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bias of one layer is lost on the way, as exporters have lost some; the old file stays."""
    whole = export.make_pt2

    def lossy(classifier: export.Classifier, *rest: object) -> object:
        with torch.no_grad():
            classifier.model.head.bias[0] += 0.01
        return whole(classifier, *rest)  # type: ignore[arg-type]

    invoke("export", trained.run, "--pt2", "model.pt2")
    old = Path("model.pt2").read_bytes()
    monkeypatch.setattr(export, "make_pt2", lossy)
    result = invoke("export", trained.run, "--pt2", "model.pt2", exit=1)
    assert "model.pt2 is not written: its probabilities differ from PyTorch's by up to 0.00" in result.output
    assert Path("model.pt2").read_bytes() == old


def test_nan_is_no_agreement() -> None:
    wanted = np.full((2, 5), 0.2, np.float32)
    assert not export.largest_difference(wanted * np.float32(np.nan), wanted) <= export.TOLERANCE
    assert export.largest_difference(wanted, wanted) == 0


def test_weights_alone_are_checked_on_noise_and_that_is_said(trained: Trained) -> None:
    result = invoke("export", trained.run / "model.safetensors", "--pt2", "model.pt2")
    assert "WARNING: checked on noise, not on photographs" in result.output
    assert "(9 images of noise, batches of 1 and 8)" in result.output


def test_a_missing_package_is_one_line_with_its_cure(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = invoke("export", trained.run, "--onnx", "model.onnx", exit=1)
    assert "pip install 'fundus-grading[onnx]'" in result.output
    assert len(result.output.splitlines()) == 1
    assert not Path("model.onnx").exists()


def test_nothing_to_write_is_wrong_usage(trained: Trained) -> None:
    assert "--onnx FILE" in invoke("export", trained.run, exit=2).output


def test_a_place_that_cannot_be_written_is_one_line(trained: Trained) -> None:
    Path("file").touch()
    result = invoke("export", trained.run, "--pt2", "file/model.pt2", exit=1)
    assert "file/model.pt2: cannot be written" in result.output
