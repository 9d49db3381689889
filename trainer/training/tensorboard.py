"""A run as TensorBoard events: accuracy.csv, settings, photographs, results; with the extra `tensorboard`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainer.config import FitConfig
from trainer.distributed.process_group import from_main, is_main
from trainer.evaluation.evaluate import Evaluation
from trainer.run_folder import EpochRow, RunFolder
from trainer.training.learner import Learner

logger = logging.getLogger(__name__)

TAGS: Final = {
    "loss_train": "loss/train",
    "loss_val": "loss/val",
    "acc_train": "accuracy/train",
    "acc_val": "accuracy/val",
    "acc_test": "accuracy/test",
    "kappa_val": "kappa/val",
    "lr": "lr",
    "images_per_second": "images_per_second",
}
"""Column of accuracy.csv -> its tag in TensorBoard. Tags with the same prefix share a panel."""


FINAL: Final = ("accuracy", "balanced_accuracy", "kappa", "auc", "sensitivity", "specificity", "referable_auc")
"""Metrics of the kept weights, 0 to 1; kappa -1 to 1. Their tags are final/NAME_SPLIT."""
PHOTOGRAPHS: Final = 16
"""On the picture of training photographs, at most."""


class Events:
    """Writes the events of a run into one file below runs/NAME/tensorboard/.

    Events of an earlier process are replaced by `history`, so they are always the rows of accuracy.csv, also after a
    kill and a resume.
    """

    def __init__(self, run: RunFolder, history: Sequence[EpochRow]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in run.events.glob("events.out.tfevents.*"):
            old.unlink()
        self._clock = run.config.stat().st_mtime  # TensorBoard's time axis is then that of training, pauses left out
        self._writer: Any = SummaryWriter(str(run.events))
        for row in history:
            self.add(row)

    def add(self, row: EpochRow) -> None:
        """A row of accuracy.csv, one step per epoch."""
        self._clock += row.seconds
        for column, tag in TAGS.items():
            if (value := getattr(row, column)) is not None:
                self._writer.add_scalar(tag, value, row.epoch, walltime=self._clock)
        self._writer.flush()

    def add_settings(self, config: FitConfig) -> None:
        """The resolved settings, as hyper-parameters; those that are None are left out."""
        from torch.utils.tensorboard.summary import hparams

        metrics = dict.fromkeys((_final(name, split) for split in ("val", "test") for name in FINAL), 0.0)
        experiment, start, _ = hparams(asdict(config), metrics)  # type: ignore[no-untyped-call]
        for summary in (experiment, start):
            self._writer.file_writer.add_summary(summary, walltime=self._clock)

    def add_photographs(self, epoch: int, images: Tensor) -> None:
        """Training photographs in rows. images: uint8 (n, 3, s, s), RGB. epoch: from 1."""
        self._writer.add_image("photographs/train", tiled(images[:PHOTOGRAPHS]), epoch, walltime=self._clock)

    def add_results(self, run: RunFolder, kept: int, measured: Mapping[str, Evaluation]) -> None:
        """The metrics of the kept weights by split, and the drawn confusion matrices. kept: their epoch, from 1."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard.summary import hparams

        for split, evaluation in measured.items():
            for name in FINAL:
                if (value := getattr(evaluation.results.metrics, name)) is not None:
                    self._writer.add_scalar(_final(name, split), value, kept, walltime=self._clock)
            png = run.confusion_drawing(split).read_bytes()
            width, height = (int.from_bytes(png[place : place + 4], "big") for place in (16, 20))  # as every PNG has it
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
            picture = Summary(value=[Summary.Value(tag=f"confusion/{split}", image=image)])
            self._writer.file_writer.add_summary(picture, kept, walltime=self._clock)
        *_, end = hparams({}, {})  # type: ignore[no-untyped-call]
        self._writer.file_writer.add_summary(end, walltime=self._clock)

    def close(self) -> None:
        self._writer.close()


@contextmanager
def open_events(run: RunFolder, history: Sequence[EpochRow]) -> Iterator[Events | None]:
    """The events of a run, with its settings; closed when the block ends. None where none can be written: on other
    ranks than 0, without the extra, and, with a warning, if the folder's name is not UTF-8."""
    if not is_main() or find_spec("tensorboard") is None or not _is_utf8(run.events):
        yield None
        return
    events = Events(run, history)
    try:
        events.add_settings(run.read_config().resolved)  # as it is written: a URL there has lost its secrets
        yield events
    finally:
        events.close()


def add_photographs(events: Events | None, learner: Learner) -> None:
    """Adds training photographs as the network sees them. All ranks call it, for mixup takes the photographs of all."""
    if from_main(lambda: events is not None):
        epoch, images = learner.first_images()
        if events:
            events.add_photographs(epoch, images)


def _is_utf8(folder: Path) -> bool:
    name = str(folder)
    if name == name.encode("utf-8", "replace").decode():
        return True
    logger.warning(f"{folder}: TensorBoard writes no folder whose name is not UTF-8; accuracy.csv has the same figures")
    return False


def tiled(images: Tensor) -> Tensor:
    """uint8 (3, h, w): the images (n, 3, s, s) in rows, as a square of them if n is one; black where there is none."""
    n, channels, size, _ = images.shape
    columns = ceil(sqrt(n))
    rows = ceil(n / columns)
    cells = torch.zeros(rows * columns, channels, size, size, dtype=torch.uint8)
    cells[:n] = images
    return cells.view(rows, columns, channels, size, size).permute(2, 0, 3, 1, 4).reshape(channels, rows * size, -1)


def _final(name: str, split: str) -> str:
    return f"final/{name}_{split}"
