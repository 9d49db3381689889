"""Of the machine, what the commands set up before they begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.machine import HUGE_PAGES, OPENCV_THREADS

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os, re, sys
from pipeline.machine import set_up
set_up()
import torch
kept = [torch.zeros(8 << 20) for _ in range(4)]  # 32 MB each
pages = sum(int(size) for size in re.findall(r"AnonHugePages: +([0-9]+) kB", open("/proc/self/smaps").read()))
print(pages > 100_000, os.environ["OMP_WAIT_POLICY"])
"""
for_the_asking = pytest.mark.skipif(
    not THP.exists() or "[madvise]" not in THP.read_text(), reason="no huge pages for those who ask, on this machine"
)


def run(**environment: str) -> str:
    """Whether the tensors of a program lie in huge pages, and what threads do that wait."""
    without = {key: value for key, value in os.environ.items() if key not in (HUGE_PAGES, "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=without | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@for_the_asking
def test_tensors_lie_in_huge_pages() -> None:
    assert run() == "True PASSIVE"


@for_the_asking
def test_whoever_has_decided_is_heard() -> None:
    assert run(**{HUGE_PAGES: "0", "OMP_WAIT_POLICY": "ACTIVE"}) == "False ACTIVE"


@pytest.mark.parametrize("program", ["tools", "trainer"])
def test_a_command_does_not_begin_anew(program: str) -> None:
    """A debugger, a profiler and a shell see one process from the first to the last."""
    code = (
        f"import os, runpy, sys; sys.argv = ['{program}', '--help']\n"
        "os.execv = os.execve = os.fork = None\n"
        f"runpy.run_module('{program}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {program} ")


def test_opencv_starts_no_threads_in_a_command_unless_it_is_told_to() -> None:
    code = "from pipeline.machine import set_up; set_up(); import cv2; print(cv2.getNumThreads())"
    for asked, threads in ((None, "1"), ("2", "2")):
        environment = {key: value for key, value in os.environ.items() if key != OPENCV_THREADS}
        environment |= {OPENCV_THREADS: asked} if asked else {}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == threads
