"""A Dask cluster of real processes makes the cache of one machine, whoever of it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import Result
from PIL import Image

from pipeline.errors import ClusterError
from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import Outcome, PreprocessSettings, preprocess
from tools.sources.layouts import list_source

pytest.importorskip("distributed", reason="needs the extra dask: pip install 'fundus-grading[dask]'")

from tools.preprocessing import dask_executor
from tools.preprocessing.dask_worker import _opencv_in_our_threads

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(next(path for path in sys.path if path.endswith("site-packages")))
Tree = dict[str, bytes]
Trees = Callable[[Path], Tree]
Start = Callable[..., Any]


class Cluster:
    """`dask scheduler` and its workers as processes of this machine."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.log = (folder / "log").open("wb")
        file = folder / "scheduler.json"
        where = ("--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
        self.scheduler = self._start("scheduler", *where, **environment)
        while not file.exists() or not file.read_bytes().endswith(b"}"):
            assert self.scheduler.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        self.address = json.loads(file.read_text())["address"]

    def _start(
        self, what: str, *arguments: object, cwd: Path = ROOT, flags: tuple[str, ...] = (), **environment: str
    ) -> "subprocess.Popen[bytes]":
        command = [sys.executable, *flags, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *map(str, arguments)]
        settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        process = subprocess.Popen(
            command, cwd=cwd, env=settings, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.processes.append(process)
        return process

    def worker(self, *arguments: object, **options: Any) -> "subprocess.Popen[bytes]":
        """A worker of one thread, in one process unless it gets a nanny."""
        arguments = arguments or ("--no-nanny",)
        where = ("--nthreads", 1, "--local-directory", self.folder / f"worker{len(self.processes)}")
        return self._start("worker", self.address, *where, *arguments, **options)

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.log.close()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """cluster(workers) -> a running cluster, killed when the test ends."""
    running: list[Cluster] = []

    def start(workers: int = 0, **environment: str) -> Cluster:
        running.append(Cluster(tmp_path_factory.mktemp("dask"), **environment))
        for _ in range(workers):
            running[-1].worker()
        return running[-1]

    yield start
    for each in running:
        each.close()


SMALL_SHARDS = ("pipeline.cache.shards.SAMPLES_A_SHARD", 25)
"""400 photographs in 16 shards, so that there is a middle to be killed in."""


class Made:
    """A cache made in this process, and what it said on the way."""

    def __init__(
        self, source: Path, out: Path, when: Callable[[int], object] = lambda done: None, **settings: Any
    ) -> None:
        self.told: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            self.told.append((done, total))
            when(done)

        self.outcome: Outcome = preprocess(
            list_source(source), out, Recipe(64), PreprocessSettings(**settings), progress
        )


@pytest.fixture(scope="module")
def made_by_one_machine(many: Path, tmp_path_factory: pytest.TempPathFactory, tree: Trees) -> Tree:
    out = tmp_path_factory.mktemp("made") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*SMALL_SHARDS)
        Made(many, out, workers=2)
    return tree(out)


@pytest.fixture
def by_one_machine(made_by_one_machine: Tree, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """What one machine makes of 400 photographs in 16 shards; the test's own are as small."""
    monkeypatch.setattr(*SMALL_SHARDS)
    return made_by_one_machine


def ready(cluster: Cluster, workers: int) -> None:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=120)


def test_three_workers_make_what_one_machine_makes_and_one_may_be_killed(
    many: Path, tmp_path: Path, tree: Trees, by_one_machine: Tree, cluster: Callable[..., Cluster]
) -> None:
    dask = cluster(3)
    ready(dask, 3)
    made = Made(many, tmp_path / "whole", scheduler=dask.address)
    assert tree(tmp_path / "whole") == by_one_machine
    done, totals = zip(*made.told, strict=True)
    assert list(done) == sorted(done)
    assert (done[-1], set(totals)) == (400, {400})
    assert len(set(done)) > 5  # it moves while the work goes on, for seconds, of which each is looked at four times

    victim = dask.processes[-1]
    made = Made(many, tmp_path / "killed", lambda done: victim.kill() if done > 100 else None, scheduler=dask.address)
    assert victim.wait() == -signal.SIGKILL
    assert made.outcome.encoded == 400
    assert tree(tmp_path / "killed") == by_one_machine

    # All is there: nobody is asked, and nothing is written.
    assert not Made(many, tmp_path / "killed", scheduler="tcp://127.0.0.1:1").outcome.changed


@pytest.mark.slow
def test_the_scheduler_killed_is_said_in_one_line_and_a_rerun_completes(
    many: Path, tmp_path: Path, tree: Trees, undisturbed: Tree, start: Start, cluster: Callable[..., Cluster]
) -> None:
    dask = cluster(2)
    ready(dask, 2)
    command = ("preprocess", many, "--out", tmp_path / "c", "--size", 64, "--scheduler")
    run = start(*command, dask.address)
    while not list((tmp_path / "c").glob("shards/*.trail.tmp")):  # until somebody is at work
        assert run.process.poll() is None
        time.sleep(0.05)
    dask.scheduler.kill()
    code, _, err = run.end()
    assert code == 1
    assert err == f"Error: {dask.address}: the Dask scheduler is gone; run the same command to continue\n"
    assert not (tmp_path / "c/cache.json").exists()
    anew = cluster(2)
    code, _, err = start(*command, anew.address).end()
    assert (code, err) == (0, "")
    assert tree(tmp_path / "c") == undisturbed


def test_ctrl_c_ends_the_run_and_frees_the_workers(
    many: Path, tmp_path: Path, start: Start, cluster: Callable[..., Cluster]
) -> None:
    dask = cluster(1)
    ready(dask, 1)
    run = start("preprocess", many, "--out", tmp_path / "c", "--size", 64, "--scheduler", dask.address)
    while not list((tmp_path / "c").glob("shards/*.trail.tmp")):
        assert run.process.poll() is None
        time.sleep(0.05)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end()
    assert (code, err.splitlines()) == (130, ["stopped by SIGINT"])
    assert not (tmp_path / "c/cache.json").exists()
    until = time.monotonic() + 30
    while list((tmp_path / "c").rglob("*.tmp")):
        assert time.monotonic() < until, "the worker goes on, or leaves what it began"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_photograph_that_kills_one_worker_after_the_other_is_named(
    eyes: Path, tmp_path: Path, tools: Callable[..., Result], cluster: Callable[..., Cluster]
) -> None:
    Image.new("RGB", (12_000, 9_000), (90, 40, 20)).save(eyes / "7_right.png")  # 324 MB once decoded
    (eyes / "7_right.jpeg").unlink()
    dask = cluster(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
    dask.worker("--nanny", "--memory-limit", "400MB")
    ready(dask, 1)
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64, "--scheduler", dask.address)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {eyes / '7_right.png'} has killed 2 workers, probably because memory ran out; give workers more "
        "(`dask worker --memory-limit`) or remove the photograph, then run the same command to continue\n"
    )


