"""A stage of the GPU measurement: rows timed in turn within a share of the time, written as one JSON file.

A row that fails, cannot run here or no longer fits is named with the reason. No figure stands for another.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
GIB: Final = 2**30

Run = Callable[[int], None]  # of a number of batches


@dataclass(frozen=True)
class Scale:
    """How large a measurement is."""

    eyes: int  # phantoms
    enlarge: float  # the phantoms' cameras, 1: 640 to 768 px wide
    large: int  # side of the larger cache, pixels
    small: int  # and of the smaller
    batch: int
    turn: float  # seconds of a row's turn, about
    turns: int
    distinct: int  # photographs that are used over and over, so that the disk is not measured
    longest: int  # photographs of the longest turn


FULL: Final = Scale(2000, 1.6, 512, 224, batch=64, turn=1.0, turns=3, distinct=512, longest=32768)
SMALL: Final = Scale(48, 0.5, 64, 32, batch=4, turn=0.05, turns=2, distinct=16, longest=64)

NEEDS: Final[dict[str, Callable[[], str | None]]] = {
    "cuda": lambda: None if _cuda() else "needs a CUDA card, there is none",
    "dali": lambda: _missing("nvidia.dali"),
    "nvimgcodec": lambda: _missing("nvidia.nvimgcodec"),
    "compiler": lambda: None if _compiles() else "needs a C++ compiler, there is none",
}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _compiles() -> bool:
    return _cuda() or shutil.which("g++") is not None or shutil.which("clang++") is not None


def _missing(module: str) -> str | None:
    """Why a module cannot be used; None where it can."""
    parents = module.split(".")
    for length in range(1, len(parents) + 1):
        name = ".".join(parents[:length])
        if find_spec(name) is None:
            return f"needs {module}, which is not installed"
    return None


@dataclass
class Row:
    """What was measured of one thing. `turns`: images a second (or what `unit` says) of each turn."""

    name: str
    turns: list[float] = field(default_factory=list)
    unit: str = "images/s"
    batches: int = 0  # of a turn
    opening_seconds: float = 0.0  # making it ready, the first batch included
    torch_peak_gib: float | None = None  # of memory that torch gave out in a turn
    card_used_gib: float | None = None  # of the card's memory after a turn, what other open rows keep included

    @property
    def median(self) -> float:
        return median(self.turns)

    def as_dict(self) -> dict[str, Any]:
        return {"median": self.median, **asdict(self)}


class Stage:
    """name: also of the JSON file. seconds: that it may take, from now on."""

    def __init__(self, name: str, out: Path, work: Path, seconds: float, *, small: bool) -> None:
        self.name, self.small, self.work = name, small, work
        self.scale = SMALL if small else FULL
        self.rows: dict[str, Row] = {}
        self.skipped: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.wanted: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        """What is no rate: seconds, shares, yes or no."""
        self._path = out / f"{name}.json"
        self._seconds = seconds
        self._began = time.perf_counter()
        self.workers = usable_cores()
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def left(self) -> float:
        """Seconds."""
        return self._seconds - (time.perf_counter() - self._began)

    def say(self, line: str) -> None:
        print(f"{time.perf_counter() - self._began:6.1f} s  {line}", flush=True)

    def lacks(self, name: str, needs: Sequence[str], seconds: float = 0.0) -> bool:
        """Whether something cannot be done, for want of a thing of NEEDS or of so many seconds; says so."""
        for reason in (NEEDS[need]() for need in needs):
            if reason:
                self.skipped[name] = reason
                return True
        if self.left() < seconds:
            self.dropped[name] = f"{self.left():.0f} s were left, it needs about {seconds:.0f}"
            return True
        return False

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """What fails in the block is named; the stage goes on."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.failed[name] = f"{type(error).__name__}: {lines[0][:500]}"
            self.say(f"FAILED {name}: {self.failed[name]}")
            if self.device.type == "cuda":
                import torch

                with suppress(Exception):
                    torch.cuda.empty_cache()

    @contextmanager
    def group(self, *, seconds: float | None = None, turn: float | None = None) -> Iterator["Group"]:
        """Rows that are compared with one another; measured at the block's end, in at most so many seconds.

        turn: seconds of a row's turn, the scale's own where None.
        """
        with ExitStack() as stack:
            seconds = self.left() if seconds is None else seconds
            group = Group(self, stack, seconds, self.scale.turn if turn is None or self.small else turn)
            yield group
            group.measure()
        self.write()  # so that a stage which is killed leaves what it had

    def ratio(self, row: str, *bases: str) -> float | None:
        """How many times as fast as the slowest of `bases`: the median over the turns. None where one is missing."""
        if not {row, *bases} <= self.rows.keys():
            return None
        turns = zip(self.rows[row].turns, *(self.rows[base].turns for base in bases), strict=False)
        return median(one / min(others) for one, *others in turns)

    def want(self, what: str, value: float | None, least: float | None = None, most: float | None = None) -> None:
        """Holds a figure against what was wanted of it; `met` is null where either is missing."""
        met = None
        if value is not None and (least is not None or most is not None):
            met = (least is None or value >= least) and (most is None or value <= most)
        self.wanted.append({"what": what, "value": value, "at_least": least, "at_most": most, "met": met})

    def write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fields = {
            "stage": self.name,
            "small": self.small,
            "machine": machine(),
            "scale": asdict(self.scale),
            "seconds": round(time.perf_counter() - self._began, 1),
            "seconds_allowed": self._seconds,
            "rows": {name: row.as_dict() for name, row in self.rows.items()},
            "found": self.facts,
            "wanted": self.wanted,
            "skipped": self.skipped,
            "dropped": self.dropped,
            "failed": self.failed,
        }
        text = json.dumps(fields, indent=1) + "\n"
        whole = self._path.with_suffix(".tmp")
        whole.write_text(text)
        os.replace(whole, self._path)

    def table(self) -> str:
        """What is printed last: rows, what was wanted of them, and what is missing and why."""
        width = max((len(name) for name in self.rows), default=0)
        lines = [f"{name:{width}}  {row.median:12,.1f} {row.unit}, {len(row.turns)} turns" for name, row in
                 self.rows.items()]  # fmt: skip
        lines += [f"{name}: {value}" for name, value in self.facts.items() if isinstance(value, str | int | float)]
        for each in self.wanted:
            value = "not measured" if each["value"] is None else f"{each['value']:.3g}"
            bound = {"at_least": "at least", "at_most": "at most"}
            asked = ", ".join(f"{word} {each[key]:g}" for key, word in bound.items() if each[key] is not None)
            verdict = {True: "met", False: "NOT MET", None: "no verdict"}[each["met"]]
            lines.append(f"{each['what']}: {value} ({f'wanted {asked}, {verdict}' if asked else 'for comparison'})")
        for kind in ("skipped", "dropped", "failed"):
            lines += [f"{kind}: {name}: {reason}" for name, reason in getattr(self, kind).items()]
        return "\n".join([*lines, f"written: {self._path}"])


