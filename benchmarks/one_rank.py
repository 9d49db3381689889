"""The paths for several processes, taken by one: a process group of one rank, by NCCL on a card and by gloo without.

One rank's sums are its own, so its steps must give what plain training gives; that the collectives are built, called
and timed at all is what this shows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import workloads
from measuring import Stage

from pipeline.cache.cache import Cache
from pipeline.loading.batch import Batch
from trainer.distributed.process_group import averaged, from_main, highest
from trainer.distributed.sync_batchnorm import synchronise
from trainer.training.learner import Learner

STEPS = 2
"""The second has the first one's gradient in its loss; later ones magnify the rounding of float32."""


@contextmanager
def group_of_one(device: torch.device) -> Iterator[str]:
    """A process group as `trainer.distributed.process_group.joined` makes it; its backend."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host without a network has no other address
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield backend
    finally:
        dist.destroy_process_group()


@contextmanager
def as_one_of_several() -> Iterator[None]:
    """The process group does nothing for one rank alone; within the block it believes that there are more."""
    with patch("trainer.distributed.process_group.world_size", lambda: 2):
        yield


def as_rank(learner: Learner) -> Learner:
    """The learner's network as a rank has it: BatchNorm over all ranks, gradients averaged over them."""
    with as_one_of_several(), patch("trainer.distributed.sync_batchnorm.world_size", lambda: 2):
        synchronise(learner._model, learner.weights.device)
        learner._net = averaged(learner._model)
    return learner


def steps_of(learner: Learner, batch: Batch) -> list[list[float]]:
    """What some steps return: summed loss, graded right, photographs."""
    found = [learner.step(batch, 0, step, 0.01) for step in range(STEPS)]
    return torch.stack(found).tolist()


def compare(stage: Stage, cache: Cache, size: int) -> dict[str, Any]:
    """The losses of some steps, plainly and as one rank, from equal weights on equal photographs."""
    images, grades = workloads.resident(stage, size)
    batch = Batch(images, grades, torch.arange(len(images)))

    def made() -> Learner:
        torch.manual_seed(0)
        return workloads.own_learner(stage, cache, "resnet18", size, precision="float32")

    plain = steps_of(made(), batch)
    with group_of_one(stage.device) as backend:
        learner = as_rank(made())
        with as_one_of_several():
            ranked = steps_of(learner, batch)
            said, most = from_main(lambda: {"loss": plain[0][0]}), highest(3)
    return {
        "backend": backend,
        "layers": sorted({type(each).__name__ for each in learner._model.modules() if "Batch" in type(each).__name__}),
        "network": type(learner._net).__name__,
        "losses": [step[0] for step in ranked],
        "largest_difference": max(abs(a[0] - b[0]) / abs(b[0]) for a, b in zip(ranked, plain, strict=True)),
        "objects_and_numbers_arrive": said == {"loss": plain[0][0]} and most == 3,
    }


def measure(stage: Stage, cache: Cache, size: int) -> None:
    """What being a rank costs a step, in turn with the plain one."""
    plain, ranked = "trainer's step, plainly", "trainer's step, as one rank"
    images, grades = workloads.resident(stage, size)
    batch = Batch(images, grades, torch.arange(len(images)))
    with group_of_one(stage.device), stage.group() as group:

        def make(learner: Learner, several: bool) -> Any:
            def run(batches: int) -> None:
                with patch("trainer.distributed.process_group.world_size", lambda: 2 if several else 1):
                    for _ in range(batches):
                        learner.step(batch, 0, 1, 0.001)

            return run

        group.add(plain, lambda: make(workloads.own_learner(stage, cache, "resnet18", size), False))
        group.add(ranked, lambda: make(as_rank(workloads.own_learner(stage, cache, "resnet18", size)), True))
    stage.want("a step as one rank / plainly", stage.ratio(ranked, plain))
