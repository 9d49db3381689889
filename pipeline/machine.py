"""The machine: cores, signals, settings of the whole process."""

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
"""The variable that OpenCV has its number of threads from, at its first call."""
END_SIGNALS: Final = tuple(number for number in signal.Signals if number.name in ("SIGTERM", "SIGBREAK"))
"""By which a process is told to end, beside Ctrl-C. On Windows it is Ctrl-Break, and the closing of the window."""
HUGE_PAGES: Final = "THP_MEM_ALLOC_ENABLE"
"""The variable by which torch asks the kernel for huge pages, where it is 1."""


def usable_cores() -> int:
    """Cores that this process may run on: a container or a job scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device ("cpu", "cuda", "mps") has circuits for products of bfloat16 matrices.

    So have CUDA cards since Ampere and CPUs with AMX or AVX512_BF16: AMD's since Zen 4, Intel's servers since Sapphire
    Rapids. Others emulate them, more slowly than they multiply float32.
    """
    import torch  # not before it is needed: --help must not wait for it

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())  # all with AMX have it


def set_up() -> None:
    """Makes the surroundings of a command those it was tested in: what it prints and warns of, matplotlib, OpenCV and
    torch, none of which may have been used yet. Only commands do so, at their start: in a process of somebody else's
    all this is his.

    Names of files may hold bytes that are no UTF-8, and a terminal may know few letters: printing neither fails.
    Figures are drawn without a backend; notebooks set one for their own, which a command started there may not have.

    Threads that wait for one another sleep after some microseconds. By default they spin, on cores that a loader's
    threads need: with two other processes on two cores, 7 images/s became 42. Those that sleep at once are slower where
    layers are small: a step of 32 photographs of 96 px takes 0.15 s instead of 0.13.

    OpenCV keeps each call to the thread that makes it, because our own threads keep every core busy already; processes
    that are started from here inherit it.

    Where the kernel gives huge pages to those who ask, torch asks. It gives back and fetches gigabytes each step, page
    by page: a step of 32 photographs of 512 px took 3.8 s on two cores, half of it the kernel's; with huge pages it
    took 2.6 s. (malloc can ask as well, but only in a process that begins so: on another machine 5.8 s without, 5.4 s
    by malloc, 5.35 s by torch.)
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where there is no console
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
    """Lets Pillow and pydicom read on in silence where a photograph's metadata are odd: no concern of ours, and common.
    pydicom's warnings may quote a file, whose texts nobody may see.

    The filter is the whole process's, and no thread may take it away while others read (`warnings.catch_warnings`
    would). So it is set once, where a command or a worker process starts, and not by `read_photo`.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(PIL|pydicom)\.")


def check_file_name_encoding() -> None:
    """Raises FundusError where names of files are not read as UTF-8: a cache would then hold other names than one that
    was made elsewhere, and paths that are recorded would not be found again."""
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise FundusError(f"names of files are read as {encoding} here, not as UTF-8; set PYTHONUTF8=1")


def _huge_pages_on_request() -> bool:
    try:
        return "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("utf-8")
    except OSError:
        return False
