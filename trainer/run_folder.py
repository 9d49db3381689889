"""The run folder: all its file names, and reading and writing its files. Imports no torch.

A file is written completely or not at all. So files can be read at any time, and a killed run leaves no broken one.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.errors import RunError
from pipeline.grades import N_GRADES, UNKNOWN
from pipeline.storage.artifacts import EXTERNAL
from pipeline.storage.atomic import TMP_SUFFIX, is_unfinished, locked_folder, remove_stale, write_atomically
from pipeline.storage.url import Url
from trainer.config import RunConfig
from trainer.records import read

if TYPE_CHECKING:
    import pandas as pd

RUNS: Final = Path("runs")

FOLDED: Final = {False: "train-val", True: "all"}
"""Whether the photographs of test are folded too -> the value of --split of `trainer folds`."""


class EpochRow(NamedTuple):
    """A row of accuracy.csv. The times of the first head epoch include the pass of all photographs through the
    backbone."""

    epoch: int
    """From 1, over both phases."""
    phase: str
    lr: float
    """Learning rate of the last step."""
    loss_train: float
    acc_train: float
    """Percent, like every accuracy here."""
    loss_val: float
    acc_val: float
    kappa_val: float
    acc_test: float | None
    """None if test is not tracked."""
    seconds: float
    """Duration of the whole epoch."""
    images_per_second: float
    """Training images per second of training."""


ACCURACY_COLUMNS: Final = EpochRow._fields

FOREST: Final = "forest.png"
LONGEST_NAME: Final = 255
"""Most bytes of a file name."""


class ResultFiles(NamedTuple):
    """The files of a measured split or external set. The metrics are written last: if they exist, all others do."""

    predictions: Path
    confusion_counts: Path
    confusion: Path
    confusion_drawing: Path
    metrics: Path


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def title(self) -> str:
        """The name of the run on drawings and pages: its folder's name. If that is only "run", the name of the folder
        above is put before it."""
        whole = self.path.resolve()
        return f"{whole.parent.name}/{whole.name}" if whole.name == "run" and whole.parent.name else whole.name

    @property
    def config(self) -> Path:
        """The settings as asked for and as resolved, versions, and the cache's digest."""
        return self.path / "config.json"

    @property
    def accuracy(self) -> Path:
        return self.path / "accuracy.csv"

    @property
    def accuracy_drawing(self) -> Path:
        return self.path / "accuracy.png"

    @property
    def events(self) -> Path:
        """accuracy.csv for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def model(self) -> Path:
        """The weights of the epoch to keep so far: the best one, or with --keep last the last one."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The state that --resume continues from."""
        return self.path / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one, in case that one is damaged."""
        return self.path / "previous.pt"

    @property
    def summary(self) -> Path:
        """The results in short. It is written last and marks a finished run."""
        return self.path / "summary.json"

    @property
    def dates(self) -> Path:
        """The days of training and measuring. They have their own file so that equal runs have equal metrics files."""
        return self.path / "dates.json"

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions_{split}.csv"

    def metrics(self, split: str) -> Path:
        return self.path / f"metrics_{split}.json"

    def confusion(self, split: str) -> Path:
        """Rows are true grades and sum to 1."""
        return self.path / f"confusion_{split}.csv"

    def confusion_counts(self, split: str) -> Path:
        return self.path / f"confusion_{split}_counts.csv"

    def confusion_drawing(self, split: str) -> Path:
        return self.path / f"confusion_{split}.png"

    def results(self, split: str) -> ResultFiles:
        return ResultFiles(
            self.predictions(split),
            self.confusion_counts(split),
            self.confusion(split),
            self.confusion_drawing(split),
            self.metrics(split),
        )

    @property
    def external(self) -> Path:
        """The folder of the external sets: a folder for each, and the forest plot of all."""
        return self.path / EXTERNAL

    @property
    def forest_drawing(self) -> Path:
        return self.external / FOREST

    def external_results(self, name: str) -> ResultFiles:
        names = ("predictions.csv", "confusion_counts.csv", "confusion.csv", "confusion.png", "metrics.json")
        return ResultFiles(*(self.external / name / each for each in names))

    def external_names(self) -> list[str]:
        """The names of the external sets that were measured, sorted."""
        if not self.external.is_dir():
            return []
        names = sorted(os.listdir(self.external))
        return [name for name in names if self.external_results(name).metrics.is_file()]

    def report_drawing(self, name: str, split: str) -> Path:
        """A drawing of `trainer report`, as PNG. The SVG is beside it, as for all drawings."""
        return self.path / f"{name}_{split}.png"

    def report(self, split: str) -> Path:
        """The page of a split; that of test, which most people need, is report.html."""
        return self.path / ("report.html" if split == "test" else f"report_{split}.html")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Locks the run for this process. Raises RunError if another process trains it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path))
            except BlockingIOError as error:
                raise RunError(f"{self.path} is being trained by another process; wait until it ends") from error
            except OSError as error:
                raise RunError(f"{self.path}: cannot be locked ({error.strerror}); choose another --run") from error
            remove_stale(self.path)
            yield

    def check_plain_files(self, *files: Path) -> None:
        """Raises RunError if one of the run's files, or the SVG of a drawing, is a link or a folder: what is behind it
        does not belong to the run."""
        for file in (each for path in files for each in (path, path.with_suffix(".svg"))):
            if os.path.islink(file) or os.path.isdir(file):
                what = "link" if os.path.islink(file) else "folder"
                raise RunError(f"{file}: a {what}, and no file of the run; take it away")

    def check_external(self, name: str, digest: str, split: str) -> ResultFiles:
        """The files of an external set that is to be measured, or measured again.

        digest: of its cache. Raises RunError if its folder holds the results of another cache or split, or other files.
        """
        files = self.external_results(name)
        folder = files.metrics.parent
        for each in (self.external, folder):
            if os.path.islink(each) or (os.path.lexists(each) and not os.path.isdir(each)):
                raise RunError(f"{each}: no folder of the run; take it away")
        self.check_plain_files(*files, self.forest_drawing)
        if not os.path.isdir(folder):
            return files
        mine = {each.name for each in (*files, files.confusion_drawing.with_suffix(".svg"))}
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
        return os.path.exists(self.config)  # Path.exists raises OSError if a name is too long

    @property
    def finished(self) -> bool:
        return os.path.exists(self.summary)

    def read_config(self) -> RunConfig:
        """config.json. Raises RunError if the folder is not a run or the file is damaged."""
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
        """metrics_<split>.json. Raises RunError if it is missing, damaged, or about another cache than the run's, which
        earlier versions could write."""
        digest, metrics = self.read_config().cache_digest, self.read_json(self.metrics(split))
        if metrics.get("cache", digest) != digest:
            advice = f"`trainer evaluate {self.path} --split {split}` measures the run's own"
            raise RunError(f"{self.metrics(split)} is about another cache; {advice}")
        return metrics

    def read_json(self, path: Path, advice: str = "") -> dict[str, Any]:
        """A JSON object from a file of the run. Raises RunError, with the advice, if it is missing or damaged."""
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
        """accuracy.csv with its columns checked. Raises RunError if it is missing, damaged or empty."""
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
        """predictions_<split>.csv as the table that `trainer.evaluation.metrics` describes; grade is -1 if unknown.

        Raises RunError if it is missing or damaged.
        """
        import pandas as pd

        from trainer.kinds import FELLOWS, PROBABILITIES, SCORE

        path, advice = self.predictions(split), f"`trainer evaluate {self.path} --split {split}` writes it"
        columns = ["id", "grade", "predicted", *PROBABILITIES]
        try:
            # Ids as text: an id may be "NA", "007" or "1e5".
            table = pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="surrogateescape")
            of_fellow = {FELLOWS: "int64", SCORE: "float64"}
            if list(table.columns) not in (columns, [*columns, *of_fellow]):
                raise ValueError("other columns")
            table["grade"] = table["grade"].replace("", str(UNKNOWN))
            types = {"grade": "int64", "predicted": "int64", **dict.fromkeys(PROBABILITIES, "float32"), **of_fellow}
            table = table.astype({name: types[name] for name in table.columns if name in types})
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
        """The days (YYYY-MM-DD, UTC) of "trained" and of "measured SPLIT". Values that are not days are left out. Empty
        if the file is damaged or missing, as in older runs."""
        try:
            dates = self.read_json(self.dates)
        except RunError:
            return {}
        return {done: day for done, day in dates.items() if _is_day(day)}

    def note_date(self, *done: str, day: str | None = None) -> None:
        """Records the day, YYYY-MM-DD, of these keys of `read_dates`; None: today."""
        write_json(self.dates, {**self.read_dates(), **dict.fromkeys(done, day or today())})

    def write_accuracy(self, history: Sequence[EpochRow]) -> None:
        import pandas as pd

        write_csv(self.accuracy, pd.DataFrame(history, columns=list(ACCURACY_COLUMNS)))

    @property
    def resume_command(self) -> str:
        """The command that continues the run, for messages."""
        return f"`trainer fit --run {self.path} --resume`"

    @property
    def advice(self) -> str:
        """The end of error messages about missing or damaged files."""
        return f"{self.resume_command} continues an unfinished run"


@dataclass(frozen=True)
class FoldsMark:
    """folds.json: the settings by which folds are drawn and trained."""

    cache: str
    """Digest of the cache that is folded."""
    folds: int
    """Number of folds."""
    seed: int
    """The seed that draws the folds."""
    test: bool
    """Whether the photographs of test are folded too."""
    seeds: list[int] | None = None
    """Seeds of the trainings; None: `seed` alone."""

    def as_dict(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FoldsFolder:
    """The folder of `trainer folds`: for each fold a run and its cache, and the results of all folds together."""

    path: Path

    @property
    def mark(self) -> Path:
        """The settings by which the folds are drawn and trained, see `FoldsMark`."""
        return self.path / "folds.json"

    @property
    def shared_photos(self) -> Path:
        """Photographs that several patients share. These patients are in one fold."""
        return self.path / "copies.csv"

    def cache(self, fold: int) -> Path:
        return self.path / "caches" / f"fold{fold}"

    def run(self, fold: int, seed: int | None) -> RunFolder:
        """The run of a fold. seed: of the training; None if each fold is trained once."""
        return RunFolder(self.path / (f"fold{fold}" if seed is None else f"fold{fold}_seed{seed}"))

    def runs(self) -> list[RunFolder]:
        """The runs of all folds and seeds. Raises RunError if folds.json is missing or damaged."""
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
        """folds.json. Raises RunError if it is missing or damaged."""
        advice = "`trainer folds` into another --run makes folds anew"
        try:
            return read(FoldsMark, RunFolder(self.path).read_json(self.mark, advice))
        except ValueError as error:
            raise RunError(f"{self.mark} is damaged; {advice}") from error

    def claim(self, mark: FoldsMark) -> None:
        """Raises RunError if the folder holds anything other than folds with this `mark`. Writes nothing."""
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
    """Makes a new, empty run folder: `path`, or `default_name` below runs/, with -2, -3, ... if that exists.

    Raises RunError if `path` is not empty.
    """
    if path is not None:
        check_free(path, "--run")
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


@contextmanager
def new_folder(path: Path, option: str) -> Iterator[Path]:
    """A folder that appears as a whole: the block fills another one beside it, which then gets this name. After an
    error or a kill there is none. option: of the command line, which names it. Raises RunError if it cannot be made."""
    check_free(path, option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as beside:
            (unfinished := Path(beside) / "run").mkdir()
            yield unfinished
            if path.exists():
                path.rmdir()
            unfinished.rename(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose another {option}") from error


def default_name(model: str, weights: str, size: int | None, loader: str, cache: Path | Url) -> str:
    """The name of a run without --run: model, weights, size, loader and data set.

    Weights of another run, which are always called model.safetensors, get the name of that run. The names of weights
    and data set are cut to 40 letters, and the whole name to the length that a folder's name may have.
    """
    file = Path(weights)
    start = RunFolder(file.parent).title.replace("/", "-") if file.name == "model.safetensors" else file.stem
    name = f"{model.replace(':', '.')}-{start[:40]}-{size}px-{loader}-{set_name(cache)[:40]}"
    while len(os.fsencode(name)) > LONGEST_NAME - len("-10000"):
        name = name[:-1]
    return name.rstrip("-")


def check_free(path: Path, option: str) -> None:
    """Raises RunError if `path` exists and is no empty folder. option: the command-line option that names it."""
    if path.exists() and not _is_empty_folder(path):
        resumes = option == "--run" and RunFolder(path).started
        advice = "--resume continues it, or choose" if resumes else "choose"
        raise RunError(f"{path} exists and is never overwritten; {advice} another {option}")


def _is_empty_folder(path: Path) -> bool:
    """Whether it is a folder without files, except half-written ones of a killed run."""
    return path.is_dir() and all(file.name.endswith(TMP_SUFFIX) for file in path.iterdir())


def weights_file(path: Path) -> Path:
    """The weights of a run folder; a file is returned as it is. Raises RunError if the run has no weights."""
    if not os.path.isdir(path):
        return path
    run = RunFolder(path)
    if not run.model.exists():
        run.read_config()
        raise RunError(f"{run.model} is missing: no epoch was finished; {run.advice}")
    return run.model


def set_name(cache: Path | Url) -> str:
    """The default name of an external set: that of the cache's folder, or of the folder above one called "cache"."""
    folder = cache if isinstance(cache, Url) else Path(os.path.abspath(cache))
    return folder.parent.name if folder.name == "cache" else folder.name


