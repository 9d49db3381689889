"""The machine this runs on."""

import os
import sys
from pathlib import Path
from typing import Final

HUGE_PAGES: Final = "glibc.malloc.hugetlb=1"


def usable_cores() -> int:
    """Cores that this process may run on: a container or a job scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device ("cpu", "cuda", "mps") has circuits for products of bfloat16 matrices.

    So have CUDA cards since Ampere and CPUs with AMX. Others emulate them, more slowly than they multiply float32.
    """
    import torch  # not before it is needed: --help must not wait for it

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def set_up() -> None:
    """Gives this process, before it imports torch, the environment in which torch is fastest on a CPU.

    Waiting threads sleep: else they spin on cores that a loader's threads need (with two other processes on two cores,
    7 images/s became 42). And where the kernel gives huge pages to those who ask, malloc asks, which only begins when a
    process does, so this one begins anew, with the same id. torch returns and fetches gigabytes each step, page by
    page: a step of 32 photographs of 512 px took 3.8 s on two cores, half of it the kernel's, and so takes 2.6 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _huge_pages_for_the_asking() and "hugetlb" not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}".removeprefix(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _huge_pages_for_the_asking() -> bool:
    try:
        return "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
