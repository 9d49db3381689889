"""`trainer explain`: where in photographs the evidence for a grade lies, as pictures."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import SourceError
from pipeline.files import write_whole
from pipeline.grades import GRADES
from pipeline.manifest import to_csv
from pipeline.shards import encode_key
from pipeline.tiles import SIDE, Tile, draw_sheet
from pipeline.walk import Refusal
from trainer.gradcam import grad_cam, overlay
from trainer.photographs import gather
from trainer.predict import User, say_refused

SHOWN_SIDE: Final = 512
"""Of a picture, pixels, at least: training images may be too small to look at."""
ON_SHEET: Final = 240
"""Photographs on the contact sheet, 12 abreast."""


def explain(
    run: Path, paths: Sequence[Path], out: Path, *, grade: int | None, device_name: str, workers: int | None
) -> None:
    """Writes OUT/<id>.jpg for each photograph, as the network sees it and again with the Grad-CAM overlay beside it,
    and OUT/contact_sheet.png; refusals go to OUT/rejects.csv.

    grade: the grade to explain; each photograph's predicted one where None. Raises RunError for weights that cannot be
    used, SourceError where a path does not exist or no photograph could be read.
    """
    user = User(run, device_name, workers)
    photographs, refused = gather(paths, user.about.recipe)
    found = len(photographs) + len(refused)
    tiles: dict[int, list[Tile]] = defaultdict(list)
    by_grade, mute = Counter[int](), 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        for batch in user.batches(photographs, "explaining"):
            refused += batch.refused
            predictions = user.predict(batch)
            grades = [each.grade if grade is None else grade for each in predictions]
            if not predictions:
                continue
            heats = grad_cam(user.model, batch.images, torch.tensor(grades))
            for each, its, heat, image in zip(predictions, grades, heats, batch.images.cpu(), strict=True):
                drawn = _beside(image.permute(1, 2, 0).numpy(), heat)
                with write_whole(out / f"{encode_key(each.photograph.id)}.jpg") as file:
                    file.write(_encoded(drawn, "JPEG"))
                mute += not heat.any()
                if by_grade.total() < ON_SHEET:
                    small = cv2.resize(drawn[:, drawn.shape[0] :], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                    note = f"p{its} {each.probabilities[its]:.2f}"
                    note += "" if each.grade == its else f", graded {each.grade}"
                    tiles[its].append(Tile(np.asarray(small, np.uint8), each.photograph.id, note))
                by_grade[its] += 1
        with write_whole(out / "rejects.csv") as file:
            file.write(to_csv(sorted(refused), Refusal._fields))
        say_refused(refused, out / "rejects.csv")
        if not by_grade:
            raise SourceError(f"none of {found} photographs could be explained, see {out / 'rejects.csv'}")
        what = "explained" if grade is not None else "predicted"
        groups = {f"{what} {its} {GRADES[its]}: {count}": tiles[its] for its, count in sorted(by_grade.items())}
        with write_whole(out / "contact_sheet.png") as file:
            file.write(_encoded(np.asarray(draw_sheet(groups)), "PNG"))
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(f"found {found} = {by_grade.total()} explained + {len(refused)} rejected")
    if mute:
        click.echo(f"in {mute} of them nothing speaks for the grade: no place is tinted")
    if by_grade.total() > ON_SHEET:
        click.echo(f"contact_sheet.png shows the first {ON_SHEET}; its headings count all")
    click.echo(f"pictures: {out}/ (contact_sheet.png, a .jpg for each photograph)")


def _beside(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image (s, s, 3) and, right of it, its overlay: (t, 2 t, 3) with t at least SHOWN_SIDE."""
    side = max(SHOWN_SIDE, len(image))
    large = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.hstack([large, overlay(large, np.asarray(cv2.resize(heat, (side, side)), np.float32))])


def _encoded(picture: NDArray[np.uint8], kind: str) -> bytes:
    data = BytesIO()
    Image.fromarray(picture).save(data, kind, quality=92)
    return data.getvalue()