# --- who may not take part


def installed(folder: Path, without: str, instead: str | None) -> dict[str, str]:
    """The environment of a Python whose installed packages are this one's, but for one of another version, or none."""
    (folder / "site").mkdir(parents=True)
    for entry in SITE.iterdir():
        if not entry.name.startswith((f"{without}-", "__editable__", "_fundus")):
            (folder / "site" / entry.name).symlink_to(entry)
    if instead:
        about = folder / f"site/{without}-{instead}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {without}\nVersion: {instead}\n")
    return {"PYTHONPATH": f"{ROOT}:{folder / 'site'}" if without != "fundus_grading" else str(folder / "site")}


@pytest.mark.parametrize(
    ("package", "other"), [("pillow", "1.7"), ("fundus_grading", "0.0.9"), ("fundus_grading", None)]
)
def test_a_worker_with_other_packages_is_refused_by_name(
    eyes: Path,
    tmp_path: Path,
    tools: Callable[..., Result],
    cluster: Callable[..., Cluster],
    package: str,
    other: str | None,
) -> None:
    dask = cluster()
    # -S: nothing is installed but what PYTHONPATH has.
    environment = installed(tmp_path, package, other)
    dask.worker("--no-nanny", "--name", "other", flags=("-S",), cwd=tmp_path, **environment)
    ready(dask, 1)
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--size", 64, "--scheduler", dask.address)
    assert result.exit_code == 1
    name = package.replace("_", "-")
    has = f"has {name} {other}" if other else f"lacks {name}"
    assert f"{has}, this machine has {version(name)}; " in result.stderr
    assert result.stderr.startswith("Error: worker tcp://127.0.0.1:")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "c/unfinished.json").exists()  # nothing was begun


