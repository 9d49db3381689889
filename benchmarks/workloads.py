"""The rows that `tools bench` has not: decoders of the card, DALI as others use it, steps of either network."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from measuring import Group, Run, Stage
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.grades import N_GRADES
from pipeline.loading.batch import Batch, Loader
from tools.benchmark.workloads import MEAN, STD, Rows, Step
from trainer.config import FitConfig
from trainer.network.device import choose_precision, to_device
from trainer.network.model import Grader
from trainer.training.learner import Learner

NETWORKS: Final = ("resnet18", "resnet50")


def rows_of(stage: Stage, cache: Cache, stack: ExitStack) -> Rows:
    """What `tools bench` measures, on this cache at its own size."""
    return Rows(cache, cache.recipe.size, stage.scale.batch, stage.workers, stage.device, stack)


def resident(stage: Stage, size: int, *, batch: int | None = None) -> tuple[Tensor, Tensor]:
    """A batch that lies on the device: random images, for zeros let a card run faster than photographs do."""
    count = batch or stage.scale.batch
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=stage.device)
    grades = torch.randint(0, N_GRADES, (count,), device=stage.device)
    return images.contiguous(memory_format=torch.channels_last), grades


def step_row(network: str, size: int, *, compiled: bool = False) -> str:
    return f"step alone, {network}, {size} px" + (", --compile" if compiled else "")


def fed_row(loader: str, network: str, size: int) -> str:
    return f"step fed by {loader}, {network}, {size} px"


def loader_row(loader: str, size: int, cached: int) -> str:
    return f"--loader {loader}, uint8, {size} px" + (f" from a cache of {cached} px" if cached != size else "")


def nvjpeg_row(by: str, size: int, colours: str = "4:4:4") -> str:
    return f"nvJPEG alone by {by}, {size} px, {colours}"


def repeated(work: Callable[[], object]) -> Run:
    """The same work for every batch."""

    def run(batches: int) -> None:
        for _ in range(batches):
            work()

    return run


def alone(stage: Stage, network: str, size: int, *, compiled: bool = False) -> Run:
    """A training step as `tools bench` has it, on a resident batch."""
    step, (images, grades) = Step(stage.device, network, compiled=compiled), resident(stage, size)
    return repeated(lambda: step(images, grades))


def own_learner(stage: Stage, cache: Cache, network: str, size: int, **settings: Any) -> Learner:
    """trainer's own learner, its phase of fine-tuning open. `settings`: of FitConfig."""
    device = stage.device.type
    config = FitConfig(
        model=network,
        weights="none",
        batch=stage.scale.batch,
        size=size,
        device=device,
        loader="torchvision",
        precision=choose_precision("auto", device),
        epochs=1,
    )
    config = replace(config, **settings)
    model = Grader(network, config.link)
    to_device(model, stage.device)
    weights = torch.ones(N_GRADES, device=stage.device)
    learner = Learner(config, cache, {"train": Endless()}, model, weights)
    learner.open("finetune")
    learner.set_training()
    return learner


class Endless:
    """Stands for a loader where only its length is asked for."""

    def __len__(self) -> int:
        return 10**6

    def epoch(self, number: int, start: int = 0) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def own_step(stage: Stage, cache: Cache, network: str, size: int, **settings: Any) -> Run:
    """trainer's own step on a resident batch: clipped, counted, with whatever `settings` ask for."""
    learner = own_learner(stage, cache, network, size, **settings)
    images, grades = resident(stage, size)
    batch = Batch(images, grades, torch.arange(len(images)))
    numbers = iter(range(10**9))
    return repeated(lambda: learner.step(batch, 0, next(numbers) % 10**6, 0.001))


def nvimgcodec_alone(jpegs: Sequence[bytes], batch: int, kinds: Sequence[str], *, on_card: bool = True) -> Run:
    """The JPEGs through nvimgcodec, over and over. kinds: of its backends, by name, none: as it likes."""
    from nvidia import nvimgcodec

    backends = [nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, kind)) for kind in kinds]
    where = {} if on_card else {"device_id": nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY}
    decoder = nvimgcodec.Decoder(backends=backends or None, **where)
    streams = [nvimgcodec.CodeStream(jpeg) for jpeg in jpegs]

    def run(batches: int) -> None:
        for number in range(batches):
            some = [streams[i % len(streams)] for i in range(number * batch, (number + 1) * batch)]
            images = decoder.decode(some)
            if any(image is None for image in images):
                raise RuntimeError("nvimgcodec did not decode all of a batch")

    return run


