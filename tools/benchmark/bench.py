"""`tools bench`: measures how fast this machine decodes, loads and trains, and says how to make the slowest part
faster.

All rows are measured in turn, in several rounds: the speed of a machine changes within minutes, and ratios within a
round do not depend on that.
"""

import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

import numpy as np
import torch

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import UsageError
from pipeline.limits import SMALLEST
from pipeline.machine import usable_cores
from pipeline.photos.preparation import Recipe
from tools.benchmark.report import Report
from tools.benchmark.workloads import Rows, Run, uint8
from tools.phantoms.dataset import write_phantoms
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

PHANTOMS: Final = 200
PHOTOGRAPHS: Final = 512
"""Number of photographs that are used, over and over. They fit in memory, so the disk is not measured."""
LONGEST: Final = 8192
"""Number of photographs in the longest turn."""
PACKAGES: Final = {
    "torch": "torch",
    "torchvision": "torchvision",
    "nvidia-dali-cuda130": "dali",
    "nvidia-dali-cuda120": "dali",
    "opencv-python-headless": "opencv",
    "pillow": "pillow",
}
"""The packages that matter for speed: distribution -> its name in the report."""


@dataclass(frozen=True)
class BenchSettings:
    """How to measure."""

    size: int | None = None  # side of the pictures, pixels; None: as cached
    batch: int | None = None  # None: 64 on a GPU, 8 on the CPU
    workers: int = 1  # threads or processes that load
    seconds: float = 1.5  # of measuring, about, for each row in each round
    rounds: int = 3


def bench(path: Path | None, settings: BenchSettings, show_status: Callable[[str], None]) -> Report:
    """Measures on a cache; without one, on phantoms at 512 px. `show_status` gets a line on what is measured.

    Raises CacheError if the folder is no cache, UsageError if the size is larger than the cache's.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = settings.batch or (64 if device.type == "cuda" else 8)
    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        if path is None:
            show_status(f"drawing {PHANTOMS} phantoms")
            write_phantoms(folder / "eyes", PHANTOMS)
            path = make_cache(folder / "eyes", folder / "cache", 512, settings.workers)
        cache = stack.enter_context(repeated_photographs(stack.enter_context(open_cache(path)), batch))
        cache_size = cache.recipe.size
        size = settings.size or cache_size
        if size > cache_size:
            raise UsageError(f"--size {size} is more than the {cache_size} px of {path}")
        small = size if size < cache_size else max(SMALLEST, size // 2)
        show_status(f"making the cache smaller: {small} px")
        smaller = stack.enter_context(open_cache(shrunk(cache, folder, small, settings.workers)))
        rows = Rows(cache, size, batch, settings.workers, device, stack)
        runs = rows.all(stack.enter_context(repeated_photographs(smaller, batch)))
        rates = measure(runs, batch, settings.seconds, settings.rounds, show_status)
    used = {**asdict(settings), "size": size, "batch": batch, "cache_size": cache_size, "device": device.type}
    loaders = [loader for loader in ("torchvision", "dali") if uint8(loader) in rates]
    return Report(rates, loaders, small, used, hardware())


def measure(
    runs: Mapping[str, Run], batch: int, seconds: float, rounds: int, show_status: Callable[[str], None]
) -> dict[str, list[float]]:
    """Images per second of each run in each round. A turn has as many batches as take about `seconds`, at least one.

    Each turn begins with two batches that are not counted: the run before has emptied the processor's caches, and the
    first steps of a ResNet-18 at 512 px take 1.4 and 1.15 times as long as the others.
    """

    def timed(row: str, batches: int) -> float:
        began = perf_counter()
        runs[row](batches)
        return perf_counter() - began

    lengths, rates = {}, {}
    for row in runs:
        show_status(f"warm-up: {row}")
        lengths[row], rates[row] = 1, list[float]()
        most, elapsed = LONGEST // batch, timed(row, 1)
        while elapsed < seconds / 2 and lengths[row] < most:
            lengths[row] = min(2 * lengths[row], most)
            elapsed = timed(row, lengths[row])
    for number in range(rounds):
        for row in runs:
            show_status(f"round {number + 1} of {rounds}: {row}")
            runs[row](min(2, lengths[row]))
            rates[row].append(batch * lengths[row] / timed(row, lengths[row]))
    return rates


def repeated_photographs(cache: Cache, batch: int) -> Cache:
    """A cache of PHOTOGRAPHS photographs of this one, evenly spread and repeated to LONGEST, in complete batches."""
    picked = np.linspace(0, len(cache.manifest) - 1, min(PHOTOGRAPHS, len(cache.manifest))).astype(int)
    length = max(1, LONGEST // batch) * batch
    rows = np.resize(picked, length)
    return cache.take(rows)


def shrunk(cache: Cache, folder: Path, size: int, workers: int) -> Path:
    """The photographs of a cache, each once, as a cache at another size in pixels."""
    (folder / "photographs").mkdir()
    first = ~cache.manifest["id"].duplicated().to_numpy()
    for row in np.flatnonzero(first):
        (folder / "photographs" / f"{row}.jpeg").write_bytes(cache.read(int(row)))
    return make_cache(folder / "photographs", folder / "smaller", size, workers)


def make_cache(source: Path, out: Path, size: int, workers: int) -> Path:
    """Makes the cache `out` of a folder of photographs, at a size in pixels."""
    preprocess(list_source(source), out, Recipe(size), PreprocessSettings(workers=workers), lambda done, total: None)
    return out


def hardware() -> dict[str, str | int]:
    """Processor, cores that this process may use, GPU, and versions of PACKAGES."""
    facts: dict[str, str | int] = {"cpu": _cpu(), "cores": usable_cores()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    facts["python"] = platform.python_version()
    for distribution, name in PACKAGES.items():
        with suppress(PackageNotFoundError):
            facts[name] = version(distribution)
    return facts


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
