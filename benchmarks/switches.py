"""Suspicions of what slows the CUDA paths, each measured both ways; the product itself is not changed by any.

A switch is our code with one thing done otherwise, by a subclass or by a name replaced while it runs.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
import workloads
from drawn import EYES
from measuring import Group, Run, Stage
from torch import Tensor

from pipeline.cache.cache import Cache
from pipeline.loading.batch import Batch, Loader, prefetch
from pipeline.loading.loaders import open_loader
from tools.benchmark.workloads import AUGMENT, Rows, Step

AS_IT_IS: Final = "as it is"


def row(subject: str, variant: str) -> str:
    return f"{subject}: {variant}"


def say_switches(stage: Stage, subject: str, variants: Sequence[str]) -> None:
    """How many times as fast each variant is as our code as it is."""
    for variant in variants:
        stage.want(f"{subject}, {variant} / {AS_IT_IS}", stage.ratio(row(subject, variant), row(subject, AS_IT_IS)))


# --- the DALI loader ---


def dali_variants() -> dict[str, tuple[type, dict[str, Any], Callable[[], AbstractContextManager[object]], list[str]]]:
    """By name: the loader's class, what replaces names of DALI's `fn` while it is built, what is replaced while it
    runs, and what it needs."""
    from nvidia.dali import fn

    from pipeline.loading.dali_loader import DaliLoader

    class BoundToStream(DaliLoader):
        """outputs() does not wait for the batch: the stream that torch uses does. The JPEGs of two more batches are
        kept, since copies of them may be under way."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._late: deque[object] = deque(maxlen=2)
            super().__init__(*arguments, **settings)

        def _outputs(self) -> Tensor:
            (images,) = self._pipe.outputs(cuda_stream=torch.cuda.current_stream())
            self._late.append(self._fed.popleft())
            return torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    class PinnedBytes(DaliLoader):
        """The JPEGs are copied into page-locked memory before DALI sees them."""

        def _read(self, plan: Any) -> Any:
            job = super()._read(plan)

            def pinned() -> list[Any]:
                jpegs = job.jpegs.result()
                memory = torch.empty(sum(map(len, jpegs)), dtype=torch.uint8, pin_memory=True).numpy()
                np.concatenate(jpegs, out=memory)
                return np.split(memory, np.cumsum([len(jpeg) for jpeg in jpegs])[:-1])

            return job._replace(jpegs=self._reader.submit(pinned))

    class WithoutFrame(DaliLoader):
        """The warp fills with black by itself: no pass that pads each picture by a pixel."""

        def _start(self, jpegs: Any, plan: Any) -> None:
            shifted = plan.matrices.copy()
            shifted[:, :, 2] -= 2**self._halvings  # what `_start` adds for the frame
            super()._start(jpegs, plan._replace(matrices=shifted))

    class WithoutHalving(DaliLoader):
        """The warp reads the large picture: no pass that halves it. Other pixels, at the price of aliasing."""

        def _build(self) -> Any:
            self._halvings = 0
            return super()._build()

    class TwoReaders(DaliLoader):
        """Two threads read and check the JPEGs of two batches at once."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._reader.shutdown()
            self._reader = ThreadPoolExecutor(2, thread_name_prefix="loader")

    decode = fn.decoders.image

    def decoder(**settings: Any) -> dict[str, Any]:
        return {"decoders": _Namespace(fn.decoders, image=partial(decode, **settings))}

    bare_frame = {"crop": lambda images, **_: images, "warp_affine": partial(fn.warp_affine, fill_value=0)}
    three_ahead = partial(
        patch,
        "pipeline.loading.dali_loader.prefetch",
        lambda begin, items, depth=2: prefetch(begin, items, max(depth, 3)),
    )
    return {
        AS_IT_IS: (DaliLoader, {}, nullcontext, []),
        "outputs bound to torch's stream": (BoundToStream, {}, nullcontext, ["cuda"]),
        "JPEGs in page-locked memory": (PinnedBytes, {}, nullcontext, ["cuda"]),
        "both of these": (type("Both", (BoundToStream, PinnedBytes), {}), {}, nullcontext, ["cuda"]),
        "hw_decoder_load 0": (DaliLoader, decoder(hw_decoder_load=0.0), nullcontext, ["cuda"]),
        "hw_decoder_load 0.9": (DaliLoader, decoder(hw_decoder_load=0.9), nullcontext, ["cuda"]),
        "hw_decoder_load 1": (DaliLoader, decoder(hw_decoder_load=1.0), nullcontext, ["cuda"]),
        "preallocate hints of 512 px": (
            DaliLoader,
            decoder(preallocate_width_hint=512, preallocate_height_hint=512),
            nullcontext,
            ["cuda"],
        ),
        "no padding crop": (WithoutFrame, bare_frame, nullcontext, []),
        "fed three ahead": (DaliLoader, {}, three_ahead, []),
        "two readers": (TwoReaders, {}, nullcontext, []),
        "no halving": (WithoutHalving, {}, nullcontext, []),
    }


class _Namespace:
    """A module with some names replaced."""

    def __init__(self, module: object, **names: object) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def add_dali(
    stage: Stage, group: Group, cache: Cache, size: int, subject: str, names: Sequence[str], *, feeding: bool = False
) -> None:
    """Rows of the DALI loader at that size; `names`: of the variants. feeding: a ResNet-18's steps."""
    from nvidia.dali import fn

    for name, (loader_class, built_with, running, needs) in dali_variants().items():
        if name not in names:
            continue

        def make(
            loader_class: type = loader_class,
            built_with: dict[str, Any] = built_with,
            running: Callable[[], AbstractContextManager[object]] = running,
        ) -> Run:
            with (
                patch("pipeline.loading.dali_loader.DaliLoader", loader_class),
                patch("pipeline.loading.dali_loader.fn", _Namespace(fn, **built_with)),
            ):
                loader = open_at(stage, group.stack, "dali", cache, size)
            step = Step(stage.device) if feeding else None

            def run(batches: int) -> None:
                with running():
                    for images, grades, _ in loader.epoch(0, start=len(loader) - batches):
                        if step:
                            step(images, grades)

            return run

        group.add(row(subject, name), make, needs=["dali", *needs])


