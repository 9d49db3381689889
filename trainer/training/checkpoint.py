"""The state of a training, and last.pt, which stores it for --resume."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.storage.atomic import write_whole
from pipeline.storage.locks import replace
from trainer.console import warn
from trainer.network.torch_files import read_torch
from trainer.run_folder import RunFolder


@dataclass
class Progress:
    """Where training stands: in `epoch` (from 0 over both phases), after as many steps as `steps` has rows."""

    epoch: int = 0
    steps: list[Tensor] = field(default_factory=list)
    """Of the epoch under way, a step each: float32 (3,), summed loss, photographs graded right, photographs."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The rows of accuracy.csv so far."""
    seconds: float = 0.0
    """That the epoch under way had taken when the checkpoint was written."""
    trained: float = 0.0
    """Of these, between its steps' beginning and end."""
    stuck: int = 0
    """Epochs in a row, up to the last one, that saw nothing (`trainer.training.stuck`)."""

    def sums(self) -> tuple[float, float, float]:
        """`steps` added up over the epoch so far."""
        loss, right, photographs = torch.stack(self.steps).cpu().double().sum(dim=0).tolist()
        return loss, right, photographs

    @property
    def best(self) -> int:
        """Index in `history` of the epoch with the highest kappa on validation; of equals, the lowest loss there."""
        ranks = [(row["kappa_val"], -row["loss_val"]) for row in self.history]
        return max(range(len(ranks)), key=ranks.__getitem__)

    def idle(self, first: int) -> int:
        """Epochs since the best one, of those from `first` on."""
        return len(self.history) - max(self.best + 1, first) if len(self.history) > first else 0


def save_checkpoint(run: RunFolder, progress: Progress, learner: dict[str, Any]) -> None:
    """Writes last.pt, what it was before becomes previous.pt: at any moment one of the two is whole.

    `learner` is its state; what follows from a step's number, as the learning rate does, needs none.
    """
    state = {
        "format": 1,
        "epoch": progress.epoch,
        "steps": torch.stack(progress.steps) if progress.steps else torch.empty(0, 3),
        "history": progress.history,
        "seconds": progress.seconds,
        "trained": progress.trained,
        "stuck": progress.stuck,
        **learner,
    }
    packed = BytesIO()  # torch.save to a full disk raises RuntimeErrors of its own
    torch.save(state, packed)
    if run.checkpoint.exists():
        replace(run.checkpoint, run.previous)
    with write_whole(run.checkpoint) as file:
        file.write(packed.getbuffer())


def newest_checkpoint(run: RunFolder) -> tuple[Progress, dict[str, Any]] | None:
    """last.pt, or previous.pt where that is missing or (it warns) damaged; None where neither is there.

    Raises RunError where all there is is damaged.
    """
    paths = [path for path in (run.checkpoint, run.previous) if path.exists()]
    for path in paths:
        try:
            return read_checkpoint(path)
        except RunError as error:
            if path == paths[-1]:
                raise
            warn(f"{error.message}; going on from the one before, {paths[-1].name}")
    return None


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]]:
    """The progress, and the file's table with the learner's state, on the CPU.

    Raises RunError where the file is damaged or not a checkpoint of ours.
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
            times = state.get("seconds", 0.0), state.get("trained", 0.0)
            return Progress(epoch, list(steps), history, *times, state.get("stuck", 0)), state
    raise RunError(f"{path} is not a checkpoint of `trainer fit`")
