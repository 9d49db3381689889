"""`trainer predict`: grades for photographs, a row each as they come."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import RunError, SourceError
from pipeline.grades import GRADES
from pipeline.photos.discovery import Refusal
from pipeline.storage.atomic import is_stream, write_whole
from pipeline.storage.csv_files import csv_lines, to_csv
from trainer.about import About, temperature_of
from trainer.calibration import probabilities as softmax
from trainer.console import print_table, track, warn
from trainer.cuts import predicted_grades
from trainer.device import choose_device, measuring_precision, to_device
from trainer.kinds import rejects_of
from trainer.model import Grader, load_model
from trainer.photographs import BATCH, Photograph, Rendered, gather, render
from trainer.run import weights_file
from trainer.sample import PROBABILITIES, p_referable
from trainer.views import mean_logits

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")
THRESHOLD: Final = 0.5
"""Of p_referable, where the weights carry no operating point."""
SHOWN: Final = 10
"""Refusals that are named; the file has all."""


class Prediction(NamedTuple):
    """A row of predictions.csv."""

    photograph: Photograph
    grade: int
    """The predicted one."""
    probabilities: NDArray[np.float32]  # (5,), summing to 1
    flags: tuple[str, ...]

    @property
    def p_referable(self) -> float:
        """That the grade is 2 or worse."""
        return float(p_referable(self.probabilities[None])[0])

    def referable(self, threshold: float) -> bool:
        return self.p_referable >= threshold


class User:
    """A run's weights, ready to be used on photographs."""

    def __init__(self, run: Path, device_name: str, workers: int | None, tta: bool | None = None) -> None:
        """`run`: a run folder or a model.safetensors. `tta`: see `probabilities`; None: as the weights were measured.

        Raises RunError where they cannot be used.
        """
        self.model, about = load_model(weights_file(run))
        self.about = about if tta is None else replace(about, tta=tta)
        self.device = torch.device(choose_device(device_name))
        self._workers = workers
        to_device(self.model, self.device)
        operating = self.about.operating
        self.threshold: Final = operating.threshold if operating else THRESHOLD
        if operating is None:
            warn(f"{run} carries no operating point: probabilities are not calibrated, the threshold is {THRESHOLD}")

    def batches(self, photographs: Sequence[Photograph], what: str) -> Iterator[Rendered]:
        """The photographs rendered, with a bar on a terminal."""
        rendered = render(photographs, self.about, device=self.device, workers=self._workers)
        yield from track(rendered, -(-len(photographs) // BATCH), what)

    def predict(self, batch: Rendered) -> list[Prediction]:
        """Raises RunError where the model's output is not finite."""
        if not batch.photographs:
            return []
        found = probabilities(self.model, batch.images, self.about)
        if not np.isfinite(found).all():
            raise RunError(f"the model's output for {batch.photographs[0].id} and others is not finite")
        grades = predicted_grades(found, self.about.cuts).tolist()
        return [Prediction(*row) for row in zip(batch.photographs, grades, found, batch.flags, strict=True)]


@torch.inference_mode()
def probabilities(model: Grader, images: Tensor, about: About) -> NDArray[np.float32]:
    """(n, 5), calibrated where the weights are, of images uint8 (n, 3, s, s), on the model's device.

    With `about.tta` of the mean over the eight symmetries of the square: a retina has no up or down, and left eyes
    mirror right ones.
    """
    model.eval()
    with measuring_precision(images.device):
        logits = mean_logits(model, images) if about.tta else model(images)
    return softmax(logits.float().cpu().double().numpy(), temperature_of(about.operating))


def predict(
    run: Path, paths: Sequence[Path], out: Path, *, tta: bool | None, device_name: str, workers: int | None
) -> None:
    """Writes OUT, a row for each photograph, and beside it OUT's name + _rejects.csv, one for each that is refused.

    Into a FIFO or a device only the rows go; what else there is to say, all refused photographs included, goes to
    stderr. Rows are written batch by batch, so a thousand photographs need no more memory than a hundred. Raises
    RunError for weights that cannot be used, SourceError where a path does not exist or no photograph could be
    predicted.
    """
    user = User(run, device_name, workers, tta)
    photographs, refused, ours = gather(paths, user.about.recipe)
    say_ours(ours)
    found = len(photographs) + len(refused)
    grades, flags = Counter[int](), Counter[str]()
    referable = 0
    streams = is_stream(out)
    rejects = None if streams else rejects_of(out)
    try:
        if not streams:
            out.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(out) as file:
            file.write(csv_lines([COLUMNS]))
            for batch in user.batches(photographs, "predicting"):
                refused += batch.refused
                predictions = user.predict(batch)
                file.write(csv_lines(cells(each, user.threshold) for each in predictions))
                grades.update(each.grade for each in predictions)
                referable += sum(each.referable(user.threshold) for each in predictions)
                flags.update(flag for each in predictions for flag in each.flags)
            if rejects:
                with write_whole(rejects) as rejected:
                    rejected.write(to_csv(sorted(refused), Refusal._fields))
            say_refused(refused, rejects)
            if not grades:
                raise SourceError(f"none of {found} photographs could be predicted{seen_in_file(rejects)}")
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"found {found} = {grades.total()} predicted + {len(refused)} rejected", err=streams)
    rows = [(f"{grade} {name}", str(grades[grade])) for grade, name in enumerate(GRADES)]
    print_table(["grade", "photographs"], rows, err=streams)
    click.echo(f"referable (grade 2 or worse, p_referable at least {user.threshold:.4g}): {referable}", err=streams)
    for flag, count in sorted(flags.items()):
        click.echo(f"flagged {flag}: {count}", err=streams)
    click.echo(f"predictions: {out}", err=streams)


def cells(prediction: Prediction, threshold: float) -> tuple[object, ...]:
    """A row of predictions.csv."""
    photograph, grade, p, flags = prediction
    referable = int(prediction.referable(threshold)), prediction.p_referable
    return (photograph.id, photograph.source, grade, *p, *referable, " ".join(flags))


def say_ours(ours: Sequence[Refusal]) -> None:
    """What lies among the photographs and is none, for this program made it."""
    for each in ours:
        click.echo(f"left out: {each.source}, {each.reason} of this program", err=True)


def say_refused(refused: Sequence[Refusal], rejects: Path | None) -> None:
    """The first of them by name; all where there is no file that lists them."""
    shown = SHOWN if rejects else len(refused)
    if refused:
        warn(f"{len(refused)} photographs refused{seen_in_file(rejects)}")
    for refusal in refused[:shown]:
        click.echo(f"  {refusal.source}: {refusal.reason}", err=True)
    if len(refused) > shown:
        click.echo(f"  and {len(refused) - shown} more", err=True)


def seen_in_file(rejects: Path | None) -> str:
    return f", see {rejects}" if rejects else ""
