"""Files are whole or not there, whoever else writes them; links are followed, and what is no file is written to."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.storage.atomic import Busy, claimed, is_stream, remove_stale, write_atomically


def written(path: Path, data: bytes) -> None:
    with write_atomically(path) as file:
        file.write(data)


@contextmanager
def another_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python at work on a piece of code, after it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


CLAIM = """
import sys
from pathlib import Path
from pipeline.storage.atomic import claimed
with claimed([Path(sys.argv[1])]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_an_exception_leaves_the_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "a") as file:
        file.write(b"new" * (1 // 0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_of_many_writers_of_one_file_the_last_wins_whole(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 100_000 for letter in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda data: written(tmp_path / "a", data), contents * 4))
    assert (tmp_path / "a").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/a")
    written(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "a").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("elsewhere/b")
    written(tmp_path / "dangling", b"new")
    assert (tmp_path / "elsewhere" / "b").read_bytes() == b"new"


def test_a_fifo_gets_the_bytes_and_stays_whichever_end_comes_first(tmp_path: Path) -> None:
    for reader_first in (True, False):
        fifo = tmp_path / f"fifo{reader_first}"
        os.mkfifo(fifo)
        got: list[bytes] = []
        reader = threading.Timer(0 if reader_first else 0.3, lambda to, fifo: to.append(fifo.read_bytes()), (got, fifo))
        reader.start()
        written(fifo, b"x" * 200_000)
        reader.join()
        assert got == [b"x" * 200_000]
        assert fifo.is_fifo()


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    written(null, b"x")
    assert null.is_symlink()
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="No space left"):
        written(Path("/dev/full"), b"x")
    assert Path("/dev/full").is_char_device()


def test_stdout_is_a_stream_even_where_it_goes_to_a_file(tmp_path: Path) -> None:
    code = "import pathlib, pipeline.storage.atomic as files\n"
    code += "with files.write_atomically(pathlib.Path('/dev/stdout')) as file: file.write(b'x')"
    with open(tmp_path / "out", "wb") as out:
        inode = os.fstat(out.fileno()).st_ino
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"x"
    assert (tmp_path / "out").stat().st_ino == inode, "the shell's own file, not another in its place"
    assert not is_stream(tmp_path / "out")


def test_what_a_shell_appends_to_keeps_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "all").write_text("old\n")
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        code = (
            "import pathlib, pipeline.storage.atomic as files\n"
            f"with files.write_atomically(pathlib.Path('{path}')) as file:"
        )
        with open(tmp_path / "all", "ab") as out:
            subprocess.run([sys.executable, "-c", f"{code} file.write(b'new\\n')"], stdout=out, check=True)
    assert (tmp_path / "all").read_text() == "old\nnew\nnew\nnew\n"


def test_a_fifo_that_nobody_reads_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.atomic.READER", 0.1)
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OSError, match="nobody reads from it"):
        written(tmp_path / "p", b"x")


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with claimed([path]):
        written(path, b"x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_second_command_with_the_same_output_is_told(tmp_path: Path) -> None:
    out, other = tmp_path / "a.csv", tmp_path / "b.csv"
    with another_process(CLAIM, out):
        with pytest.raises(Busy), claimed([other, out]):
            pass
        with claimed([other]):
            pass
    assert not out.exists()


RACE = """
import sys, time
from pathlib import Path
from pipeline.storage.atomic import Busy, claimed
print("ready", flush=True)
until, got = time.monotonic() + 3, 0
while time.monotonic() < until:
    try:
        with claimed([Path(sys.argv[1])]), open(sys.argv[2], "x"):
            got += 1
            Path(sys.argv[2]).unlink()
    except Busy:
        pass
print(got)
"""


def test_two_that_claim_one_output_over_and_over_never_have_it_both(tmp_path: Path) -> None:
    """Whoever has it makes a file that must not be there: a FileExistsError would end a process with code 1."""
    (tmp_path / "marks").mkdir()
    command = [sys.executable, "-c", RACE, str(tmp_path / "a.csv"), str(tmp_path / "marks" / "held")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate()[0].split()[1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert min(counts) > 0


def test_by_another_name_of_it_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with another_process(CLAIM, tmp_path / "a.csv"), pytest.raises(Busy), claimed([tmp_path / "link" / "a.csv"]):
        pass


def test_what_a_killed_command_has_left_goes_and_nobody_elses(tmp_path: Path) -> None:
    with another_process(CLAIM, tmp_path / "a.csv"):
        assert len(list(tmp_path.iterdir())) == 1
    (left,) = tmp_path.iterdir()  # killed, so its temporary file is still there
    theirs = [tmp_path / name for name in ("a.csv.old.tmp", "a.csv.tmp", left.name.replace("a.csv", "b.csv"))]
    for path in theirs:
        path.write_bytes(b"somebody's")
    with claimed([tmp_path / "a.csv"]):
        assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted(theirs)
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(theirs[:2])


def test_folders_made_for_an_output_go_where_nothing_comes_of_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed([tmp_path / "no" / "such" / "a.csv"]):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with claimed([tmp_path / "no" / "such" / "a.csv"]):
        written(tmp_path / "no" / "such" / "a.csv", b"x")
    assert (tmp_path / "no" / "such" / "a.csv").read_bytes() == b"x"
