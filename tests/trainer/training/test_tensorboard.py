import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.conftest import Trained
from trainer.run_folder import RunFolder
from trainer.training import tensorboard as events
from trainer.training.tensorboard import TAGS, Events

Fit = Callable[..., Result]


def read(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: tag -> (step, value) in order."""
    loaded = EventAccumulator(str(run / "tensorboard"))
    loaded.Reload()
    return {
        tag: [(event.step, event.value) for event in loaded.Scalars(tag)]
        for tag in loaded.Tags()["scalars"]
        if not tag.startswith("final/")
    }


def check_equal_to_table(run: Path) -> None:
    table, shown = pd.read_csv(run / "accuracy.csv"), read(run)
    assert set(shown) == {TAGS[column] for column in TAGS if table[column].notna().any()}
    for column, tag in TAGS.items():
        if tag in shown:
            assert shown[tag] == [
                (epoch, pytest.approx(value, rel=1e-6))
                for epoch, value in zip(table["epoch"], table[column], strict=True)
            ]


def test_tensorboard_shows_accuracy_csv(trained: Trained) -> None:
    check_equal_to_table(trained.run)


def test_a_resumed_run_shows_every_epoch_once(trained: Trained, trainer: Fit, tmp_path: Path) -> None:
    """Killed after the first of two epochs, with events of the second on disk already."""
    import torch

    run = trained.unfinished("run")
    state = torch.load(run / "previous.pt", weights_only=True)
    assert len(state["history"]) == 1
    (run / "previous.pt").rename(run / "last.pt")
    trainer("fit", "--run", "run", "--resume")
    check_equal_to_table(run)
    assert [step for step, _ in read(run)["loss/train"]] == [1, 2]
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_without_the_extra_nothing_is_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    run = RunFolder(tmp_path)
    run.config.write_text(json.dumps({}))
    shown = Events(run, pd.read_csv(trained.run / "accuracy.csv").to_dict("records"))
    shown.close()
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