def open_at(
    stage: Stage, stack: ExitStack, name: str, cache: Cache, size: int, device: torch.device | None = None
) -> Loader:
    return stack.enter_context(
        open_loader(
            name,
            cache,
            split="all",
            batch_size=stage.scale.batch,
            augment=AUGMENT,
            shuffle=True,
            size=size,
            device=device or stage.device,
            workers=stage.workers,
        )
    )


def late_readers(stage: Stage, cache: Cache, loader_class: type) -> bool:
    """Whether batches are whole though the card reads them long after the host has let go of them.

    The card is kept busy between any two batches, so the host runs several ahead; what it lets go of must not be
    overwritten by the batches that follow.
    """
    batches = 24
    sums: list[list[list[int]]] = []
    for cycles in (0, 50_000_000):  # 25 ms of an H100
        with ExitStack() as stack, patch("pipeline.loading.dali_loader.DaliLoader", loader_class):
            loader = open_at(stage, stack, "dali", cache, cache.recipe.size)
            found = []
            for batch in loader.epoch(0, start=len(loader) - batches):
                if cycles:
                    torch.cuda._sleep(cycles)
                found.append(batch.images.sum(dim=(1, 2, 3), dtype=torch.int64))
                if not cycles:
                    torch.cuda.synchronize()
                del batch
            sums.append(torch.stack(found).tolist())
    return sums[0] == sums[1]


# --- the torchvision loader ---