def unfit_name(name: str) -> str:
    """Why this cannot be the name of an external set; "" if it can."""
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        return f"{name!r} is no plain folder name"
    if name in (FOREST, Path(FOREST).with_suffix(".svg").name):
        return f"{name!r} is the name of a drawing"
    return f"{name[:20]!r}... is too long a name" if len(os.fsencode(name)) > LONGEST_NAME else ""


def newest_unfinished() -> RunFolder:
    """The unfinished run below runs/ that was started last. Raises RunError if there is none."""
    runs = unfinished()
    if not runs:
        raise RunError(f"no unfinished run below {RUNS}/; name one with --run")
    return runs[0]


def unfinished() -> list[RunFolder]:
    """The unfinished runs below runs/, the one started last first."""
    runs = [run for path in RUNS.glob("*") if (run := RunFolder(path)).started and not run.finished]
    return sorted(runs, key=lambda run: run.config.stat().st_mtime_ns, reverse=True)


def today() -> str:
    """Today as YYYY-MM-DD, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _is_day(text: object) -> bool:
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    with write_atomically(path) as file:
        file.write((json.dumps(fields, indent=1, allow_nan=False) + "\n").encode())


def write_csv(path: Path, table: "pd.DataFrame", *, index: bool = False) -> None:
    """Writes a table as UTF-8. Unknown values are empty cells."""
    with write_atomically(path) as file:
        table.to_csv(file, index=index, lineterminator="\n", encoding="utf-8", errors="surrogateescape")
