"""Of the machine, what the commands set up before they begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.machine import HUGE_PAGES

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os, sys
began = os.environ.get("BEGAN")
os.environ["BEGAN"] = str(os.getpid())
from pipeline.machine import set_up
set_up()
print(began == str(os.getpid()), sys.argv[1:], os.environ.get("GLIBC_TUNABLES", ""), os.environ["OMP_WAIT_POLICY"])
sys.exit(7)
"""
for_the_asking = pytest.mark.skipif(
    not THP.exists() or "[madvise]" not in THP.read_text(), reason="no huge pages for those who ask, on this machine"
)


def run(**environment: str) -> str:
    """What the program prints, which ends with the exit code 7 and has arguments with spaces and dashes."""
    without = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "fit", "--run", "a b"],
        env=without | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    return done.stdout.strip()


@for_the_asking
def test_a_command_begins_anew_once_with_its_id_and_arguments_to_have_huge_pages() -> None:
    assert run() == f"True ['fit', '--run', 'a b'] {HUGE_PAGES} PASSIVE"


@for_the_asking
def test_other_tunables_stay() -> None:
    assert run(GLIBC_TUNABLES="glibc.malloc.check=0") == (
        f"True ['fit', '--run', 'a b'] glibc.malloc.check=0:{HUGE_PAGES} PASSIVE"
    )


def test_whoever_has_decided_on_huge_pages_is_heard() -> None:
    said = "glibc.malloc.hugetlb=0"
    assert run(GLIBC_TUNABLES=said, OMP_WAIT_POLICY="ACTIVE") == f"False ['fit', '--run', 'a b'] {said} ACTIVE"