class _Pageable:
    """torch, whose memory is never page-locked."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: Any, pin_memory: bool = False, **settings: Any) -> Tensor:
        return torch.empty(*shape, **settings)


def add_torchvision(stage: Stage, group: Group, cache: Cache, size: int, subject: str) -> list[str]:
    """Rows of the torchvision loader at that size; their variants' names."""

    def as_it_is() -> Run:
        return workloads.drain(open_at(stage, group.stack, "torchvision", cache, size))

    def pageable() -> Run:
        inner = as_it_is()

        def run(batches: int) -> None:
            with patch("pipeline.loading.torchvision_loader.torch", _Pageable()):
                inner(batches)

        return run

    def warped_by_threads() -> Run:
        loader = open_at(stage, group.stack, "torchvision", cache, size, torch.device("cpu"))

        def run(batches: int) -> None:
            for batch in loader.epoch(0, start=len(loader) - batches):
                batch.images.pin_memory().to(stage.device, non_blocking=True)

        return run

    def own_stream() -> Run:
        loader = open_at(stage, group.stack, "torchvision", cache, size)

        def run(batches: int) -> None:
            for _ in on_own_stream(loader.epoch(0, start=len(loader) - batches)):
                pass

        return run

    variants: dict[str, tuple[Callable[[], Run], list[str]]] = {
        AS_IT_IS: (as_it_is, []),
        "pageable buffers": (pageable, ["cuda"]),
        "warped by the threads": (warped_by_threads, ["cuda"]),
        "copied and warped on a stream of its own": (own_stream, ["cuda"]),
    }
    for name, (make, needs) in variants.items():
        group.add(row(subject, name), make, needs=needs)
    return [name for name in variants if name != AS_IT_IS]


