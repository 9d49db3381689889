"""One file name in several folders: copies, other people, masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from tests.tools.sources.conftest import drawn_eye
from tools.sources.layouts import list_source
from tools.sources.listing import Listing

Draw = Callable[..., None]


def ids(listing: Listing) -> dict[str, str]:
    return {sample.file.source: sample.id for sample in listing.samples}


def test_of_a_set_that_lies_there_whole_and_cropped_the_whole_photographs_are_taken(tmp_path: Path, draw: Draw) -> None:
    for number in range(6):
        whole = drawn_eye(number, (256, 192))
        draw(f"set/{number}_left.jpeg", picture=whole)
        draw(f"set_cropped/{number}_left.jpeg", picture=whole.crop((38, 6, 218, 186)).resize((128, 128)))
    (tmp_path / "labels.csv").write_text("image,level\n" + "".join(f"{n}_left,{n % 5}\n" for n in range(6)))
    (tmp_path / "labels_cropped.csv").write_text(
        ",image,level\n" + "".join(f"{n},{n}_left,{n % 5}\n" for n in range(6))
    )
    listing = list_source(tmp_path)
    assert ids(listing) == {f"set/{number}_left.jpeg": f"{number}_left" for number in range(6)}
    assert listing.ignored[0] == ("set_cropped/0_left.jpeg", "a copy of set/0_left.jpeg")
    assert len(listing.ignored) == 6
    assert "those of set are taken, 6 copies ignored" in "\n".join(listing.notes)


def test_two_hospitals_number_their_patients_alike(tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        for site in "AB":
            for eye in ("left", "right"):
                draw(f"{site}/{number}_{eye}.jpg")
    draw("B/9_left.jpg")  # no name of A's, but of the same hospital
    rows = "".join(f"{p.relative_to(tmp_path)},{n % 5}\n" for n, p in enumerate(sorted(tmp_path.rglob("*.jpg"))))
    (tmp_path / "labels.csv").write_text(f"image,level\n{rows}")
    listing = list_source(tmp_path)
    assert len({sample.patient for sample in listing.samples}) == 9
    assert {sample.patient for sample in listing.samples if sample.id == "B/9_left"} == {"B/9"}


def test_a_bare_folder_of_two_hospitals(tmp_path: Path, draw: Draw) -> None:
    for site in "AB":
        draw(f"{site}/3_left.jpg")
        draw(f"{site}/3_right.jpg")
    assert {sample.patient for sample in list_source(tmp_path).samples} == {"A/3", "B/3"}


def test_folders_of_splits_grades_and_eyes_are_no_part_of_a_patient(tmp_path: Path, draw: Draw) -> None:
    for source in ("train/0/7_left.jpg", "test/0/7_left.jpg", "train/2/7_right.jpg", "test/2/8_left.jpg"):
        draw(source)
    assert {sample.patient for sample in list_source(tmp_path).samples} == {"7", "8"}


def test_some_the_same_and_some_not_stops(tmp_path: Path, draw: Draw) -> None:
    for number in range(3):
        draw(f"a/{number}_left.jpg", number)
        draw(f"b/{number}_left.jpg", number if number else 99)
    with pytest.raises(SourceError, match=r"a and b: some photographs of one name are the same .*, others are not"):
        list_source(tmp_path)


def test_masks_are_no_photographs(tmp_path: Path, draw: Draw) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[20:40, 30:60] = 255
    for number in range(3):
        draw(f"MA/E{number}/C{number}.jpg")
        draw(f"Annotation_MA/E{number}/C{number}.png", picture=Image.fromarray(mask))
        draw(f"labels/{number}x.jpg")  # a word of masks, but photographs
    listing = list_source(tmp_path)
    assert {it.source: it.reason for it in listing.ignored} == {
        f"Annotation_MA/E{number}/C{number}.png": "a mask, no photograph" for number in range(3)
    }
    assert len(listing.samples) == 6
