"""accuracy.csv as TensorBoard events, where the extra `tensorboard` is installed."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from trainer.console import warn
from trainer.run_folder import RunFolder

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
"""Column of accuracy.csv -> what TensorBoard calls it; a run's accuracies and losses then share a panel each."""


class Events:
    """Writes a run's epochs below runs/NAME/tensorboard/, a step an epoch; nothing without the extra.

    Nothing either, and that is said, below a name that is not UTF-8: TensorBoard cannot.

    What an earlier process wrote is replaced by `history`, so that the events are accuracy.csv's rows, no more and no
    fewer, however often the run was killed and resumed, and from whichever checkpoint.
    """

    def __init__(self, run: RunFolder, history: Sequence[Mapping[str, Any]]) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is None:
            return
        folder = str(run.events)
        if folder != folder.encode("utf-8", "replace").decode():
            warn(
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

    def add(self, row: Mapping[str, Any]) -> None:
        """A row of accuracy.csv."""
        if self._writer is None:
            return
        self._clock += row["seconds"]
        for column, tag in TAGS.items():
            if row[column] is not None:
                self._writer.add_scalar(tag, row[column], row["epoch"], walltime=self._clock)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
