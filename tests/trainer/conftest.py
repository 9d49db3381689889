"""A tiny cache that a ResNet learns in seconds, and how to run `trainer` on it."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

from pipeline.cache.cache import open_cache
from tests.conftest import write_cache
from trainer.cli import main
from trainer.reporting.evaluation_files import write_summary
from trainer.run_folder import RunFolder

FAST = ("--weights", "none", "--epochs", 2, "--batch", 8, "--device", "cpu", "--loader", "torchvision")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: a second thread only waits


@pytest.fixture(autouse=True)
def _below_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # runs/ and compare.png go there


NOT_RENDERED: Final = ("fit", "folds", "evaluate", "report")
"""Commands whose drawings `invoke` builds and does not render: that takes half the time of evaluate and of report."""
EMPTY: Final = {"png": b"not rendered", "svg": b'<svg width="1" height="1" viewBox="0 0 1 1"></svg>'}


@contextmanager
def empty_drawings() -> Iterator[None]:
    """Drawings are built, and their files show nothing."""

    def savefig(figure: Figure, file: IO[bytes], **settings: Any) -> None:
        file.write(EMPTY[settings["format"]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


def invoke(*arguments: object, exit: int = 0, rendered: bool = False) -> Result:
    """Runs `trainer`, which must end with that exit code and no traceback.

    rendered: whether all drawings are made as users get them, also those of NOT_RENDERED.
    """
    with nullcontext() if rendered or arguments[0] not in NOT_RENDERED else empty_drawings():
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit, result.output
    return result


def train(*options: object, exit: int = 0) -> Result:
    """invoke("fit", ...)."""
    return invoke("fit", *options, exit=exit)


@pytest.fixture
def trainer() -> Callable[..., Result]:
    """trainer("evaluate", "run", exit=1) runs the command, which must end with that exit code and no traceback; "fit"
    as `train` does."""
    return lambda command, *arguments, exit=0: (
        train(*arguments, exit=exit) if command == "fit" else invoke(command, *arguments, exit=exit)
    )


@pytest.fixture
def fit() -> Callable[..., Result]:
    """fit(cache, "--lr", 1) trains for a second or two: two epochs from scratch unless the options say otherwise; as
    `train` does."""
    return lambda cache, *options, exit=0: train("--cache", cache, *FAST, *options, exit=exit)


def write_tiny_cache(
    folder: Path,
    train: Sequence[int] = (0, 1, 2, 3, 4) * 4,
    val: Sequence[int] = (0, 1, 2, 3, 4),
    test: Sequence[int] = (0, 1, 2, 3, 4),
    leaky: bool = False,
    size: int = 32,
) -> Path:
    """Photographs of these grades, the redder the higher; -1 is one without a grade.

    Each shows another patient, unless `leaky`: then the n-th test photograph is the right eye of the n-th patient of
    train.
    """
    random = np.random.default_rng(0)
    pictures, grades, splits = {}, {}, {}
    for split, its_grades in (("train", train), ("val", val), ("test", test)):
        for number, grade in enumerate(its_grades):
            patient = f"train{number}" if leaky and split == "test" else f"{split}{number}"
            id = f"{patient}_{'right' if split == 'test' else 'left'}"
            pictures[id] = random.integers(0, 40, (size, size, 3), np.uint8)
            pictures[id][..., 0] += np.uint8(50 * max(grade, 0))
            splits[id] = split
            if grade >= 0:
                grades[id] = grade
    return write_cache(folder, pictures, grades, splits)


def write_both_eyes(folder: Path) -> Path:
    """Both eyes of patients of grades 0 and 4. The right eye is red in grade 4; the left one tells nothing. In each
    split one more patient has a right eye alone, and in test one more has an ungraded left one."""
    random = np.random.default_rng(0)
    pictures, grades, splits = {}, {}, {}
    number = 0
    for split, patients in (("train", 32), ("val", 12), ("test", 12)):
        for n in range(patients + 2):
            for eye in ("left", "right"):
                if n == patients and eye == "left":
                    continue
                id, grade = f"{number}_{eye}", 4 * (n % 2)
                pictures[id] = random.integers(0, 60, (32, 32, 3), np.uint8)
                pictures[id][..., 0] += np.uint8(120 * (grade == 4 and eye == "right"))
                ungraded = n > patients and eye == "left"
                splits[id] = "" if ungraded else split
                if not ungraded:
                    grades[id] = grade
            number += 1
    return write_cache(folder, pictures, grades, splits)


@pytest.fixture
def tiny_cache(tmp_path: Path) -> Callable[..., Path]:
    """tiny_cache(train=[grade, ...], val=[...], test=[...], leaky=False, name="cache"); see `write_tiny_cache`."""

    def make(*, name: str = "cache", **settings: Sequence[int]) -> Path:
        return write_tiny_cache(tmp_path / name, **settings)  # type: ignore[arg-type]

    return make


class Trained:
    """Two epochs on a tiny cache, once a session; tests that change the run take a copy."""

    def __init__(self, folder: Path) -> None:
        self.cache = write_tiny_cache(folder / "cache")
        self.run = folder / "run"
        self.previous = folder / "previous.pt"

        def keep_previous(run: RunFolder, *rest: object) -> None:
            shutil.copyfile(run.previous, self.previous)
            write_summary(run, *rest)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainer.commands.fit.write_summary", keep_previous)
            self.output = invoke("fit", "--cache", self.cache, *FAST, "--run", self.run, rendered=True).output

    def unfinished(self, to: Path | str) -> Path:
        """The run as it was before it had finished: with the checkpoint of epoch 1, and no summary."""
        run = self.copy(to)
        shutil.copyfile(self.previous, run / "previous.pt")
        (run / "summary.json").unlink()
        return run

    def copy(self, to: Path | str) -> Path:
        return Path(shutil.copytree(self.run, to))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def write_clinic(folder: Path, seed: int = 0) -> Path:
    """Photographs of grades 0 and 4, the latter redder, of both visits of a patient's left eye. In test, the graders of
    site South mix up every second patient."""
    random = np.random.default_rng(seed)
    pictures, grades, splits, site, visit, age = {}, {}, {}, {}, {}, {}
    for n in range(140):
        split = "train" if n < 24 else "val" if n < 36 else "test"
        seen = 4 * (n // 2 % 2)
        for number in ("a", "b", "c"):
            id = f"{number}/{n}_left"
            pictures[id] = random.integers(0, 60, (32, 32, 3), np.uint8)
            pictures[id][..., 0] += np.uint8(40 * seen)
            splits[id], visit[id], age[id] = split, "2" if number == "c" else "1", str(30 + n % 40)
            site[id] = ("North", "South", "")[n % 3] if n < 130 else "Hill"
            mixed_up = split == "test" and site[id] == "South" and n // 3 % 2 == 0
            grades[id] = 4 - seen if mixed_up else seen
    return write_cache(folder, pictures, grades, splits, kept={"visit": visit, "site": site, "age": age})


@pytest.fixture(scope="session")
def clinic(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and a run that has it as its own, measured by site and age, with page and card."""
    folder = tmp_path_factory.mktemp("clinic")
    config = json.loads((trained.copy(folder / "run") / "config.json").read_text())
    cache = open_cache(write_clinic(folder / "cache"))
    config |= {"cache": str(cache.path), "cache_digest": cache.digest}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    invoke("evaluate", folder / "run", "--subgroup", "site", "--subgroup", "age", "--loader", "torchvision")
    invoke("report", folder / "run", "--card", folder / "run" / "CARD.md")
    return folder
