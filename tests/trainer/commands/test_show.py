"""What weights are is read from their header, without torch."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.conftest import Trained, invoke
from trainer.network.model import Grader, load_model, save_model
from trainer.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]


def test_torch_is_not_loaded(trained: Trained) -> None:
    script = (
        "import sys; from trainer.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torch', 'torchvision', 'nvidia', 'sklearn', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "show", str(trained.run)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("whole", [True, False], ids=["run", "file"])
def test_json_says_what_is_there(trained: Trained, whole: bool) -> None:
    weights = RunFolder(trained.run).model
    facts = json.loads(invoke("show", trained.run if whole else weights, "--json").output)
    model, metadata = load_model(weights)
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["bytes"] == weights.stat().st_size
    assert facts["weights"]["parameters"] == sum(parameter.numel() for parameter in Grader("resnet18").parameters())
    assert facts["weights"]["layers"] == sum(parameter.ndim > 1 for parameter in model.parameters())
    assert (facts["model"], facts["size"], facts["recipe"]) == (
        metadata.model,
        metadata.size,
        metadata.recipe.as_dict(),
    )
    assert metadata.operating is not None
    assert facts["operating"]["threshold"] == metadata.operating.threshold
    assert facts["seen"]["photographs"] == 20
    assert facts["run"]["cache_digest"] == RunFolder(trained.run).read_config().cache_digest


def test_text_has_the_same(trained: Trained) -> None:
    facts = json.loads(invoke("show", trained.run, "--json").output)
    text = invoke("show", trained.run).output
    for wanted in (facts["sha256"], f"{facts['bytes']:,}", "resnet18", "11,179,077 parameters", "2 moderate",
                   facts["run"]["cache_digest"], f"{facts['operating']['threshold']:.4g}", "quality 95"):  # fmt: skip
        assert wanted in text


def test_weights_that_lie_elsewhere_have_no_run(trained: Trained) -> None:
    Path("alone").mkdir()
    Path("alone/mine.safetensors").write_bytes(RunFolder(trained.run).model.read_bytes())
    assert json.loads(invoke("show", "alone/mine.safetensors", "--json").output)["run"] is None
    assert "cache digest" not in invoke("show", "alone/mine.safetensors").output


def test_weights_of_a_run_not_finished_say_so(trained: Trained) -> None:
    model, metadata = load_model(RunFolder(trained.run).model)
    save_model(Path("early.safetensors"), model, replace(metadata, operating=None, statistics=None))
    text = invoke("show", "early.safetensors").output
    assert "none: the run is unfinished" in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "does not exist"), ("eye.png", "damaged or not a model of ours"), ("empty", "is not a run"),
     ("cut.safetensors", "damaged or not a model of ours")],
)  # fmt: skip
def test_what_is_no_weights_is_one_line(trained: Trained, name: str, message: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("eye.png")
    Path("empty").mkdir()
    Path("cut.safetensors").write_bytes(RunFolder(trained.run).model.read_bytes()[:-1000])
    output = invoke("show", name, exit=1).output
    assert message in output
    assert len(output.splitlines()) == 1
