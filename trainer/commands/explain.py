"""`trainer explain`: where in photographs the evidence for a grade lies, as pictures."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.cache.shards import encode_key
from pipeline.errors import SourceError
from pipeline.grades import GRADES
from pipeline.photos.contact_sheet import SIDE, Tile, draw_sheet, encoded
from pipeline.photos.discovery import Refusal
from pipeline.storage.artifacts import EXPLAINED, EXPLAINED_COLUMNS, SHEET
from pipeline.storage.atomic import write_whole
from pipeline.storage.csv_files import to_csv
from pipeline.storage.outputs import recorded
from trainer.commands.predict import say_ours, say_refused
from trainer.inference.gradcam import grad_cam, overlay
from trainer.inference.inputs import gather
from trainer.inference.predictor import Predictor
from trainer.kinds import is_explained_file

SHOWN_SIDE: Final = 512
"""Of a picture, pixels, at least: training images may be too small to look at."""
REJECTS: Final = "rejects.csv"
NOT_YET: Final = ("",) * (len(EXPLAINED_COLUMNS) - 1)
LONGEST: Final = 200
"""Bytes of a picture's name; file systems allow 255."""
ON_SHEET: Final = 240
"""Photographs on the contact sheet, 12 abreast."""


def explain(
    run: Path, paths: Sequence[Path], out: Path, *, grade: int | None, device_name: str, workers: int | None
) -> None:
    """Writes OUT/<id>.jpg for each photograph, as the network sees it and again with the Grad-CAM overlay beside it,
    and OUT/contact_sheet.png; refusals go to OUT/rejects.csv. OUT/explained.csv lists all these files: what an earlier
    one lists and this one does not is removed, so that the folder shows one result.

    grade: the grade to explain; each photograph's predicted one where None. Raises RunError for weights that cannot be
    used, SourceError where a path does not exist or no photograph could be read.
    """
    predictor = Predictor(run, device_name, workers)
    photographs, refused, ours = gather(paths, predictor.about.recipe)
    say_ours(ours)
    found = len(photographs) + len(refused)
    tiles: dict[int, list[Tile]] = defaultdict(list)
    by_grade, mute = Counter[int](), 0
    rows: list[tuple[object, ...]] = [(name, *NOT_YET) for name in (EXPLAINED, SHEET, REJECTS)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        stale = set(recorded(out / EXPLAINED))
        # Before the first picture: of a command that is killed here, the next knows which files are its own.
        names = [*stale, *(picture_name(each.id) for each in photographs)]
        write_record(out, [*rows, *((name, *NOT_YET) for name in names)])
        for batch in predictor.batches(photographs, "explaining"):
            refused += batch.refused
            predictions = predictor.predict(batch)
            grades = [each.grade if grade is None else grade for each in predictions]
            if not predictions:
                continue
            heats = grad_cam(predictor.model, batch.images, torch.tensor(grades))
            for each, its, heat, image in zip(predictions, grades, heats, batch.images.cpu(), strict=True):
                drawn = _beside(image.permute(1, 2, 0).numpy(), heat)
                name, probability = picture_name(each.photograph.id), float(each.probabilities[its])
                with write_whole(out / name) as file:
                    file.write(encoded(Image.fromarray(drawn), "JPEG", "what a network looked at"))
                rows.append((name, each.photograph.id, each.photograph.source, each.grade, its, probability))
                mute += not heat.any()
                if by_grade.total() < ON_SHEET:
                    small = cv2.resize(drawn[:, drawn.shape[0] :], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                    note = f"p{its} {probability:.2f}"
                    note += "" if each.grade == its else f", graded {each.grade}"
                    tiles[its].append(Tile(np.asarray(small, np.uint8), each.photograph.id, note))
                by_grade[its] += 1
        for name in stale - {str(row[0]) for row in rows}:
            if is_explained_file(out / name):  # a record proves nothing by itself
                (out / name).unlink(missing_ok=True)
        with write_whole(out / REJECTS) as file:
            file.write(to_csv(sorted(refused), Refusal._fields))
        say_refused(refused, out / REJECTS)
        if not by_grade:
            (out / SHEET).unlink(missing_ok=True)  # an older result's
            write_record(out, [row for row in rows if row[0] != SHEET])
            raise SourceError(f"none of {found} photographs could be explained, see {out / REJECTS}")
        what = "explained" if grade is not None else "predicted"
        groups = {f"{what} {its} {GRADES[its]}: {count}": tiles[its] for its, count in sorted(by_grade.items())}
        with write_whole(out / SHEET) as file:
            file.write(encoded(draw_sheet(groups), "PNG", "a sheet of explained photographs"))
        write_record(out, rows)
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"found {found} = {by_grade.total()} explained + {len(refused)} rejected")
    if mute:
        click.echo(f"in {mute} of them nothing speaks for the grade: no place is tinted")
    if by_grade.total() > ON_SHEET:
        click.echo(f"{SHEET} shows the first {ON_SHEET}; its headings count all")
    click.echo(f"pictures: {out}/ ({SHEET}, a .jpg for each photograph, listed in {EXPLAINED})")


def picture_name(id: str) -> str:
    """Of a photograph's picture: its id, or of one that is too long for a file system its beginning and a digest."""
    key = encode_key(id)
    if len(key) > LONGEST:
        key = f"{key[: LONGEST - 17]}-{sha256(id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    return f"{key}.jpg"


def write_record(out: Path, rows: Sequence[Sequence[object]]) -> None:
    with write_whole(out / EXPLAINED) as file:
        file.write(to_csv(sorted(rows, key=lambda row: str(row[0])), EXPLAINED_COLUMNS))


def _beside(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image (s, s, 3) and, right of it, its overlay: (t, 2 t, 3) with t at least SHOWN_SIDE."""
    side = max(SHOWN_SIDE, len(image))
    large = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.hstack([large, overlay(large, np.asarray(cv2.resize(heat, (side, side)), np.float32))])