def on_own_stream(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, whose copy and warp do not stand in the queue behind the training step's kernels."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    for batch in _within(stream, batches):
        current.wait_stream(stream)
        for tensor in batch[:2]:
            tensor.record_stream(current)
        yield batch


def _within(stream: "torch.cuda.Stream", batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        with torch.cuda.stream(stream):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def add_fed_streams(stage: Stage, group: Group, rows: Rows, subject: str) -> list[str]:
    """A ResNet-18's step fed by the torchvision loader, on one stream and on two."""
    loader = rows.open("torchvision", rows.cache, rows.size)

    def two() -> Run:
        step = Step(stage.device)

        def run(batches: int) -> None:
            for images, grades, _ in on_own_stream(loader.epoch(0, start=len(loader) - batches)):
                step(images, grades)

        return run

    group.add(row(subject, AS_IT_IS), lambda: rows.render(loader, Step(stage.device)))
    group.add(row(subject, "copied and warped on a stream of its own"), two, needs=["cuda"])
    return ["copied and warped on a stream of its own"]


# --- the training step ---


def add_steps(stage: Stage, group: Group, cache: Cache, size: int, subject: str) -> list[str]:
    """Rows of trainer's own step of a ResNet-18; their variants' names."""

    def unfused() -> Run:
        learner = workloads.own_learner(stage, cache, "resnet18", size)
        groups = learner.optimizer.param_groups
        plain = [{"params": each["params"], "weight_decay": each["weight_decay"]} for each in groups]
        learner.optimizer = torch.optim.SGD(plain, lr=0.0, momentum=learner.config.momentum, foreach=True)
        return stepping(learner)

    def stepping(learner: Any) -> Run:
        images, grades = workloads.resident(stage, size)
        batch = Batch(images, grades, torch.arange(len(images)))
        return workloads.repeated(lambda: learner.step(batch, 0, 1, 0.001))

    def autotuned() -> Run:
        inner = workloads.own_step(stage, cache, "resnet18", size)

        def run(batches: int) -> None:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                inner(batches)

        return run

    def looked_at() -> Run:
        learner = workloads.own_learner(stage, cache, "resnet18", size)
        images, grades = workloads.resident(stage, size)
        batch = Batch(images, grades, torch.arange(len(images)))
        return workloads.repeated(lambda: learner.step(batch, 0, 1, 0.001)[0].isfinite().item())

    def by_cat() -> Run:
        inner = workloads.own_step(stage, cache, "resnet18", size, mixup=0.2)

        def run(batches: int) -> None:
            with patch("trainer.training.learner.before", lambda share: torch.cat([share[-1:], share[:-1]])):
                inner(batches)

        return run

    plain = partial(workloads.own_step, stage, cache, "resnet18", size)
    variants: dict[str, tuple[Callable[[], Run], list[str]]] = {
        AS_IT_IS: (plain, []),
        "optimizer not fused": (unfused, []),
        "cudnn.benchmark": (autotuned, ["cuda"]),
        "the loss looked at in every step": (looked_at, []),
        "--ema 0.99": (partial(plain, ema=0.99), []),
        "--mixup 0.2": (partial(plain, mixup=0.2), []),
        "--mixup 0.2 whose neighbours keep channels-last": (by_cat, []),
    }
    for name, (make, needs) in variants.items():
        group.add(row(subject, name), make, needs=needs)
    return [name for name in variants if name != AS_IT_IS]


def find_layouts(stage: Stage, cache: Cache, size: int) -> None:
    """Whether photographs, mixed or not, reach the first convolution channels-last, and weights stay so."""
    from trainer.distributed.process_group import shifted
    from trainer.training.mixup import mix

    images, _ = workloads.resident(stage, size)
    last = torch.channels_last
    model = workloads.own_learner(stage, cache, "resnet18", size, ema=0.99).judged
    stage.facts["channels-last after `shifted`"] = shifted(images).is_contiguous(memory_format=last)
    for name, mixup, cutmix in (("mixup", 0.2, 0.0), ("cutmix", 0.0, 1.0)):
        mixed = mix(images, shifted(images), mixup, cutmix, 0, 0, 1).images
        stage.facts[f"channels-last after {name}"] = mixed.is_contiguous(memory_format=last)
        stage.facts[f"channels-last after {name} and normalising"] = bool(
            model.normalise(mixed).is_contiguous(memory_format=last)
        )
    kernels = [each for each in model.parameters() if each.ndim == 4]
    stage.facts["channels-last weights of the average"] = all(
        each.is_contiguous(memory_format=last) for each in kernels
    )


# --- the head phase's features, and predict ---


def add_features(stage: Stage, group: Group, cache: Cache, size: int, subject: str) -> list[str]:
    """The frozen backbone over photographs, its features brought to the host batch by batch, or at the end."""
    from trainer.network.device import measuring_precision, to_device
    from trainer.network.model import Grader

    def make(every_batch: bool) -> Run:
        model = Grader("resnet18")
        to_device(model, stage.device)
        backbone = torch.nn.Sequential(model.normalise, model.backbone).eval()
        loader = open_at(stage, group.stack, "torchvision", cache, size)

        @torch.inference_mode()
        def run(batches: int) -> None:
            found = []
            for batch in loader.epoch(0, start=len(loader) - batches):
                with measuring_precision(stage.device):
                    features = backbone(batch.images).float()
                found.append(features.cpu() if every_batch else features)
            torch.cat(found).cpu()

        return run

    group.add(row(subject, AS_IT_IS), partial(make, True))
    group.add(row(subject, "features stay on the card until the end"), partial(make, False))
    return ["features stay on the card until the end"]


def add_predict(stage: Stage, group: Group, size: int) -> None:
    """`trainer predict` on photographs as files: preparing alone, the network alone, and both."""
    from pipeline.photos.preparation import Recipe
    from trainer.inference.forward import probabilities
    from trainer.inference.inputs import BATCH, gather, render
    from trainer.network.device import to_device
    from trainer.network.metadata import Metadata
    from trainer.network.model import Grader

    model = Grader("resnet18").eval()
    to_device(model, stage.device)
    metadata = Metadata("resnet18", size, Recipe(size), epoch=1)
    photographs, *_ = gather([stage.work / EYES / "train"], metadata.recipe)
    images, _ = workloads.resident(stage, size, batch=BATCH)

    def rendered(batches: int) -> Iterator[Any]:
        lot = [photographs[i % len(photographs)] for i in range(batches * BATCH)]
        return render(lot, metadata, device=stage.device, workers=stage.workers)

    def prepare(batches: int) -> None:
        for _ in rendered(batches):
            pass

    def predict(batches: int) -> None:
        for each in rendered(batches):
            probabilities(model, each.images, metadata)

    group.add("predict: preparing alone", lambda: prepare, batch=BATCH)
    group.add(
        "predict: the network alone",
        lambda: workloads.repeated(lambda: probabilities(model, images, metadata)),
        batch=BATCH,
    )
    group.add("predict: as it is", lambda: predict, batch=BATCH)
