"""On one machine nothing needs Linux. Windows and macOS are not here: each process starts without what they lack.

`tests/other_systems/sitecustomize.py` takes it away. On Windows and macOS themselves the commands run as they are.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PureWindowsPath

import pytest

from pipeline.cache.cache import open_cache
from pipeline.command_line import OutputFolder
from pipeline.errors import LoaderMissing, OutputError, StoreError
from pipeline.loading.loaders import open_loader
from pipeline.storage import atomic
from pipeline.storage.artifacts import belongs_to_run
from pipeline.storage.url import Url, path_or_url

ROOT = Path(__file__).resolve().parents[1]
LINUX = sys.platform == "linux"
PREPROCESS = ("tools", "preprocess", "eyes", "--size", "48", "--workers", "2", "--out")
FIT = ("trainer", "fit", "--cache", "δεδομένα", "--run", "run", "--weights", "none", "--epochs", "1", "--size", "32",
       "--batch", "16", "--device", "cpu")  # fmt: skip
SHORT = [
    (*PREPROCESS, "δεδομένα"),
    ("tools", "check", "δεδομένα"),
    (*FIT, "--loader", "torchvision"),
    ("trainer", "predict", "run", "eyes", "--out", "predictions.csv"),
]
LONG = [
    *SHORT,
    (*PREPROCESS, "δεδομένα", "--quality", "90"),  # over what is there
    (*PREPROCESS, "δεδομένα"),
    ("tools", "sheet", "δεδομένα", "sheet.png"),
    ("tools", "sheet", "δεδομένα", "sheet.png", "--by", "split"),
    ("trainer", "evaluate", "run"),
    ("trainer", "explain", "run", "eyes/train/1_left.jpeg", "--out", "explained"),
    ("trainer", "report", "run"),
]
needs_linux = pytest.mark.skipif(not LINUX, reason="takes away what only Linux has")


def environment(system: str) -> dict[str, str]:
    """That makes Python another system's: its console has Windows' code page for Western Europe, and to open a text of
    ours without an encoding is an error."""
    told = {"PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1"}
    path = os.pathsep.join([*([str(ROOT / "tests/other_systems")] if LINUX else []), str(ROOT)])
    return os.environ | told | {"OTHER_SYSTEM": system, "PYTHONPATH": path}


def run(system: str, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(system),
        capture_output=True,
        encoding="cp1252",
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    done = run("windows", folder, "tools", "phantom", "eyes", "--eyes", "60")
    assert done.returncode == 0, done.stderr
    return folder / "eyes"


@pytest.mark.parametrize(
    ("system", "commands"),
    [
        ("windows", SHORT),
        pytest.param("windows", LONG, marks=pytest.mark.slow),
        pytest.param("bare", SHORT, marks=pytest.mark.slow),
        pytest.param("macos", SHORT, marks=pytest.mark.slow),
    ]
    if LINUX
    else [(sys.platform, LONG)],
)
def test_the_commands_of_one_machine_end_well(
    system: str, commands: list[tuple[str, ...]], phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(phantoms, tmp_path / "eyes")
    for command in commands:
        done = run(system, tmp_path, *command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert "\\u03b4" in run(system, tmp_path, *PREPROCESS, "δεδομένα").stdout, "letters that a console lacks are spelt"
    with open_cache(tmp_path / "δεδομένα") as cache:
        assert set(cache.manifest["source"]) == {f"train/{path.name}" for path in (tmp_path / "eyes/train").iterdir()}
    if LINUX:
        here = subprocess.run(
            [sys.executable, "-m", *PREPROCESS, "here"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert here.returncode == 0
        assert tree(tmp_path / "here") == tree(tmp_path / "δεδομένα"), "the same bytes on every system"


# --- two at once, and the killed: two worker processes, Windows' locks


def begin(folder: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment("windows"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(found: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not found():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
@needs_linux
def test_a_second_preprocess_is_told_and_a_killed_one_blocks_nobody(tiny_eyes: Path, tmp_path: Path) -> None:
    (tmp_path / "eyes").symlink_to(tiny_eyes)
    cache = tmp_path / "cache"
    first = begin(tmp_path, *PREPROCESS, "cache")
    wait_for(lambda: list(cache.glob("shards/*.tar.*")), first)  # its workers write
    os.killpg(first.pid, signal.SIGSTOP)
    before = set(tree(cache))
    assert any(name.startswith("lock.") for name in before)
    second = run("windows", tmp_path, *PREPROCESS, "cache")
    assert second.returncode == 1
    assert second.stderr == "Error: cache is being written by another `tools preprocess`; wait until it ends\n"
    assert set(tree(cache)) == before, "what the living write stays"
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = run("windows", tmp_path, *PREPROCESS, "cache")
    assert third.returncode == 0, third.stderr
    undisturbed = run("windows", tmp_path, *PREPROCESS, "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert tree(cache) == tree(tmp_path / "undisturbed")


@needs_linux
def test_told_to_end_it_leaves_no_worker_and_no_half_written_file(tiny_eyes: Path, tmp_path: Path) -> None:
    (tmp_path / "eyes").symlink_to(tiny_eyes)
    process = begin(tmp_path, *PREPROCESS, "cache")
    wait_for(lambda: list(tmp_path.glob("cache/shards/*.tar.*")), process)
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    until = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            assert time.monotonic() < until, "a worker is left"
            time.sleep(0.05)
    assert not list(tmp_path.rglob("*.tmp"))


CLAIMS = """
import sys, time
from pathlib import Path
from pipeline.storage.atomic import Busy, claimed, write_atomically
until, got = time.monotonic() + 3, 0
while time.monotonic() < until:
    try:
        with claimed([Path(sys.argv[1])]):
            open(sys.argv[2], "x").close()
            with write_atomically(Path(sys.argv[1])) as file:
                file.write(b"%d" % time.monotonic_ns())
            Path(sys.argv[2]).unlink()
            got += 1
    except Busy:
        pass
