"""`trainer predict`: a table of predicted grades, one row for each photograph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from pipeline.errors import RunError, SourceError
from pipeline.grades import GRADES
from pipeline.photos.discovery import Refusal
from pipeline.storage.atomic import is_stream, write_atomically
from trainer.console import print_table, warn
from trainer.inference.fellows import EyesTable
from trainer.inference.in_words import in_words
from trainer.inference.inputs import gather
from trainer.inference.predictions import Tally, refusals_csv, write_predictions
from trainer.inference.predictor import Predictor
from trainer.kinds import rejects_of
from trainer.network.decision import DecisionRule

SHOWN: Final = 10
"""Number of refused photographs that are printed; the file has all."""


def predict(
    run: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    tta: bool | None,
    device_name: str,
    workers: int | None,
    defer: float | None = None,
    eyes: Path | None = None,
) -> None:
    """Writes OUT with a row for each photograph, and beside it NAME_rejects.csv with a row for each refused one.

    defer: fraction of the validation photographs that would be left to a human, 0 to 1; None: none is. eyes: a table
    of eyes, see `EyesTable`; None: eyes are read from names, and from caches. Prints the prediction in sentences if
    there is one photograph, else numbers by grade and flag. If OUT is a FIFO or a device, it gets the rows only, and
    all refused photographs are printed. Raises RunError for weights that cannot be used, SourceError if a path does not
    exist or no photograph could be predicted.
    """
    predictor = Predictor(run, device_name, workers, tta)
    if eyes and not predictor.takes_fellow:
        raise RunError(f"{run} takes one eye, and --eyes is for runs of --fellow-eye; leave it out")
    try:
        if defer is not None:
            predictor.rule.least_confidence(defer)
    except ValueError as error:
        raise RunError(f"{run}: {error}") from error
    photographs, refused, own_folders = gather(paths, predictor.metadata.recipe)
    if eyes:
        photographs = EyesTable.read(eyes).named(photographs)
    say_own_folders(own_folders)
    found = len(photographs) + len(refused)
    streams = is_stream(out)
    rejects = None if streams else rejects_of(out)
    try:
        if not streams:
            out.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(out) as file:
            tally = write_predictions(file, predictor, photographs, defer)
            refused += tally.refused
            if rejects:
                with write_atomically(rejects) as rejected:
                    rejected.write(refusals_csv(refused))
            say_refused(refused, rejects)
            if not tally.grades:
                raise SourceError(f"none of {found} photographs could be predicted{see_file(rejects)}")
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"found {found} = {tally.grades.total()} predicted + {len(refused)} rejected")
    if found == 1 and tally.last:
        for line in in_words(tally.last):
            click.echo(line)
        if defer is not None:
            click.echo(f"left to a human: {', '.join(tally.reasons) or 'no'}")
    else:
        say_summary(tally, predictor.rule, defers=defer is not None)
    click.echo(f"predictions: {out}")


def say_summary(tally: Tally, rule: DecisionRule, defers: bool) -> None:
    """Prints numbers of photographs by predicted grade and by flag."""
    rows = [(f"{grade} {name}", str(tally.grades[grade])) for grade, name in enumerate(GRADES)]
    print_table(["grade", "photographs"], rows)
    threshold = f"{rule.threshold:.4g}"
    if rule.fellow:
        alone = tally.grades.total() - tally.paired
        click.echo(f"graded with the other eye {tally.paired}, alone {alone}")
        threshold = f"{rule.fellow.threshold:.4g} with the other eye, {threshold} alone"
    click.echo(f"referable (grade 2 or worse, p_referable at least {threshold}): {tally.referable}")
    if defers:
        click.echo(f"left to a human: {tally.deferred}")
        for reason, count in sorted(tally.reasons.items()):
            click.echo(f"  {reason}: {count}")
    for flag, count in sorted(tally.flags.items()):
        click.echo(f"flagged {flag}: {count}")


def say_own_folders(own_folders: Sequence[Refusal]) -> None:
    """Prints the folders among the photographs that this program wrote, whose pictures are left out."""
    for each in own_folders:
        click.echo(f"left out: {each.source}, {each.reason} of this program", err=True)


def say_refused(refused: Sequence[Refusal], rejects: Path | None) -> None:
    """Prints the refused photographs: the first SHOWN of them, or all if no file lists them."""
    shown = SHOWN if rejects else len(refused)
    if refused:
        warn(f"{len(refused)} photographs refused{see_file(rejects)}")
    for refusal in refused[:shown]:
        click.echo(f"  {refusal.source}: {refusal.reason}", err=True)
    if len(refused) > shown:
        click.echo(f"  and {len(refused) - shown} more", err=True)


def see_file(rejects: Path | None) -> str:
    return f", see {rejects}" if rejects else ""
