"""The machine and the process: cores, signals, settings that hold for the whole process."""

import codecs
import io
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Final

from pipeline.errors import FundusError

OPENCV_THREADS: Final = "OPENCV_FOR_THREADS_NUM"
"""The environment variable with OpenCV's number of threads. OpenCV reads it at its first call."""
END_SIGNALS: Final = tuple(number for number in signal.Signals if number.name in ("SIGTERM", "SIGBREAK"))
"""Signals that end a process, like Ctrl-C. On Windows the signal comes from Ctrl-Break or when the window closes."""
HUGE_PAGES: Final = "THP_MEM_ALLOC_ENABLE"
"""The environment variable that makes torch ask the kernel for huge pages if it is 1."""


def usable_cores() -> int:
    """The number of cores that this process may use. A container or a job scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device ("cpu", "cuda", "mps") multiplies bfloat16 matrices in hardware.

    CUDA cards do since Ampere, and CPUs with AMX or AVX512_BF16 do: AMD's since Zen 4, Intel's servers since Sapphire
    Rapids. Others emulate it, which is slower than float32.
    """
    import torch  # imported late: --help must not wait for it

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())  # all with AMX have it


def set_up() -> None:
    """Sets up the process of a command: its output and warnings, matplotlib, OpenCV and torch.

    Commands call this at their start, before they use any of the four. Libraries never call it: the settings belong to
    the process, and another program may want others.

    Output: file names may have bytes that are not UTF-8, and a terminal may lack letters. Printing fails in neither
    case.

    matplotlib: no backend is used. A notebook sets one for itself, and a command started there may not have it.

    torch's threads: by default a waiting thread spins, and takes a core that a loader's threads need. Here it sleeps
    after some microseconds: with two other processes on two cores, this gave 42 images/s instead of 7. Sleeping at once
    is slower for small layers: a step of 32 photographs of 96 px takes 0.15 s instead of 0.13 s.

    OpenCV: each call runs in one thread, because the program's own threads keep all cores busy. Child processes inherit
    this.

    Huge pages: torch asks for them if the kernel gives them on request. In each step torch frees and allocates
    gigabytes, page by page: a step of 32 photographs of 512 px took 3.8 s on two cores, half of it in the kernel, and
    2.6 s with huge pages. (malloc can ask too, but only if it is set before the process starts. On another machine a
    step took 5.8 s without, 5.4 s by malloc, 5.35 s by torch.)
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if there is no console
            utf8 = codecs.lookup(stream.encoding).name == "utf-8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    os.environ.pop("MPLBACKEND", None)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault(OPENCV_THREADS, "1")
    ignore_odd_metadata()
    if _huge_pages_on_request():
        os.environ.setdefault(HUGE_PAGES, "1")


def ignore_odd_metadata() -> None:
    """Silences the warnings of Pillow and pydicom about odd metadata of photographs.

    Odd metadata are common and do not matter here. pydicom's warnings may also quote a file, whose texts are private.

    The filter holds for the whole process. `warnings.catch_warnings` would remove it while other threads read. So it is
    set once, when a command or a worker process starts, and not by `read_photo`.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(PIL|pydicom)\.")


def check_file_name_encoding() -> None:
    """Raises FundusError if file names are not read as UTF-8.

    A cache would then have other names than one made on another machine, and recorded paths would not be found again.
    """
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise FundusError(f"names of files are read as {encoding} here, not as UTF-8; set PYTHONUTF8=1")


def _huge_pages_on_request() -> bool:
    try:
        return "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("utf-8")
    except OSError:
        return False