@pytest.mark.slow
def test_workers_that_join_later_and_would_make_other_bytes_take_no_part(
    many: Path, tmp_path: Path, tree: Trees, by_one_machine: Tree, cluster: Callable[..., Cluster]
) -> None:
    dask = cluster(1)
    ready(dask, 1)
    late: list[subprocess.Popen[bytes]] = []

    def join(folder: Path, package: str, other: str | None) -> Callable[[int], None]:
        environment = installed(folder, package, other)

        def when(done: int) -> None:
            if done and not late:
                late.append(dask.worker("--no-nanny", flags=("-S",), cwd=folder, **environment))
                ready(dask, 2)

        return when

    Made(many, tmp_path / "c", join(tmp_path / "a", "fundus_grading", None), scheduler=dask.address)
    assert tree(tmp_path / "c") == by_one_machine
    assert late.pop().wait(60) is not None  # Dask sent it away: it did not know what it was to do
    with pytest.raises(
        ClusterError, match=r"^worker tcp://127.0.0.1:\d+ joined with other versions than the client has"
    ):
        Made(many, tmp_path / "d", join(tmp_path / "b", "pillow", "1.7"), scheduler=dask.address)


def test_workers_that_see_other_files_are_refused(
    eyes: Path,
    tmp_path: Path,
    tools: Callable[..., Result],
    cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Below /proc/self/cwd each process sees files of its own."""
    dask = cluster(1)
    ready(dask, 1)
    monkeypatch.chdir(tmp_path)
    own = Path("/proc/self/cwd")
    result = tools("preprocess", own / eyes.name, "--out", tmp_path / "c", "--size", 64, "--scheduler", dask.address)
    assert result.exit_code == 1
    assert f"cannot read {own / eyes.name}/0_left.jpeg (No such file or directory); SRC and --out must" in result.stderr
    result = tools("preprocess", eyes, "--out", own / "c", "--size", 64, "--scheduler", dask.address)
    assert result.exit_code == 1
    assert f"cannot write to {own / 'c'}; SRC and --out must lie where" in result.stderr


def test_a_scheduler_without_workers_and_none_at_all_are_said_in_one_line(
    eyes: Path,
    tmp_path: Path,
    tools: Callable[..., Result],
    cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dask_executor.CONNECT_SECONDS <= 10
    monkeypatch.setattr(dask_executor, "CONNECT_SECONDS", 1)
    dask = cluster()
    command = ("preprocess", eyes, "--out", tmp_path / "c", "--size", 64, "--scheduler")
    result = tools(*command, dask.address)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert f"{dask.address} has no workers; `dask worker {dask.address}" in result.stderr
    dask.scheduler.kill()
    dask.scheduler.wait()
    for address in (dask.address, "tcp://no.such.host.invalid:8786", "nonsense://x"):
        result = tools(*command, address)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert f"{address}: no Dask scheduler answers there" in result.stderr


def test_without_the_extra_its_pip_line_is_named(
    eyes: Path, tmp_path: Path, tools: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tools.preprocessing.dask_executor", "tools.preprocessing.dask_worker"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = tools("preprocess", eyes, "--out", tmp_path / "c", "--scheduler", "tcp://127.0.0.1:8786")
    assert result.exit_code == 1
    assert result.stderr == "Error: --scheduler needs Dask: pip install 'fundus-grading[dask]'\n"


def test_workers_of_this_machine_and_a_scheduler_are_not_asked_for_together(
    eyes: Path, tmp_path: Path, tools: Callable[..., Result]
) -> None:
    command = ("preprocess", eyes, "--out", tmp_path / "c", "--workers", 2, "--scheduler", "tcp://127.0.0.1:8786")
    assert tools(*command).exit_code == 2


def test_a_workers_opencv_has_its_threads_back_after_the_last_order() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with _opencv_in_our_threads():
            with _opencv_in_our_threads():
                assert cv2.getNumThreads() == 1
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
