"""The process group. torchrun starts the processes and tells each its rank by environment variables; torch.distributed
connects them. With one process, all functions here do nothing.

Sums, gathered tensors and decisions are the same on every rank, bit for bit, so weights and curves stay equal. Only
rank 0 prints and writes.
"""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import RunError
from pipeline.loading.plan import UNSHARDED, Shard
from pipeline.machine import usable_cores

T = TypeVar("T")

logger = logging.getLogger(__name__)

TIMEOUT: Final = timedelta(minutes=10)
"""How long a rank waits for the others. A rank that dies is noticed at once; this limit is for one that hangs. It is
long because rank 0 may be downloading weights or measuring meanwhile."""
GRACE: Final = 3.0
"""Seconds until a rank that lost another one ends. torchrun checks ten times a second, and names the first dead rank
that it finds as the cause."""
POLL: Final = 0.001
"""Seconds between two checks whether the other ranks have finished, so that signals are handled meanwhile."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started into a process group, for the duration of the block.

    device: "cpu", "cuda" or "mps". Each rank takes the GPU of its local rank. On CPUs the ranks of a machine divide its
    cores, unless OMP_NUM_THREADS is above 1 (torchrun itself sets it to 1).
    Raises RunError for devices that several processes cannot use. Exits with 1 if another rank is lost.
    """
    if not _launched():
        yield
        return
    here, backend = local_world_size(), "gloo"
    if device == "mps":
        raise RunError("--device mps works for one process only; --device cpu works for several")
    if device == "cuda":
        there = torch.cuda.device_count()
        if here > there:
            raise RunError(f"{here} processes on {socket.gethostname()}, but {there} GPUs; --nproc-per-node {there}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # messages between the hosts do not wait for the GPUs
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, usable_cores() // here))
    try:
        store, rank, ranks = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
        store = dist.PrefixStore(_attempt(store, rank, ranks), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=TIMEOUT)
        with _mute(rank > 0):
            yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        _leave(f"one of the {os.environ['WORLD_SIZE']} processes is lost; see torchrun's report for which and why")
    dist.destroy_process_group()


def _launched() -> bool:
    """Whether torchrun started this process and others."""
    return dist.is_available() and dist.is_torchelastic_launched() and os.environ["WORLD_SIZE"] != "1"


def _attempt(store: Any, rank: int, ranks: int) -> str:
    """A name that is common to the processes of this attempt. torchrun's store survives a restart and still has the
    addresses of dead processes; a process that reads those cannot connect (torch 2.14).

    Each process writes a key of its own, which rank 0 answers. Keys of earlier attempts are never answered.
    """
    name, until = uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if rank > 0:
        store.set(f"word of {rank}", name)
        name = str(store.get(f"answer to {name}"), "utf-8")
        store.set(f"{name} reached {rank}", "")
        return name
    missing = set(range(1, ranks))
    while missing:
        if time.monotonic() > until:
            raise RunError(f"rank {min(missing)} has not connected within {TIMEOUT}; see torchrun's report")
        for other in tuple(missing):
            if store.check([f"word of {other}"]):
                store.set(f"answer to {store.get(f'word of {other}').decode()}", name)
            if store.check([f"{name} reached {other}"]):
                missing.remove(other)
        time.sleep(10 * POLL)
    return name


@contextmanager
def _mute(mute: bool) -> Iterator[None]:
    if not mute:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _leave(line: str) -> None:
    """Ends this process after GRACE seconds, so that torchrun first finds the rank that is the cause."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if speaks():
        logger.error(line)
    time.sleep(GRACE)
    raise SystemExit(1)


def report(line: str) -> bool:
    """Tells torchrun why this process fails, for its report; returns whether to say it on stderr too."""
    if _launched() and (file := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        now = int(time.time())
        # The format of torch.distributed.elastic.multiprocessing.errors. Its ErrorHandler would put a traceback into
        # torchrun's report.
        with open(file, "w", encoding="utf-8") as opened:
            json.dump({"message": {"message": line, "extraInfo": {"py_callstack": line, "timestamp": now}}}, opened)
    return speaks()


def speaks() -> bool:
    """Whether this process is the first one that fails. The messages of the others would repeat or follow from its."""
    if not _launched():
        return True
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        return bool(store.add(f"fundus-grading/failed-{os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1)
    except RuntimeError:  # the store is rank 0's, which is dead
        return True


def restarted() -> bool:
    """Whether torchrun started the processes anew because one of them had failed (`--max-restarts`)."""
    return dist.is_available() and dist.is_torchelastic_launched() and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """Number of them on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _launched() else 1


def shard() -> Shard:
    """This process's part of an epoch."""
    return Shard(dist.get_rank(), world_size()) if world_size() > 1 else UNSHARDED


def is_main() -> bool:
    """Whether this process is rank 0, which prints and writes."""
    return shard().rank == 0


def from_main(make: Callable[[], T]) -> T:
    """Calls `make` on rank 0 and returns its result on every rank. Tensors in it must be on the CPU."""
    if world_size() == 1:
        return make()
    made: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(made, src=0)
    result: T = made[0]
    return result


def from_all(mine: T) -> list[T]:
    """The values of all ranks, in the order of the ranks."""
    if world_size() == 1:
        return [mine]
    theirs: list[Any] = [None] * world_size()
    dist.all_gather_object(theirs, mine)
    return theirs


def highest(number: int) -> int:
    """The highest of the ranks' numbers."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(int(number))
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def total(mine: Tensor) -> Tensor:
    """The sum of the ranks' tensors. It may overwrite `mine`. On a GPU the host does not wait for it."""
    if world_size() > 1:
        dist.all_reduce(mine)
    return mine


def total_on_cpu(mine: Tensor) -> Tensor:
    """As `total`, on the CPU; signals are handled while it waits for the other ranks."""
    if world_size() > 1:
        work = dist.all_reduce(mine, async_op=True)
        while not work.is_completed():
            time.sleep(POLL)
        work.wait()
    return mine


def gather(mine: Tensor, add: Callable[[Tensor], Tensor] = total_on_cpu) -> Tensor:
    """The tensors (n_rank, ...) of all ranks as one (n, ...), in the plan's order: rank r has the rows r, r + world
    size, r + 2 * world size ..."""
    rank, ranks = shard()
    if ranks == 1:
        return mine
    everything = mine.new_zeros(int(add(torch.tensor(len(mine)))), *mine.shape[1:])
    everything[rank::ranks] = mine
    return add(everything)


def shifted(mine: Tensor) -> Tensor:
    """For each photograph of this rank's batch the one before it in the whole batch, as (n_rank, ...); for the first
    one the last.

    mine: (n_rank, ...), uint8, int64 or float32.
    """
    rank, ranks = shard()
    return gather(mine, total).roll(1, 0)[rank::ranks]


def same_state(model: nn.Module) -> None:
    """Copies the weights and BatchNorm statistics of rank 0 into the model, which is on the CPU."""
    if world_size() > 1:
        model.load_state_dict(from_main(model.state_dict))


def averaged(module: nn.Module) -> nn.Module:
    """The module, wrapped so that backward() gives each parameter the mean of the ranks' gradients."""
    return module if world_size() == 1 else DistributedDataParallel(module, gradient_as_bucket_view=True)
