"""Several processes that train one network: torchrun starts them, and says by its environment variables which of them
this one is; torch.distributed joins them. Alone, everything here does nothing.

What is added up, put together or decided here is the same on every rank, bit for bit, so their weights, curves and
decisions never part. Only rank 0 talks and writes.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

import click
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import RunError
from pipeline.machine import usable_cores

T = TypeVar("T")

TIMEOUT: Final = timedelta(minutes=10)
"""That a rank waits for the others. The death of one is noticed at once; this is for one that hangs. Meanwhile rank 0
may be downloading weights or measuring."""
GRACE: Final = 3.0
"""Seconds that a rank which lost another lives on: torchrun looks ten times a second, and the first that it finds dead
is the one it names as the cause."""
POLL: Final = 0.001
"""Seconds between two looks at whether the others have come, where a signal must be heard meanwhile."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, for as long as the block lasts.

    `device`: "cpu", "cuda" or "mps". Of the GPUs each rank takes the one of its local number. On CPUs the ranks
    of a machine share its cores, unless OMP_NUM_THREADS says otherwise; 1 says nothing, because torchrun sets it.
    Raises RunError for devices that several processes cannot have. Exits with 1 where another rank is lost.
    """
    if not _launched():
        yield
        return
    here, backend = local_world_size(), "gloo"
    if device == "mps":
        raise RunError("--device mps serves one process; --device cpu serves several")
    if device == "cuda":
        there = torch.cuda.device_count()
        if here > there:
            raise RunError(f"{here} processes on {socket.gethostname()}, but {there} GPUs; --nproc-per-node {there}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # what the hosts tell one another need not wait for the GPUs
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
    """A name that the processes of this attempt have in common. torchrun's store outlives a restart, and with it the
    addresses of those that died: whoever reads them first cannot connect (torch 2.14).

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
            raise RunError(f"rank {min(missing)} has not come within {TIMEOUT}; see what torchrun says of it")
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
    """Ends this process, but not before torchrun has found the one that is the cause."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if speaks():
        click.echo(f"Error: {line}", err=True)
    time.sleep(GRACE)
    raise SystemExit(1)


def report(line: str) -> bool:
    """Tells torchrun why this process fails, for its report; returns whether to say it on stderr too."""
    if _launched() and (file := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        now = int(time.time())
        # The format of torch.distributed.elastic.multiprocessing.errors, whose ErrorHandler would put the traceback into
        # torchrun's report.
        with open(file, "w", encoding="utf-8") as opened:
            json.dump({"message": {"message": line, "extraInfo": {"py_callstack": line, "timestamp": now}}}, opened)
    return speaks()


def speaks() -> bool:
    """Whether this process is the first to say why it ends: what others would say is the same, or follows from it."""
    if not _launched():
        return True
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        return bool(store.add(f"fundus-grading/failed-{os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1)
    except RuntimeError:  # it was rank 0's, which is dead
        return True


def restarted() -> bool:
    """Whether torchrun started the processes anew because one of them had failed (`--max-restarts`)."""
    return dist.is_available() and dist.is_torchelastic_launched() and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """Those of them on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _launched() else 1


def shard() -> tuple[int, int]:
    """(rank, world): this process's part of an epoch (see pipeline.loading.plan.plan_epoch)."""
    return (dist.get_rank(), world_size()) if world_size() > 1 else (0, 1)


def is_main() -> bool:
    """Whether this process is the one that talks and writes."""
    return shard()[0] == 0


def from_main(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank; tensors must lie on the CPU."""
    if world_size() == 1:
        return make()
    made: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(made, src=0)
    result: T = made[0]
    return result


def from_all(mine: T) -> list[T]:
    """Every rank's, by rank."""
    if world_size() == 1:
        return [mine]
    theirs: list[Any] = [None] * world_size()
    dist.all_gather_object(theirs, mine)
    return theirs


def highest(number: int) -> int:
    """Of the ranks' numbers."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(int(number))
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def total(share: Tensor) -> Tensor:
    """The sum of the ranks' tensors, which may take the place of this one. On a GPU the host does not wait for it."""
    if world_size() > 1:
        dist.all_reduce(share)
    return share


def patient_total(share: Tensor) -> Tensor:
    """The same on the CPU, where a signal is heard while the others are waited for."""
    if world_size() > 1:
        work = dist.all_reduce(share, async_op=True)
        while not work.is_completed():
            time.sleep(POLL)
        work.wait()
    return share


def gather(share: Tensor, add: Callable[[Tensor], Tensor] = patient_total) -> Tensor:
    """(n, ...) of what the ranks have (n_rank, ...) of, in the plan's order: rank r has every world-th from r on."""
    rank, ranks = shard()
    if ranks == 1:
        return share
    everything = share.new_zeros(int(add(torch.tensor(len(share)))), *share.shape[1:])
    everything[rank::ranks] = share
    return add(everything)


def shifted(share: Tensor) -> Tensor:
    """Of each photograph of a batch here, the one before it in the whole batch; of the whole batch's first, the last.

    share: (n_rank, ...), uint8, int64 or float32.
    """
    rank, ranks = shard()
    return gather(share, total).roll(1, 0)[rank::ranks]


def same_state(model: nn.Module) -> None:
    """Gives the model, on the CPU, the weights and statistics of rank 0's."""
    if world_size() > 1:
        model.load_state_dict(from_main(model.state_dict))


def averaged(module: nn.Module) -> nn.Module:
    """The module such that backward() leaves in its parameters the mean of the ranks' gradients."""
    return module if world_size() == 1 else DistributedDataParallel(module, gradient_as_bucket_view=True)
