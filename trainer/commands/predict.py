"""`trainer predict`: grades for photographs, a row each as they come."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from pipeline.errors import SourceError
from pipeline.grades import GRADES
from pipeline.photos.discovery import Refusal
from pipeline.storage.atomic import is_stream, write_whole
from pipeline.storage.csv_files import csv_lines, to_csv
from trainer.console import print_table, warn
from trainer.inference.inputs import gather
from trainer.inference.predictor import Prediction, Predictor
from trainer.kinds import PROBABILITIES, rejects_of

COLUMNS: Final = ("id", "source", "predicted", *PROBABILITIES, "referable", "p_referable", "flags")
SHOWN: Final = 10
"""Refusals that are named; the file has all."""


def predict(
    run: Path, paths: Sequence[Path], out: Path, *, tta: bool | None, device_name: str, workers: int | None
) -> None:
    """Writes OUT, a row for each photograph, and beside it OUT's name + _rejects.csv, one for each that is refused.

    Into a FIFO or a device only the rows go, and all refused photographs are said. Rows are written batch by batch, so
    a thousand photographs need no more memory than a hundred. Raises RunError for weights that cannot be used,
    SourceError where a path does not exist or no photograph could be predicted.
    """
    predictor = Predictor(run, device_name, workers, tta)
    threshold = predictor.rule.threshold
    photographs, refused, ours = gather(paths, predictor.about.recipe)
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
            for batch in predictor.batches(photographs, "predicting"):
                refused += batch.refused
                predictions = predictor.predict(batch)
                file.write(csv_lines(cells(each, threshold) for each in predictions))
                grades.update(each.grade for each in predictions)
                referable += sum(each.referable(threshold) for each in predictions)
                flags.update(flag for each in predictions for flag in each.flags)
            if rejects:
                with write_whole(rejects) as rejected:
                    rejected.write(to_csv(sorted(refused), Refusal._fields))
            say_refused(refused, rejects)
            if not grades:
                raise SourceError(f"none of {found} photographs could be predicted{seen_in_file(rejects)}")
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"found {found} = {grades.total()} predicted + {len(refused)} rejected")
    rows = [(f"{grade} {name}", str(grades[grade])) for grade, name in enumerate(GRADES)]
    print_table(["grade", "photographs"], rows)
    click.echo(f"referable (grade 2 or worse, p_referable at least {threshold:.4g}): {referable}")
    for flag, count in sorted(flags.items()):
        click.echo(f"flagged {flag}: {count}")
    click.echo(f"predictions: {out}")


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
