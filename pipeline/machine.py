"""The machine this runs on."""

import os


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
