"""`trainer explain`: pictures that show where in a photograph the evidence for a grade lies."""

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.errors import RunError, SourceError
from pipeline.storage.artifacts import EXPLAINED, SHEET
from trainer.commands.predict import say_own_folders, say_refused
from trainer.console import warn
from trainer.inference.gradcam import Style
from trainer.inference.inputs import gather
from trainer.inference.predictor import Predictor
from trainer.reporting.explained import ON_SHEET, REJECTS, ExplainedFolder, coarseness


def explain(
    run: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    grade: int | None,
    style: Style,
    device_name: str,
    workers: int | None,
) -> None:
    """Writes a picture for each photograph into OUT; see trainer.reporting.explained.

    grade: the grade to explain, 0 to 4; None: the predicted one of each photograph. style: see `overlay`. Raises
    RunError for weights that cannot be used, SourceError if a path does not exist or no photograph could be read.
    """
    predictor = Predictor(run, device_name, workers)
    if not predictor.cells:
        raise RunError(f"{run}: {predictor.metadata.title} has no feature maps that could explain a prediction")
    recipe = predictor.metadata.recipe
    photographs, refused, own_folders = gather(paths, recipe)
    say_own_folders(own_folders)
    found = len(photographs) + len(refused)
    try:
        folder = ExplainedFolder(out, [each.id for each in photographs], recipe, predictor.cells, style)
        for batch in predictor.batches(photographs, "explaining"):
            refused += batch.refused
            for explanation in predictor.explain(batch, grade):
                folder.add(explanation)
        folder.finish(refused, "predicted" if grade is None else "explained")
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    say_refused(refused, out / REJECTS)
    explained = folder.by_grade.total()
    if not explained:
        raise SourceError(f"none of {found} photographs could be explained, see {out / REJECTS}")
    click.echo(f"found {found} = {explained} explained + {len(refused)} rejected")
    if warning := coarseness(predictor.cells):
        warn(warning)
    if predictor.takes_fellow:
        click.echo("each photograph by itself: the evidence in the patient's other eye is not shown")
    if folder.mute:
        click.echo(f"in {folder.mute} of them nothing speaks for the grade: no place is tinted")
    if explained > ON_SHEET:
        click.echo(f"{SHEET} shows the first {ON_SHEET}; its headings count all")
    click.echo(f"pictures: {out}/ ({SHEET}, a .jpg for each photograph, listed in {EXPLAINED})")
