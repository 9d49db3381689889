import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.trainer.conftest import Trained, invoke
from tests.trainer.plugged import MODULE
from trainer.run_folder import RunFolder
from trainer.training import tensorboard as events
from trainer.training.learner import Learner
from trainer.training.tensorboard import FINAL, TAGS, open_events

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


def test_tensorboard_shows_the_settings_and_the_results(
    trainer: Fit, tiny_cache: Callable[..., Path], tmp_path: Path
) -> None:
    """In the same folder: the hyper-parameters, the final figures, and the drawn confusion matrices."""
    options = ("--weights", "none", "--epochs", 2, "--batch", 8, "--device", "cpu", "--loader", "torchvision")
    invoke("fit", "--cache", tiny_cache(), *options, "--lr", 0.03, "--tta", "--run", "run", rendered=True)
    run = RunFolder(tmp_path / "run")
    assert len(list(run.events.iterdir())) == 1
    loaded = EventAccumulator(str(run.events))
    loaded.Reload()
    content = loaded.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    settings = json.loads(run.config.read_text())["resolved"]
    known = {name: value for name, value in settings.items() if value is not None}
    found = {name: getattr(value, value.WhichOneof("kind") or "") for name, value in shown.items()}
    assert found == known
    assert (found["lr"], found["tta"], found["model"]) == (0.03, True, "resnet18")
    content = loaded.summary_metadata["_hparams_/experiment"].plugin_data.content
    columns = {each.name.tag for each in HParamsPluginData.FromString(content).experiment.metric_infos}
    summary = json.loads(run.summary.read_text())
    for split in ("val", "test"):
        for name in FINAL:
            (event,) = loaded.Scalars(f"final/{name}_{split}")
            assert event.value == pytest.approx(summary[split][name], rel=1e-6)
            assert event.step == summary["kept_epoch"]
            assert f"final/{name}_{split}" in columns
        (picture,) = loaded.Images(f"confusion/{split}")
        assert picture.encoded_image_string == run.confusion_drawing(split).read_bytes()
        with Image.open(run.confusion_drawing(split)) as drawn:
            assert (picture.width, picture.height) == drawn.size
    assert "_hparams_/session_end_info" in loaded.summary_metadata


def test_tensorboard_shows_training_photographs_as_training_sees_them(
    trainer: Fit, tiny_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch of the first epoch for all layers, turned, changed by a function of the user's and mixed."""
    stepped: list[torch.Tensor] = []
    take = Learner._mixed

    def keep(self: Learner, *each: Any) -> Any:
        mixed = take(self, *each)
        stepped.append(mixed.images)
        return mixed

    monkeypatch.setattr(Learner, "_mixed", keep)
    options = ("--weights", "none", "--epochs", 1, "--batch", 5, "--device", "cpu", "--loader", "torchvision")
    invoke("fit", "--cache", tiny_cache(), *options, "--augment", f"{MODULE}:brighter", "--mixup", 0.4, "--run", "run")
    loaded = EventAccumulator(str(tmp_path / "run/tensorboard"))
    loaded.Reload()
    (picture,) = loaded.Images("photographs/train")
    shown = np.asarray(Image.open(BytesIO(picture.encoded_image_string)))
    assert shown.shape == (2 * 32, 3 * 32, 3)
    assert picture.step == 1
    first_step = stepped[1].float().round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # [0] was drawn
    for number, image in enumerate(first_step):
        row, column = divmod(number, 3)
        assert np.array_equal(shown[32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)], image)
    assert not shown[32:, 64:].any()


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
    with open_events(run, pd.read_csv(trained.run / "accuracy.csv").to_dict("records")) as shown:
        assert shown is None
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