print(got)
"""


@needs_linux
def test_two_that_claim_one_output_over_and_over_never_have_it_both(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIMS, str(tmp_path / "a.csv"), str(tmp_path / "held")]
    both = [subprocess.Popen(command, env=environment("windows"), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert min(counts) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


WRITES = """
import sys
from pathlib import Path
from pipeline.storage.atomic import remove_stale, write_atomically
with write_atomically(Path(sys.argv[1])) as file:
    file.write(b"x" * 100_000)
    print("ready", flush=True)
    sys.stdin.read()
"""


@needs_linux
def test_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    def begun(name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", WRITES, str(tmp_path / name)]
        process = subprocess.Popen(command, env=environment("windows"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    killed, living = begun("killed.csv"), begun("living.csv")
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    sweep = "import pathlib, pipeline.storage.atomic as files; files.remove_stale(pathlib.Path('.'))"
    subprocess.run([sys.executable, "-c", sweep], cwd=tmp_path, env=environment("windows"), check=True)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("living.csv.")
    living.communicate()
    assert tree(tmp_path) == {"living.csv": b"x" * 100_000}


# --- names


@pytest.mark.parametrize("text", [r"C:\photos", "C:/photos", "C://photos", r"\\server\share\photos", r"D:photos", "c:"])
def test_a_drive_letter_begins_no_url(text: str) -> None:
    assert path_or_url(text) == Path(text)


def test_a_url_still_does() -> None:
    assert isinstance(path_or_url("s3://eyes/cache"), Url)
    with pytest.raises(StoreError, match="of URLs only"):
        path_or_url("file://C:/photos")


def test_names_of_files_below_a_folder_have_slashes() -> None:
    """`str` of a path has backslashes on Windows; manifests, reports of damage and digests must not."""
    assert PureWindowsPath(r"train\1_left.jpeg").as_posix() == "train/1_left.jpeg"
    for package in ("pipeline", "tools", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"str\([^()]*relative_to", path.read_text("utf-8")), path


def test_a_run_keeps_its_files_where_names_are_told_apart_by_case_or_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"asked": 1, "resolved": 1, "cache_digest": 1}', "utf-8")
    assert belongs_to_run(tmp_path / "Predictions_TEST.csv")
    assert not belongs_to_run(tmp_path / "mine.csv")


def test_an_input_is_known_by_another_case_of_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS and Windows know it, where names that differ in case alone are one."""
    (tmp_path / "photos" / "eyes").mkdir(parents=True)
    (tmp_path / "PHOTOS").mkdir()
    monkeypatch.setattr(os.path, "samefile", lambda one, other: str(one).lower() == str(other).lower())
    folder = OutputFolder()
    for read, words in ((tmp_path / "photos", "the command reads it"), (tmp_path / "photos/eyes", "contains")):
        with pytest.raises(OutputError, match=words):
            folder.check(tmp_path / "PHOTOS", [read])


