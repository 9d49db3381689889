"""Files with one name in several folders: copies of one photograph, or different photographs; and folders of masks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from pipeline.errors import PhotoError, SourceError
from pipeline.photos.discovery import Found, Refusal
from pipeline.photos.eye_names import EYE_WORDS
from pipeline.photos.fingerprint import COPY_CORRELATION, SIDE, fingerprint
from pipeline.photos.photo import read_photo
from pipeline.photos.preparation import MASK_COLOURS, Recipe, count_colours, prepare
from tools.sources.columns import fold, split_in_name
from tools.sources.folders import folder_of
from tools.sources.matching import parts

PAIRS_COMPARED: Final = 24
"""Pairs of photographs with one name that are compared, evenly spread; a pair takes 60 ms."""
MASKS_CHECKED: Final = 9
"""Pictures of a folder that are checked for masks, evenly spread."""
BACKGROUND: Final = 0.75
"""Least fraction of a mask that is background."""
MASKS: Final = frozenset(
    {"mask", "masks", "annotation", "annotations", "groundtruth", "groundtruths", "segmentation", "segmentations",
     "lesion", "lesions", "label", "labels"}
)  # fmt: skip
"""Words in the names of folders that may have masks; their pictures are checked."""

Read = Callable[[str], bytes]  # the bytes of a source


@dataclass
class SameNames:
    """What was decided on names that several folders have."""

    ignored: list[Refusal] = field(default_factory=list)
    levels: list[tuple[str, ...]] = field(default_factory=list)  # folders whose names become part of ids and patients
    notes: list[str] = field(default_factory=list)

    def prefix(self, source: str) -> str:
        """The folder that becomes part of a photograph's id and patient, "" for none."""
        folders = tuple(parts(source)[:-1])
        fitting = [level for level in self.levels if folders[: len(level)] == level]
        return max(fitting, key=len)[-1] if fitting else ""


