"""Means to kill, cut, fill and forge: photographs to spoil, and the command as a process of its own."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tools.cli import main

ROOT = Path(__file__).resolve().parents[2]
Tree = dict[str, bytes]


class Run:
    """A command in a session of its own, so that what it leaves behind can be seen."""

    def __init__(self, program: str, arguments: tuple[object, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )

    def processes(self) -> set[int]:
        """Of its session, still alive."""
        alive = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state != "Z":
                alive.add(int(stat.parent.name))
        return alive

    def workers(self) -> set[int]:
        """Its worker processes, once there are any."""
        found: set[int] = set()
        while not found and self.process.poll() is None:
            time.sleep(0.01)
            for pid in self.processes() - {self.process.pid}:
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"spawn_main" in command:
                    found.add(pid)
        return found

    def end(self, within: float = 60) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), and nobody left, within so many seconds: what hangs fails, a busy machine does
        not."""
        until = time.monotonic() + within
        out, err = self.process.communicate(timeout=within)
        while self.processes():
            assert time.monotonic() < until, "processes are left behind"
            time.sleep(0.01)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """start("preprocess", ..., program="tools") -> the command running; killed when the test ends."""
    runs: list[Run] = []

    def begin(*arguments: object, program: str = "tools") -> Run:
        runs.append(Run(program, arguments))
        return runs[-1]

    yield begin
    for run in runs:
        for pid in run.processes():
            os.kill(pid, 9)
        run.process.communicate()


@pytest.fixture(scope="session")
def tools() -> Callable[..., Result]:
    """tools("preprocess", ...) -> its result, run in this process."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)

    return invoke


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Tree]:
    """tree(folder) -> every file below it and its bytes."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def eye(width: int, height: int, seed: int) -> Image.Image:
    """A speckled disc of some colour."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(width), np.arange(height)[:, None]
    disc = np.hypot(x - width / 2, y - height / 2) < 0.46 * min(width, height)
    noise = rng.integers(0, 40, (height, width, 3))
    return Image.fromarray(((rng.integers(60, 200, 3) + noise) * disc[..., None]).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **{"quality": 90, **options})
    return data.getvalue()


def write_eyes(folder: Path, patients: int, size: tuple[int, int] = (100, 80)) -> Path:
    """Two photographs a patient, of twelve kinds, in Kaggle's layout."""
    folder.mkdir()
    kinds = [jpeg(eye(*size, seed)) for seed in range(12)]
    rows = ["image,level\n"]
    for n in range(2 * patients):
        id = f"{n // 2}_{'left' if n % 2 else 'right'}"
        (folder / f"{id}.jpeg").write_bytes(kinds[n % 12])
        rows.append(f"{id},{n // 2 % 5}\n")
    (folder / "trainLabels.csv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="session")
def eyes_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("few") / "src", 12)


@pytest.fixture
def eyes(eyes_once: Path, tmp_path: Path) -> Path:
    """24 photographs of 12 patients, to be spoilt."""
    return shutil.copytree(eyes_once, tmp_path / "src")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 photographs, two shards: two workers need some seconds for them."""
    return write_eyes(tmp_path_factory.mktemp("many") / "src", 200, (900, 700))


@pytest.fixture(scope="session")
def undisturbed(
    many: Path, tmp_path_factory: pytest.TempPathFactory, tools: Callable[..., Result], tree: Callable[[Path], Tree]
) -> Tree:
    """The cache of `many` that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "cache"
    assert tools("preprocess", many, "--out", out, "--size", 64).exit_code == 0
    return tree(out)