def test_stdout_of_macos_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/stdout leads to /dev/fd/1 there, and no further."""
    monkeypatch.setattr(os.path, "realpath", str)
    monkeypatch.setattr(os, "readlink", lambda path: {"/dev/stdout": "fd/1"}[path])
    assert atomic._open_descriptor(Path("/dev/stdout")) == 1
    assert atomic._open_descriptor(Path("/dev/fd/3")) == 3


def test_a_folder_that_may_not_be_written_is_named_without_statvfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "statvfs", raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="its folder may not be written to"):
        OutputFolder().check(tmp_path / "out", [])


# --- what is installed where


@needs_linux
def test_a_cache_behind_a_url_is_refused_in_a_line_where_it_cannot_be_read(tmp_path: Path) -> None:
    code = "import pathlib\nfrom pipeline.storage.local_cache import LocalFolder\nLocalFolder(pathlib.Path('x'), 1)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment("windows"), capture_output=True, text=True
    )
    assert "StoreError: caches behind URLs can be read on Linux and macOS only" in done.stderr


def test_without_wheels_of_dali_the_other_loader_is_named(
    make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    path = make_cache({"1_left": np.zeros((32, 32, 3), np.uint8)}, {"1_left": 0})
    monkeypatch.setitem(sys.modules, "pipeline.loading.dali_loader", None)
    with open_cache(path) as cache:
        for system, words in (("darwin", "--loader torchvision"), ("linux", "DALI is not installed")):
            monkeypatch.setattr(sys, "platform", system)
            with pytest.raises(LoaderMissing, match=rf"{words}.*pip install 'fundus-grading\[dali\]'$"):
                open_loader("dali", cache, split="train", batch_size=1)


@needs_linux
@pytest.mark.parametrize(
    ("system", "extras"),
    [("Linux x86_64", "dali,dev"), ("Linux aarch64", "dali,dev"), ("Darwin arm64", "dev"), ("Linux riscv64", "dev")],
)
def test_make_installs_dali_where_it_has_wheels(system: str, extras: str, tmp_path: Path) -> None:
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {system}\n", "utf-8")
    (tmp_path / "uname").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    plan = subprocess.run(
        ["make", "-n", "-B", "demo"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout
    assert f"--editable '.[{extras}]'" in plan


def test_the_commands_without_make_are_those_of_the_makefile() -> None:
    page, makefile = ((ROOT / name).read_text("utf-8") for name in ("docs/systems.md", "Makefile"))
    demo = makefile[makefile.index("\ndemo:") :].split("\n\n", 1)[0]
    made = re.findall(r"^\t\$\(BIN\)/((?:tools|trainer) .*)$", demo, re.MULTILINE)
    assert len(made) == 4
    assert re.findall(r"^    \.venv/bin/((?:tools|trainer) .*)$", page, re.MULTILINE) == made
    windows = re.findall(r"^    \.venv\\Scripts\\((?:tools|trainer) .*)$", page, re.MULTILINE)
    assert [line.replace("\\", "/") for line in windows] == made
