"""The run folder: every file name of it lives here. Imports no torch.

Files are written whole or not at all, so a reader may look at any moment, and a killed run is a shorter one.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.errors import RunError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.storage.artifacts import EXTERNAL
from pipeline.storage.atomic import TMP_SUFFIX, is_unfinished, locked_folder, sweep_dead, write_whole
from pipeline.storage.url import Url
from trainer.config import RunConfig
from trainer.records import read

if TYPE_CHECKING:
    import pandas as pd

RUNS: Final = Path("runs")


class EpochRow(NamedTuple):
    """A row of accuracy.csv. Its times are, for the first epoch of the head, with the pass of every photograph through
    the backbone."""

    epoch: int
    """From 1, over both phases."""
    phase: str
    lr: float
    """Of the last step."""
    loss_train: float
    acc_train: float
    """Percent, as every accuracy here."""
    loss_val: float
    acc_val: float
    kappa_val: float
    acc_test: float | None
    """None where test is not tracked."""
    seconds: float
    """Of the whole epoch."""
    images_per_second: float
    """Trained on."""


ACCURACY_COLUMNS: Final = EpochRow._fields

FOREST: Final = "forest.png"
LONGEST_NAME: Final = 255
"""Bytes of a file name, at most."""


class ResultFiles(NamedTuple):
    """What is written of a split of the run's cache, or of an external set. The metrics come last: where they are, all
    is there."""

    predictions: Path
    confusion_counts: Path
    confusion: Path
    confusion_figure: Path
    metrics: Path


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def title(self) -> str:
        """What figures and pages call the run: its folder's name; of a folder called `run`, which says nothing, with
        that of the folder above."""
        whole = self.path.resolve()
        return f"{whole.parent.name}/{whole.name}" if whole.name == "run" and whole.parent.name else whole.name

    @property
    def config(self) -> Path:
        """What was asked for, what it was resolved to, versions, and the cache's digest."""
        return self.path / "config.json"

    @property
    def accuracy(self) -> Path:
        return self.path / "accuracy.csv"

    @property
    def accuracy_figure(self) -> Path:
        return self.path / "accuracy.png"

    @property
    def events(self) -> Path:
        """TensorBoard's view of accuracy.csv."""
        return self.path / "tensorboard"

    @property
    def model(self) -> Path:
        """The weights to keep so far."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The state that --resume continues from."""
        return self.path / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last, in case that one is damaged."""
        return self.path / "previous.pt"

    @property
    def summary(self) -> Path:
        """The result in a few numbers; written last, so that it marks a finished run."""
        return self.path / "summary.json"

    @property
    def dates(self) -> Path:
        """When it was trained and measured. A file of its own: equal runs have equal metrics, whatever the day."""
        return self.path / "dates.json"

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions_{split}.csv"

    def metrics(self, split: str) -> Path:
        return self.path / f"metrics_{split}.json"

    def confusion(self, split: str) -> Path:
        """Shares of each true grade."""
        return self.path / f"confusion_{split}.csv"

    def confusion_counts(self, split: str) -> Path:
        return self.path / f"confusion_{split}_counts.csv"

    def confusion_figure(self, split: str) -> Path:
        return self.path / f"confusion_{split}.png"

    def results(self, split: str) -> ResultFiles:
        return ResultFiles(
            self.predictions(split),
            self.confusion_counts(split),
            self.confusion(split),
            self.confusion_figure(split),
            self.metrics(split),
        )

    @property
    def external(self) -> Path:
        """A folder for each other cache that was measured, and the figure of all of them."""
        return self.path / EXTERNAL

    @property
    def forest_figure(self) -> Path:
        return self.external / FOREST

    def external_results(self, name: str) -> ResultFiles:
        names = ("predictions.csv", "confusion_counts.csv", "confusion.csv", "confusion.png", "metrics.json")
        return ResultFiles(*(self.external / name / each for each in names))

    def external_names(self) -> list[str]:
        """Of the external sets that were measured, sorted."""
        if not self.external.is_dir():
            return []
        names = sorted(os.listdir(self.external))
        return [name for name in names if self.external_results(name).metrics.is_file()]

    def figure(self, name: str, split: str) -> Path:
        """Those of `trainer report`; as all figures, PNG here and SVG beside it."""
        return self.path / f"{name}_{split}.png"

    def report(self, split: str) -> Path:
        """The page; test's, which most people want, has the plain name."""
        return self.path / ("report.html" if split == "test" else f"report_{split}.html")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the run for this process. Raises RunError while another one trains it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path))
            except BlockingIOError as error:
                raise RunError(f"{self.path} is being trained by another process; wait until it ends") from error
            except OSError as error:
                raise RunError(f"{self.path}: cannot be locked ({error.strerror}); choose another --run") from error
            sweep_dead(self.path)
            yield

    def check_places(self, *files: Path) -> None:
        """Raises RunError where one of the run's own files, or a figure's SVG, is a link or a folder: what it leads to
        is somebody's."""
        for file in (each for path in files for each in (path, path.with_suffix(".svg"))):
            if os.path.islink(file) or os.path.isdir(file):
                what = "link" if os.path.islink(file) else "folder"
                raise RunError(f"{file}: a {what}, and no file of the run; take it away")

    def check_external(self, name: str, digest: str, split: str) -> ResultFiles:
        """The files of an external set that is to be measured, or measured again.

        Raises RunError where its folder holds the results of another cache or split, or anything else.
        """
        files = self.external_results(name)
        folder = files.metrics.parent
        for each in (self.external, folder):
            if os.path.islink(each) or (os.path.lexists(each) and not os.path.isdir(each)):
                raise RunError(f"{each}: no folder of the run; take it away")
        self.check_places(*files, self.forest_figure)
        if not os.path.isdir(folder):
            return files
        mine = {each.name for each in (*files, files.confusion_figure.with_suffix(".svg"))}
        if strangers := sorted(each for each in os.listdir(folder) if each not in mine and not is_unfinished(each)):
            raise RunError(f"{folder} holds {strangers[0]!r}, which this command did not make; choose another --name")
        if files.metrics.exists():
            metrics = self.read_json(files.metrics, advice=f"delete {folder} and measure again")
            there = metrics.get("cache"), metrics.get("split")
            if there != (digest, split):
                what = "another cache" if there[0] != digest else f"another part of that cache ({there[1]})"
                raise RunError(f"{folder} holds the results of {what}, which stay; choose another --name")
        return files

    @property
    def started(self) -> bool:
        return os.path.exists(self.config)  # pathlib's raises where a name is too long

    @property
    def finished(self) -> bool:
        return os.path.exists(self.summary)

    def read_config(self) -> RunConfig:
        """Raises RunError where the folder is no run or its config.json is damaged."""
        if not self.started:
            if os.path.exists(FoldsFolder(self.path).mark):
                runs = f"{self.path / 'fold0'} and so on"
                raise RunError(f"{self.path} is no run: `trainer folds` made it, and its runs are {runs}")
            what = "is not a run (it has no config.json)" if os.path.exists(self.path) else "does not exist"
            raise RunError(f"{self.path} {what}; `trainer fit` makes one")
        try:
            return RunConfig.from_dict(self.read_json(self.config))
        except ValueError as error:
            raise RunError(f"{self.config} is damaged; start another run") from error

    def read_own_metrics(self, split: str) -> dict[str, Any]:
        """metrics_<split>.json. Raises RunError where it is missing, damaged, or about another cache than the run's, as
        earlier versions left it."""
        digest, metrics = self.read_config().cache_digest, self.read_json(self.metrics(split))
        if metrics.get("cache", digest) != digest:
            advice = f"`trainer evaluate {self.path} --split {split}` measures the run's own"
            raise RunError(f"{self.metrics(split)} is about another cache; {advice}")
        return metrics

    def read_json(self, path: Path, advice: str = "") -> dict[str, Any]:
        """Raises RunError, with advice, where a file of the run is missing or damaged."""
        advice = advice or self.advice
        try:
            fields = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; {advice}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged; {advice}") from error
        if not isinstance(fields, dict):
            raise RunError(f"{path} is damaged; {advice}")
        return fields

    def read_accuracy(self) -> "pd.DataFrame":
        """accuracy.csv with its columns checked. Raises RunError where it is missing, damaged or empty."""
        import pandas as pd

        try:
            table = pd.read_csv(self.accuracy)
        except FileNotFoundError as error:
            raise RunError(f"{self.accuracy} is missing: no epoch was finished; {self.advice}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self.accuracy} is damaged; {self.advice}") from error
        numbers = table.drop(columns="phase", errors="ignore")
        if tuple(table.columns) != ACCURACY_COLUMNS or table.empty or numbers.select_dtypes(exclude="number").size:
            raise RunError(f"{self.accuracy} is damaged; {self.advice}")
        return table

    def read_predictions(self, split: str) -> "pd.DataFrame":
        """predictions_<split>.csv as `trainer.evaluation.metrics` describes it, -1 where nobody graded.

        Raises RunError where it is missing or damaged.
        """
        import pandas as pd

        from trainer.kinds import PROBABILITIES

        path, advice = self.predictions(split), f"`trainer evaluate {self.path} --split {split}` writes it"
        columns = ["id", "grade", "predicted", *PROBABILITIES]
        try:
            # Ids as text: one may be "NA", "007" or "1e5".
            table = pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="surrogateescape")
            if list(table.columns) != columns:
                raise ValueError("other columns")
            table["grade"] = table["grade"].replace("", str(UNKNOWN))
            table = table.astype({"grade": "int64", "predicted": "int64"} | dict.fromkeys(PROBABILITIES, "float32"))
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; {advice}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged; {advice}") from error
        in_range = table["grade"].between(UNKNOWN, N_GRADES - 1) & table["predicted"].between(0, N_GRADES - 1)
        complete = table[list(PROBABILITIES)].notna().all(axis=None)
        if not in_range.all() or not complete or table["id"].duplicated().any():
            raise RunError(f"{path} is damaged; {advice}")
        return table

    def read_dates(self) -> dict[str, str]:
        """What was done -> its day as YYYY-MM-DD, UTC: "trained", and "measured SPLIT". What is no day is left out;
        empty where the file is missing, as in older runs, or damaged."""
        try:
            dates = self.read_json(self.dates)
        except RunError:
            return {}
        return {done: day for done, day in dates.items() if _is_day(day)}

    def note_date(self, *done: str, day: str | None = None) -> None:
        """Notes that these things were done on a day, as YYYY-MM-DD; None: today. See `read_dates`."""
        write_json(self.dates, {**self.read_dates(), **dict.fromkeys(done, day or today())})

    def write_accuracy(self, history: Sequence[EpochRow]) -> None:
        import pandas as pd

        write_csv(self.accuracy, pd.DataFrame(history, columns=list(ACCURACY_COLUMNS)))

    @property
    def advice(self) -> str:
        """The end of an error message."""
        return f"`trainer fit --run {self.path} --resume` continues an unfinished run"


