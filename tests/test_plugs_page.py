"""The functions of docs/plugs.md are ones that `trainer fit` takes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.config import FitConfig
from trainer.network.backbones import has_own_weights
from trainer.network.model import Grader
from trainer.training.augmentation import Draws, augmented
from trainer.training.trial import try_plugs

PAGE = (Path(__file__).resolve().parents[1] / "docs/plugs.md").read_text("utf-8")
CONFIG = FitConfig(device="cpu", precision="float32", size=32)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file, and beside it the page's ConvNeXt."""
    file, convnext = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "nets.py").write_text(f"{file}\n\n{convnext}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("nets")
def test_the_functions_of_the_page_are_taken() -> None:
    (line,) = re.findall(r"^    trainer fit (--model.*)$", PAGE, re.MULTILINE)
    options = line.split()
    named = {option.removeprefix("--"): name for option, name in zip(options[::2], options[1::2], strict=True)}
    try_plugs(replace(CONFIG, **named), Grader(named["model"]))
    for name in (named["model"], "nets:convnext"):
        assert has_own_weights(name)
    try_plugs(replace(CONFIG, model="nets:convnext"), Grader("nets:convnext"))

    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    changed = augmented(named["augment"], images, Draws(0, 0, range(40), torch.device("cpu")))
    assert 10 < (changed != images).any(3).any(2).any(1).sum() < 30
