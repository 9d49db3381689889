"""What the scripts here have in common. Each is run by hand (`python benchmarks/bench_X.py`) and prints figures.

A machine's speed wanders by a factor of two, so candidates are measured in turn, A B A B, and only their ratios count.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pipeline.machine import set_up

set_up()  # as the commands do

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real photographs and what a user would write otherwise; not part of the project."""


def in_turn(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each candidate returned in each round, printed as it comes."""
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            figures[name].append(measure())
        print("  ".join(f"{name} {values[-1]:.4g}" for name, values in figures.items()), flush=True)
    return figures


def say_ratio(what: str, a: list[float], b: list[float], wanted: str) -> None:
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    print(f"{what}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds), {wanted}")


def say_load() -> None:
    """How many processes wanted the cores of late: ratios of what uses them differently are only as good as this."""
    print(f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {len(os.sched_getaffinity(0))} cores")


def peer(script: str, *arguments: object) -> float:
    """Images per second as a script of ../shared/peers measures them in a process of its own."""
    command = [sys.executable, SHARED / "peers" / script, *arguments]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["images_per_second"])


def full_size(folder: Path, copies: int) -> list[Path]:
    """Makes the folder, with so many copies of each full-size photograph."""
    folder.mkdir()
    for path in sorted((SHARED / "data/fullres").rglob("*.jpeg")):
        for copy in range(copies):
            shutil.copy(path, folder / f"{path.stem}-{copy}.jpeg")
    return sorted(folder.iterdir())
