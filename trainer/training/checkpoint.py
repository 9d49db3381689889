"""Checkpoints: the state of a training, which last.pt stores for --resume."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.storage.atomic import write_atomically
from pipeline.storage.locks import replace
from trainer.network.torch_files import read_torch
from trainer.records import read
from trainer.run_folder import EpochRow, RunFolder

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """The progress of a training: `len(steps)` steps of epoch `epoch` are done; epochs count from 0 over both
    phases."""

    epoch: int = 0
    steps: list[Tensor] = field(default_factory=list)
    """For each step of the present epoch float32 (3,): summed loss, photographs graded right, photographs."""
    history: list[EpochRow] = field(default_factory=list)
    """The rows of accuracy.csv so far."""
    seconds: float = 0.0
    """Time that the present epoch had taken when the checkpoint was written."""
    trained: float = 0.0
    """The part of `seconds` that was spent in training steps."""
    stuck: int = 0
    """Number of last epochs in which the training was stuck (`trainer.training.stuck`)."""

    def sums(self) -> tuple[float, float, float]:
        """Summed loss, photographs graded right, and photographs, over the present epoch so far."""
        loss, right, photographs = torch.stack(self.steps).cpu().double().sum(dim=0).tolist()
        return loss, right, photographs

    @property
    def best(self) -> int:
        """Index in `history` of the epoch with the highest kappa on validation; if several, that of the lowest loss."""
        ranks = [(row.kappa_val, -row.loss_val) for row in self.history]
        return max(range(len(ranks)), key=ranks.__getitem__)

    def idle(self, first: int) -> int:
        """Number of epochs since the best one. Epochs before `first` do not count."""
        return len(self.history) - max(self.best + 1, first) if len(self.history) > first else 0


def save_checkpoint(run: RunFolder, progress: Progress, learner: dict[str, Any]) -> None:
    """Writes last.pt. The old one becomes previous.pt first, so one of the two is complete at any moment.

    learner: the learner's state. The learning rate is not part of it, because it follows from the step's number.
    """
    state = {
        "format": 1,
        "epoch": progress.epoch,
        "steps": torch.stack(progress.steps) if progress.steps else torch.empty(0, 3),
        "history": [row._asdict() for row in progress.history],
        "seconds": progress.seconds,
        "trained": progress.trained,
        "stuck": progress.stuck,
        **learner,
    }
    packed = BytesIO()  # torch.save to a full disk raises RuntimeErrors of its own
    torch.save(state, packed)
    if run.checkpoint.exists():
        replace(run.checkpoint, run.previous)
    with write_atomically(run.checkpoint) as file:
        file.write(packed.getbuffer())


def newest_checkpoint(run: RunFolder) -> tuple[Progress, dict[str, Any]] | None:
    """Reads last.pt, or previous.pt if last.pt is missing or damaged, which it warns of. None if both are missing.

    Raises RunError if no checkpoint is readable.
    """
    paths = [path for path in (run.checkpoint, run.previous) if path.exists()]
    for path in paths:
        try:
            return read_checkpoint(path)
        except RunError as error:
            if path == paths[-1]:
                raise
            logger.warning(f"{error.message}; going on from the one before, {paths[-1].name}")
    return None


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]]:
    """The progress, and the file's fields with the learner's state, on the CPU.

    Raises RunError if the file is damaged or not a checkpoint of `trainer fit`.
    """
    match read_torch(path):
        case {
            "format": 1,
            "phase": str(),
            "epoch": int(epoch),
            "steps": Tensor() as steps,
            "history": list(history),
            "model": dict(),
            "optimizer": dict(),
        } as state:
            with suppress(ValueError):  # a damaged row
                rows = [read(EpochRow, row) for row in history]
                progress = Progress(
                    epoch,
                    list(steps),
                    rows,
                    seconds=state.get("seconds", 0.0),
                    trained=state.get("trained", 0.0),
                    stuck=state.get("stuck", 0),
                )
                return progress, state
    raise RunError(f"{path} is not a checkpoint of `trainer fit`")