def without_masks(photographs: Sequence[Found], read: Read) -> tuple[list[Found], list[Refusal]]:
    """(the photographs outside folders of masks, those inside). Such a folder has a word of MASKS in its name, and its
    pictures look like masks."""
    by_folder: dict[str, list[Found]] = defaultdict(list)
    for file in photographs:
        by_folder[folder_of(file.source)].append(file)
    masks: set[str] = set()
    known: dict[str, bool] = {}
    for folder in by_folder:
        path = folder.split("/")
        for depth, name in enumerate(path):
            if MASKS & set(fold(name).split()):
                around = "/".join(path[: depth + 1])
                if around not in known:
                    below = [f for other, its in by_folder.items() if f"{other}/".startswith(f"{around}/") for f in its]
                    step = max(1, len(below) // MASKS_CHECKED)
                    are_masks = {_looks_like_mask(read, file.source) for file in below[::step]}
                    known[around] = True in are_masks and False not in are_masks
                if known[around]:
                    masks.add(folder)
                break
    if not masks:
        return list(photographs), []
    kept = [file for file in photographs if folder_of(file.source) not in masks]
    return kept, [Refusal(f.source, "a mask, no photograph") for f in photographs if folder_of(f.source) in masks]


def _looks_like_mask(read: Read, source: str) -> bool | None:
    """Whether a picture has the few colours of a mask, or is grey and nearly all background. None for a single colour,
    such as the mask of a lesion that is absent."""
    try:
        image = read_photo(read(source)).image
    except (OSError, PhotoError):
        return False
    colours = count_colours(image)
    if colours <= MASK_COLOURS:
        return True if colours > 1 else None
    if (image != image[..., :1]).any():
        return False
    return int(np.bincount(image[..., 0].ravel()).max()) > BACKGROUND * image[..., 0].size


def resolve_same_names(doubled_names: Iterable[Sequence[str]], grade_names: Iterable[str], read: Read) -> SameNames:
    """Decides on names that several folders have, for each pair of folders. Each item has the sources of one name.

    Folders called by a split, a grade (`grade_names`) or an eye may share names, so nothing is done. If the
    photographs, cropped to the retina, are the same, the folder with more pixels is used and the other one ignored. If
    they differ, the folders become part of ids and patients.

    Raises SourceError if some photographs are the same and others differ.
    """
    result, grades = SameNames(), set(grade_names)
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[str, str]]] = defaultdict(list)
    for sources in doubled_names:
        for first, second in pairwise(sources):
            levels = _differing(first, second)
            if levels:
                pairs[levels].append((first, second))
    dropped: set[str] = set()
    for (one, other), doubled in pairs.items():
        doubled = [pair for pair in doubled if not dropped & {*pair}]
        if not doubled or _are_neutral(one, other, grades):
            continue
        shown = [
            doubled[at * len(doubled) // min(PAIRS_COMPARED, len(doubled))]
            for at in range(min(PAIRS_COMPARED, len(doubled)))
        ]
        compared = [(pair, alike) for pair in shown if (alike := _same(read, *pair)) is not None]
        shown = [pair for pair, _alike in compared] or shown
        same = [alike for _pair, alike in compared]
        names = " and ".join("/".join(level) or "SRC itself" for level in (one, other))
        if same and all(same):
            kept = _larger(read, shown)
            result.ignored += [Refusal(pair[1 - kept], f"a copy of {pair[kept]}") for pair in doubled]
            result.notes.append(
                f"{names} have the same photographs: those of {'/'.join((one, other)[kept])} are taken, "
                f"{len(doubled)} copies ignored"
            )
            dropped |= {pair[1 - kept] for pair in doubled}
        elif not any(same):
            result.levels += [level for level in (one, other) if level and level not in result.levels]
            result.notes.append(
                f"{names} have other photographs under the same names ({parts(doubled[0][0])[-1]}, ...): the folder is "
                "part of the name and of the patient"
            )
        else:
            one_pair, other_pair = shown[same.index(True)], shown[same.index(False)]
            raise SourceError(
                f"{names}: some photographs of one name are the same ({', '.join(one_pair)}), others are not "
                f"({', '.join(other_pair)}); give the names of one folder in a table, or take one folder away"
            )
    return result


def _differing(first: str, second: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The paths of two photographs from SRC to the first folder that differs; None if their folders are the same."""
    a, b = parts(first)[:-1], parts(second)[:-1]
    for depth in range(max(len(a), len(b))):
        if a[depth : depth + 1] != b[depth : depth + 1]:
            return tuple(a[: depth + 1]), tuple(b[: depth + 1])
    return None


def _are_neutral(one: tuple[str, ...], other: tuple[str, ...], grades: set[str]) -> bool:
    """Whether two folders are two splits, two grades or two eyes: these may share names."""
    if not one or not other:
        return False
    names = (one[-1], other[-1])
    splits = [split_in_name(name) for name in names]
    eyes = [EYE_WORDS.get(fold(name)) for name in names]
    return (all(splits) and splits[0] != splits[1]) or all(name in grades for name in names) or all(eyes)


def _same(read: Read, first: str, second: str) -> bool | None:
    """Whether two files show the same photograph, by the fine structure of the retina; None if one has no structure,
    such as a black frame, or cannot be read."""
    try:
        prints = [fingerprint(prepare(read(source), Recipe(4 * SIDE)).jpeg) for source in (first, second)]
    except (OSError, PhotoError):
        return None
    if not all(map(np.any, prints)):
        return None
    return float(prints[0] @ prints[1]) > COPY_CORRELATION


def _larger(read: Read, shown: Sequence[tuple[str, str]]) -> int:
    """Which of the pairs' two folders, 0 or 1, has photographs with more pixels, so not cropped; 0 if they are
    equal."""
    pixels = [0, 0]
    for pair in shown[:: PAIRS_COMPARED // 4]:
        for at in (0, 1):
            photo = read_photo(read(pair[at]), cover=SIDE)
            pixels[at] += photo.width * photo.height
    return int(pixels[1] > pixels[0])