@dataclass(frozen=True)
class FoldsMark:
    """folds.json: by what folds were drawn and trained."""

    cache: str
    """Digest of the cache that they are folds of."""
    folds: int
    seed: int
    """By which they were drawn."""
    test: bool
    """Whether test is folded in."""
    seeds: list[int] | None = None
    """Of the trainings; None where that is `seed` alone."""

    def as_dict(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FoldsFolder:
    """What `trainer folds` leaves: a run, and the cache that it is trained on, for each fold, and what they say
    together."""

    path: Path

    @property
    def mark(self) -> Path:
        """Of which cache these are folds, how many, by which seeds, and whether test is folded in."""
        return self.path / "folds.json"

    @property
    def shared_photos(self) -> Path:
        """Photographs that are there under several patients, who are kept together."""
        return self.path / "copies.csv"

    def cache(self, fold: int) -> Path:
        return self.path / "caches" / f"fold{fold}"

    def run(self, fold: int, seed: int | None) -> RunFolder:
        """seed: of the training; None where each fold is trained once."""
        return RunFolder(self.path / (f"fold{fold}" if seed is None else f"fold{fold}_seed{seed}"))

    def runs(self) -> list[RunFolder]:
        """The runs of all folds and seeds. Raises RunError where folds.json is missing or damaged."""
        mark = self.read_mark()
        seeds: Sequence[int | None] = mark.seeds if mark.seeds and len(mark.seeds) > 1 else [None]
        return [self.run(fold, seed) for seed in seeds for fold in range(mark.folds)]

    @property
    def results(self) -> ResultFiles:
        return RunFolder(self.path).results("oof")

    @property
    def second_look(self) -> Path:
        """Photographs whose grades the networks contradict."""
        return self.path / "second_look.csv"

    @property
    def second_look_sheet(self) -> Path:
        return self.path / "second_look.png"

    def read_mark(self) -> FoldsMark:
        """Raises RunError where it is missing or damaged."""
        advice = "`trainer folds` into another --run makes folds anew"
        try:
            return read(FoldsMark, RunFolder(self.path).read_json(self.mark, advice))
        except ValueError as error:
            raise RunError(f"{self.mark} is damaged; {advice}") from error

    def claim(self, mark: FoldsMark) -> None:
        """Raises RunError where the folder holds anything else than folds of this `mark`; nothing is written."""
        try:
            begun = self.mark.exists()
            if not begun and os.path.lexists(self.path) and not _is_empty_folder(self.path):
                raise RunError(f"{self.path} holds something else; choose another --run")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read ({error.strerror}); choose another --run") from error
        if begun and self.read_mark() != mark:
            raise RunError(
                f"{self.path} has other folds (another cache, number, seed or --split); choose another --run"
            )


def create_run(path: Path | None, default_name: str) -> RunFolder:
    """A new folder, empty so far: `path`, or `default_name` below runs/, with -2, -3, ... where that is taken.

    Raises RunError rather than write into a folder that holds anything.
    """
    check_free(path)
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be made a folder ({error.strerror}); choose another --run") from error
        return RunFolder(path)
    RUNS.mkdir(exist_ok=True)
    number = 1
    while True:
        path = RUNS / (default_name if number == 1 else f"{default_name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return RunFolder(path)


def default_name(model: str, weights: str, size: int | None, loader: str, cache: Path | Url) -> str:
    """Of a run without --run: how it begins, and the data set, called as its cache's folder or the one above.

    Weights of another run, which all are called model.safetensors, have that run's name. Of a long name of weights or a
    data set 40 letters are taken, and of all of it no more than a folder's name may have.
    """
    file = Path(weights)
    start = RunFolder(file.parent).title.replace("/", "-") if file.name == "model.safetensors" else file.stem
    name = f"{model}-{start[:40]}-{size}px-{loader}-{set_name(cache)[:40]}"
    while len(os.fsencode(name)) > LONGEST_NAME - len("-10000"):
        name = name[:-1]
    return name.rstrip("-")


def check_free(path: Path | None) -> None:
    """Raises RunError where there is something at `path` already."""
    if path is not None and path.exists() and not _is_empty_folder(path):
        advice = "--resume continues it, or choose" if RunFolder(path).started else "choose"
        raise RunError(f"{path} exists and is never overwritten; {advice} another --run")


def _is_empty_folder(path: Path) -> bool:
    """Half-written files of a killed run do not count."""
    return path.is_dir() and all(file.name.endswith(TMP_SUFFIX) for file in path.iterdir())


def weights_file(path: Path) -> Path:
    """Of a run folder its weights, of a file the file itself. Raises RunError where there are none."""
    if not os.path.isdir(path):
        return path
    run = RunFolder(path)
    if not run.model.exists():
        run.read_config()
        raise RunError(f"{run.model} is missing: no epoch was finished; {run.advice}")
    return run.model


def set_name(place: Path | Url) -> str:
    """What an external set is called by default: as its cache's folder, or as the folder above one called `cache`."""
    folder = place if isinstance(place, Url) else Path(os.path.abspath(place))
    return folder.parent.name if folder.name == "cache" else folder.name


def unfit_name(name: str) -> str:
    """Why an external set cannot be called so; "" where it can."""
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        return f"{name!r} is no plain folder name"
    if name in (FOREST, Path(FOREST).with_suffix(".svg").name):
        return f"{name!r} is the name of a figure"
    return f"{name[:20]!r}... is too long a name" if len(os.fsencode(name)) > LONGEST_NAME else ""


def newest_unfinished() -> RunFolder:
    """The run below runs/ that was started last and has not finished. Raises RunError where there is none."""
    runs = unfinished()
    if not runs:
        raise RunError(f"no unfinished run below {RUNS}/; name one with --run")
    return runs[0]


def unfinished() -> list[RunFolder]:
    """The runs below runs/ that have not finished, the one that was started last first."""
    runs = [run for path in RUNS.glob("*") if (run := RunFolder(path)).started and not run.finished]
    return sorted(runs, key=lambda run: run.config.stat().st_mtime_ns, reverse=True)


def today() -> str:
    """The day as YYYY-MM-DD, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _is_day(text: object) -> bool:
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    with write_whole(path) as file:
        file.write((json.dumps(fields, indent=1, allow_nan=False) + "\n").encode())


def write_csv(path: Path, table: "pd.DataFrame", *, index: bool = False) -> None:
    """UTF-8; what is not known is an empty cell."""
    with write_whole(path) as file:
        table.to_csv(file, index=index, lineterminator="\n", encoding="utf-8", errors="surrogateescape")
