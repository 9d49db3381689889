"""`trainer serve` says in one line why it cannot; what it shows is tried in tests/trainer/serving."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import trainer.serving
from tests.trainer.conftest import Trained, invoke
from trainer.network.model import load_model, save_model
from trainer.run_folder import RunFolder


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_package_that_is_missing_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(trainer, "serving", trainer.serving)  # put back in the end
    for name in [each for each in sys.modules if each.startswith(("trainer.serving", f"{package}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = invoke("serve", "nowhere", exit=1)  # a run that is there would be served, and never return
    assert result.output == f"Error: trainer serve needs {package}: pip install 'fundus-grading[serve]'\n"


def test_weights_that_do_not_say_how_sure_they_are(trained: Trained, tmp_path: Path) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    save_model(tmp_path / "old.safetensors", model, replace(metadata, confidence=None))
    result = invoke("serve", tmp_path / "old.safetensors", "--defer", 0.2, "--device", "cpu", exit=1)
    assert "the weights do not say how sure they are" in result.output
    assert len(result.output.splitlines()) == 1
