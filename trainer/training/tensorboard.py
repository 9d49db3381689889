"""accuracy.csv as TensorBoard events, if the extra `tensorboard` is installed."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

from trainer.run_folder import EpochRow, RunFolder

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


class Events:
    """Writes the epochs of a run below runs/NAME/tensorboard/, one step per epoch. Without the extra it writes nothing.

    TensorBoard cannot write below a name that is not UTF-8; then it writes nothing and warns. Events of an earlier
    process are replaced by `history`, so they are always the rows of accuracy.csv, also after a kill and a resume.
    """

    def __init__(self, run: RunFolder, history: Sequence[EpochRow]) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is None:
            return
        folder = str(run.events)
        if folder != folder.encode("utf-8", "replace").decode():
            logger.warning(
                f"{run.events}: TensorBoard writes no folder whose name is not UTF-8; accuracy.csv has the same figures"
            )
            return
        from torch.utils.tensorboard import SummaryWriter

        for old in run.events.glob("events.out.tfevents.*"):
            old.unlink()
        self._clock = run.config.stat().st_mtime  # TensorBoard's time axis is then that of training, pauses left out
        self._writer = SummaryWriter(folder)
        for row in history:
            self.add(row)

    def add(self, row: EpochRow) -> None:
        """A row of accuracy.csv."""
        if self._writer is None:
            return
        self._clock += row.seconds
        for column, tag in TAGS.items():
            if (value := getattr(row, column)) is not None:
                self._writer.add_scalar(tag, value, row.epoch, walltime=self._clock)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
