"""Grades and splits in the names of folders. A folder counts only together with the other folders around it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tools.sources.columns import SPLIT_WORDS, fold, split_in_name
from tools.sources.matching import slashed
from tools.sources.scales import UNGRADABLE, Scale

Path = tuple[str, ...]


class FolderGrades(NamedTuple):
    """Folders that are called by grades."""

    grades: dict[str, int]  # folder -> 0-4 or UNGRADABLE, of the folders with a grade
    names: list[str]  # sorted names of these folders
    only_digits: bool
    doubt: str = ""  # a question to the user: what else the names may be; "" for none

    def description(self) -> str:
        """The layout in words."""
        return f"a folder per grade ({', '.join(self.names)})"


def folder_of(source: str) -> str:
    """The folder of a source; "" for SRC itself. An archive counts as a folder.

    >>> folder_of("train.zip#train/1_left.jpeg"), folder_of("1_left.jpeg")
    ('train.zip/train', '')
    """
    return slashed(source).rpartition("/")[0]


def grade_folders(folders: Iterable[str], scale: Scale, insist: bool = False) -> FolderGrades | None:
    """The grades in the names of folders; None for none.

    A name is a grade only if all folders beside it are called by grades or splits, if there is no number above 4 at the
    same depth, and if there are two grades or more.

    insist: the user says that the names are grades; one grade is enough.
    """
    paths = [tuple(folder.split("/")) if folder else () for folder in folders]
    children = _children(paths)
    parsed: dict[str, int | None] = {}
    for names in children.values():
        for name in names - parsed.keys():
            try:
                parsed[name] = scale.parse(name)
            except ValueError:
                parsed[name] = None
    numbered = {  # depths with numbers that are not grades
        len(parent)
        for parent, names in children.items()
        if any(name.isdecimal() and parsed[name] is None for name in names)
    }
    levels: set[Path] = set()
    for parent, names in children.items():
        graded = {name for name in names if parsed[name] is not None}
        rest = {name for name in names - graded if not split_in_name(name)}
        if graded and not rest and (len(parent) not in numbered or not all(map(str.isdecimal, graded))):
            levels.add(parent)
    grades: dict[str, int] = {}
    used: set[str] = set()
    for path in paths:
        for depth in range(len(path) - 1, -1, -1):
            grade = parsed[path[depth]]
            if path[:depth] in levels and grade is not None:
                grades["/".join(path)] = grade
                used.add(path[depth])
                break
    distinct = set(grades.values()) - {UNGRADABLE}
    if not distinct or (len(distinct) < 2 and not insist):
        return None
    digits = all(map(str.isdecimal, used))
    doubt = _doubt(used, distinct) if digits and not scale.codes else ""
    return FolderGrades(grades, sorted(used), digits, doubt)


def _children(paths: Iterable[Path]) -> dict[Path, set[str]]:
    """Folder -> the names of the folders in it."""
    children: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path):
            children[path[:depth]].add(name)
    return children


def _doubt(names: Iterable[str], grades: set[int]) -> str:
    """What else folders called by these digits may be, "" for nothing."""
    if grades not in ({0, 1}, {1, 2, 3, 4}):
        return ""
    what = "'has no DR, has DR'" if grades == {0, 1} else "patients, visits or parts of a download"
    return (
        f"folders {', '.join(sorted(names))} may be grades, or {what}: --layout folders takes them for grades, "
        "--layout tables for nothing"
    )


def folder_splits(folders: Iterable[str]) -> dict[str, str]:
    """folder -> its split, by its name or by that of the innermost folder around it; "" for none.

    If a folder is called exactly train, val or test, folders beside it that only contain such a word have no split. If
    one folder has no split, those beside it have none: Val-de-Grace is a hospital.
    """
    paths = {folder: tuple(folder.split("/")) if folder else () for folder in folders}
    children = _children(paths.values())
    exact = {
        parent
        for parent, names in children.items()
        if any(fold(name) in SPLIT_WORDS and split_in_name(name) for name in names)
    }

    def split(path: Path) -> str:
        for depth in range(len(path) - 1, -1, -1):
            name = path[depth]
            named = split_in_name(name)
            parent = path[:depth]
            if named and (fold(name) in SPLIT_WORDS if parent in exact else all(map(split_in_name, children[parent]))):
                return named
        return ""

    return {folder: split(path) for folder, path in paths.items()}
