"""docs/python.md: its commands and its blocks, word for word and in order, do what it says."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tools.cli import main as tools
from trainer.cli import main as trainer

PAGE = (Path(__file__).resolve().parents[1] / "docs/python.md").read_text()
COMMANDS = re.findall(r"^    ((?:tools|trainer) .*)$", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # a DataLoader's own default, beside our threads
@pytest.mark.filterwarnings("ignore:.*:UserWarning:webdataset")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the page leaves pictures open, as people do
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset", reason="needs the extra dev")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        result = CliRunner().invoke({"tools": tools, "trainer": trainer}[program], arguments)
        assert result.exit_code == 0, result.output
    page: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, page)

    manifest = page["cache"].manifest
    train = manifest[manifest["split"] == "train"]
    assert set(manifest["split"]) == {"train", "val", "test"}
    assert bytes(page["jpeg"]).startswith(b"\xff\xd8")
    assert sorted(page["known"]) == sorted(manifest.loc[manifest["split"] == "val", "grade"])
    assert len(page["dataset"]) == len(page["turned"]) == len(train)
    assert page["image"].shape == (3, 64, 64)
    # One shard, and of it the photographs to train on, by any way.
    assert page["labels"] == train["grade"].tolist() == [grade for _, grade in page["samples"]]
    assert len(page["pictures"]) == len(train)
    result, one, many = page["result"], page["one"], page["many"]
    assert result.probabilities.shape == many.probabilities.shape == (2, 5)
    assert np.abs(many.probabilities - result.probabilities).max() < 0.02
    assert np.abs(one.probabilities - many.probabilities[:1]).max() < 1e-5


def test_no_block_is_left_out() -> None:
    assert len(COMMANDS) == 3
    assert len(BLOCKS) == PAGE.count("```python") == 8