class Group:
    """Rows measured in turn. Each is a function that works through so many batches, to the last one's end."""

    def __init__(self, stage: Stage, stack: ExitStack, seconds: float, turn: float) -> None:
        self._stage, self.stack, self._seconds_of_turn = stage, stack, turn
        self._until = time.perf_counter() + seconds
        self._planned: list[tuple[str, Callable[[], Run], int]] = []
        self._lengths: dict[str, float] = {}

    def add(self, name: str, make: Callable[[], Run], *, needs: Sequence[str] = (), batch: int | None = None) -> None:
        """`make` opens the row; what it holds is to be released with `stack`. Important rows come first."""
        if not self._stage.lacks(name, needs):
            self._planned.append((name, make, batch or self._stage.scale.batch))

    def measure(self) -> None:
        stage, scale = self._stage, self._stage.scale
        ready: list[tuple[Row, Run, int]] = []
        for number, (name, make, batch) in enumerate(self._planned):
            # The rows that are open need a turn each, at the least.
            reserved = self._seconds_of_turn * (len(ready) + 2)
            if self._left() < reserved:
                for late, _, _ in self._planned[number:]:
                    stage.dropped[late] = f"{self._left():.0f} s were left, the rows before it need {reserved:.0f}"
                break
            stage.say(f"warm-up: {name}")
            with stage.attempt(name):
                row = Row(name)
                began = time.perf_counter()
                run = make()
                self._timed(run, 1)
                row.opening_seconds = round(time.perf_counter() - began, 3)
                row.batches = self._warm(run, max(1, scale.longest // batch))
                ready.append((row, run, batch))
        for turn in range(scale.turns):
            for row, run, batch in tuple(ready):
                if self._left() < self._lengths.get(row.name, self._seconds_of_turn):
                    continue
                stage.say(f"turn {turn + 1} of {scale.turns}: {row.name}")
                with stage.attempt(row.name):
                    self._turn(row, run, batch)
                if row.name in stage.failed:
                    ready.remove((row, run, batch))
        for row, _, _ in ready:
            if row.turns:
                stage.rows[row.name] = row
            else:
                stage.dropped[row.name] = "no time was left for a turn"

    def _turn(self, row: Row, run: Run, batch: int) -> None:
        cuda = self._stage.device.type == "cuda"
        began = time.perf_counter()
        if cuda:
            import torch

            torch.cuda.empty_cache()  # or memory that another row has used counts as this one's
        run(min(2, row.batches))  # what ran before has pushed its memory out
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        row.turns.append(batch * row.batches / self._timed(run, row.batches))
        if cuda:
            free, there = torch.cuda.mem_get_info()
            row.torch_peak_gib = round(max(row.torch_peak_gib or 0, torch.cuda.max_memory_allocated() / GIB), 2)
            row.card_used_gib = round(max(row.card_used_gib or 0, (there - free) / GIB), 2)
        self._lengths[row.name] = time.perf_counter() - began

    def _warm(self, run: Run, most: int) -> int:
        """How many batches take about a turn; the run has seen as many then."""
        batches, seconds = 1, self._timed(run, 1)
        while seconds < self._seconds_of_turn / 2 and batches < most:
            batches = min(2 * batches, most)
            seconds = self._timed(run, batches)
        return batches

    def _timed(self, run: Run, batches: int) -> float:
        began = time.perf_counter()
        run(batches)
        if self._stage.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _left(self) -> float:
        return self._until - time.perf_counter()


@cache
def machine() -> dict[str, Any]:
    """Card, driver, processor, cores and versions."""
    import torch

    from tools.benchmark.bench import hardware

    found = {**hardware(), "platform": platform.platform(), "cuda_of_torch": torch.version.cuda}
    if torch.cuda.is_available():
        found["driver"] = nvidia_smi("driver_version") or "unknown"
        found["card_gib"] = round(torch.cuda.get_device_properties(0).total_memory / GIB, 1)
        found["cudnn"] = torch.backends.cudnn.version()
    for distribution in ("nvidia-nvimgcodec-cu13", "nvidia-nvjpeg", "simplejpeg"):
        with suppress(PackageNotFoundError):
            found[distribution] = version(distribution)
    if int(str(found.get("opencv", "5")).partition(".")[0]) < 5:
        found["note"] = (
            "OpenCV is older than 5: its warp on the CPU rounds to 1/32 pixel, 4 grey levels from the card's"
        )
    return found


def nvidia_smi(field: str) -> str | None:
    """A field of the first card; None where there is no nvidia-smi."""
    try:
        command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]


@contextmanager
def peak_memory() -> Iterator[dict[str, float | None]]:
    """The most memory of the card that was in use during the block, GiB, looked at four times a second: DALI's too,
    which torch's own counters do not see."""
    found: dict[str, float | None] = {"gib": None}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            used = nvidia_smi("memory.used")
            if used is None:
                return
            found["gib"] = round(max(found["gib"] or 0, float(used) / 1024), 2)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def environment(work: Path) -> dict[str, str]:
    """For commands of ours in processes of their own, on a host where the project is not installed: they need its
    version, which pip would have written beside it."""
    site = work / "site"
    name, number = _project()
    info = site / f"{name.replace('-', '_')}-{number}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    inherited = os.environ.get("PYTHONPATH", "")
    paths = [str(ROOT), *filter(None, inherited.split(os.pathsep)), str(site)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _project() -> tuple[str, str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["name"], project["version"]


def command(work: Path, *arguments: object, timeout: float) -> tuple[int, str, float]:
    """Runs `python ARGUMENTS` in the project's folder: exit code, the end of the output, seconds. 124: it was ended
    after `timeout` seconds."""
    began = time.perf_counter()
    words = [sys.executable, *map(str, arguments)]
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment(work), capture_output=True, text=True, timeout=max(1.0, timeout)
        )
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        parts = [part.decode() if isinstance(part, bytes) else part or "" for part in (error.stdout, error.stderr)]
        code, output = 124, "".join(parts)
    return code, output[-4000:], round(time.perf_counter() - began, 1)