def dali_alone(stage: Stage, jpegs: Sequence[bytes]) -> Run:
    """DALI's decoder without anything around it, fed as our loader feeds it."""
    from nvidia.dali import Pipeline, fn, types

    on_card = stage.device.type == "cuda"
    pipe = Pipeline(
        batch_size=stage.scale.batch,
        num_threads=stage.workers,
        device_id=0 if on_card else None,
        prefetch_queue_depth=1,
    )
    with pipe:
        encoded = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1, no_copy=True)
        pipe.set_outputs(fn.decoders.image(encoded, device="mixed" if on_card else "cpu", output_type=types.RGB))
    pipe.build()
    arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    batch = stage.scale.batch

    def feed(number: int) -> None:
        pipe.feed_input("jpegs", [arrays[i % len(arrays)] for i in range(number * batch, (number + 1) * batch)])
        pipe.schedule_run()

    def run(batches: int) -> None:
        feed(0)
        for number in range(1, batches + 1):
            if number < batches:
                feed(number)
            pipe.outputs()

    return run


def dali_own_reader(stage: Stage, folder: Path, jpegs: Sequence[bytes]) -> Run:
    """DALI as its own examples show it: it reads, shuffles, decodes, turns and normalises by itself."""
    from nvidia.dali import Pipeline, fn, types

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.jpeg" for number in range(len(jpegs))]
    for path, jpeg in zip(files, jpegs, strict=True):
        path.write_bytes(jpeg)
    on_card = stage.device.type == "cuda"
    pipe = Pipeline(
        batch_size=stage.scale.batch,
        num_threads=stage.workers,
        device_id=0 if on_card else None,
        prefetch_queue_depth=2,
        seed=0,
    )
    with pipe:
        encoded, labels = fn.readers.file(files=[str(path) for path in files], random_shuffle=True, name="files")
        images = fn.decoders.image(encoded, device="mixed" if on_card else "cpu", output_type=types.RGB)
        angles = fn.random.uniform(range=(-180.0, 180.0))
        images = fn.rotate(images, angle=angles, keep_size=True, fill_value=0)
        images = fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(),
            mean=[255 * mean for mean in MEAN],
            std=[255 * std for std in STD],
            dtype=types.FLOAT,
            output_layout="CHW",
        )
        pipe.set_outputs(images, labels)
    pipe.build()
    return repeated(pipe.run)


def drain(loader: Loader) -> Run:
    """The last batches of an epoch, each thrown away as it comes."""

    def run(batches: int) -> None:
        for _ in loader.epoch(0, start=len(loader) - batches):
            pass

    return run


def host_share(run: Run, batches: int) -> dict[str, float]:
    """How long the card has nothing to do while so many batches are worked through, by torch's profiler.

    idle_share: of the time from the first kernel to the last. longest_gap_ms: without any kernel or copy.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    run(batches)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run(batches)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    )
    return idle(spans)


def idle(spans: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of spans in microseconds, sorted by their beginnings, which may overlap.

    >>> idle([(0, 4), (1, 2), (6, 10)])
    {'idle_share': 0.2, 'longest_gap_ms': 0.002}
    """
    if not spans:
        raise RuntimeError("the profiler saw no work on the card")
    busy_until, gaps = spans[0][1], [0.0]
    for start, end in spans:
        gaps.append(max(0.0, start - busy_until))
        busy_until = max(busy_until, end)
    return {
        "idle_share": round(sum(gaps) / (busy_until - spans[0][0]), 4),
        "longest_gap_ms": round(max(gaps) / 1000, 3),
    }


def add_resident_and_fed(stage: Stage, group: Group, rows: Rows, network: str, loaders: dict[str, Loader]) -> None:
    """A step alone, and fed by each of the loaders, which lie at the rows' size."""
    size = rows.size
    group.add(step_row(network, size), lambda: alone(stage, network, size))
    for name, loader in loaders.items():
        group.add(fed_row(name, network, size), lambda loader=loader: rows.render(loader, Step(stage.device, network)))
