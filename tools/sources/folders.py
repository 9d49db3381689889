"""What the names of folders tell: grades and splits. A folder counts only together with those beside it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tools.sources.columns import SPLIT_WORDS, fold, split_in_name
from tools.sources.matching import slashed
from tools.sources.scales import UNGRADABLE, Scale

Path = tuple[str, ...]


class FolderGrades(NamedTuple):
    """Folders that are named by grades."""

    grades: dict[str, int]  # folder -> 0-4 or UNGRADABLE, of every folder of photographs that tells one
    names: list[str]  # of the folders that are grades, sorted
    only_digits: bool
    doubt: str = ""  # what else the names may be, where no table says the same

    def description(self) -> str:
        return f"a folder per grade ({', '.join(self.names)})"


def folder_of(source: str) -> str:
    """The folders of a source, an archive among them; "" for SRC itself.

    >>> folder_of("train.zip#train/1_left.jpeg"), folder_of("1_left.jpeg")
    ('train.zip/train', '')
    """
    return slashed(source).rpartition("/")[0]


def grade_folders(folders: Iterable[str], scale: Scale, insist: bool = False) -> FolderGrades | None:
    """The grades that folders tell; None where they tell none.

    A name is a grade only where all names beside it are grades or splits, where no number beyond 4 stands at the same
    depth, and where there are two grades at least.

    insist: the user says that they are grades.
    """
    paths = [tuple(folder.split("/")) if folder else () for folder in folders]
    children: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path):
            children[path[:depth]].add(name)
    parsed: dict[str, int | None] = {}
    for names in children.values():
        for name in names - parsed.keys():
            try:
                parsed[name] = scale.parse(name)
            except ValueError:
                parsed[name] = None
    counted = {
        len(parent)
        for parent, names in children.items()
        if any(name.isdecimal() and parsed[name] is None for name in names)
    }
    levels: set[Path] = set()
    for parent, names in children.items():
        told = {name for name in names if parsed[name] is not None}
        rest = {name for name in names - told if not split_in_name(name)}
        if told and not rest and (len(parent) not in counted or not all(map(str.isdecimal, told))):
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
    doubt = ""
    if digits and not scale.codes and distinct in ({0, 1}, {1, 2, 3, 4}):
        what = "'has no DR, has DR'" if distinct == {0, 1} else "patients, visits or parts of a download"
        doubt = (
            f"folders {', '.join(sorted(used))} may be grades, or {what}: --layout folders takes them for grades, "
            "--layout tables for nothing"
        )
    return FolderGrades(grades, sorted(used), digits, doubt)


def folder_splits(folders: Iterable[str]) -> dict[str, str]:
    """folder -> the split that it, or the innermost folder around it, tells; "" for none.

    Where a folder is called train, val or test and no more, those beside it that only contain such a word tell nothing;
    and where one tells nothing, neither do those beside it: Val-de-Grace is a hospital.
    """
    paths = {folder: tuple(folder.split("/")) if folder else () for folder in folders}
    children: dict[Path, set[str]] = defaultdict(set)
    for path in paths.values():
        for depth, name in enumerate(path):
            children[path[:depth]].add(name)
    exact = {
        parent
        for parent, names in children.items()
        if any(fold(name) in SPLIT_WORDS and split_in_name(name) for name in names)
    }

    def split(path: Path) -> str:
        for depth in range(len(path) - 1, -1, -1):
            name = path[depth]
            told = split_in_name(name)
            parent = path[:depth]
            if told and (fold(name) in SPLIT_WORDS if parent in exact else all(map(split_in_name, children[parent]))):
                return told
        return ""

    return {folder: split(path) for folder, path in paths.items()}
