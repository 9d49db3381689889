"""The workloads of `tools bench` and benchmarks/gpu.py. Each row is a function that processes a number of batches.

When it returns, all its work is done: work left running would slow the next row.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.cache.cache import Cache
from pipeline.errors import FundusError
from pipeline.grades import N_GRADES
from pipeline.loading.batch import Loader, normalise
from pipeline.loading.loaders import dali_installed, open_loader
from pipeline.loading.plan import Augment
from pipeline.machine import multiplies_bfloat16
from pipeline.threads import ThreadPool

Run = Callable[[int], None]  # of a number of batches

AUGMENT: Final = Augment()
_PRESET: Final = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
MEAN: Final[list[float]] = _PRESET.mean
STD: Final[list[float]] = _PRESET.std

DECODE: Final = "decoding alone"
NVJPEG: Final = f"{DECODE}, nvJPEG"
DISTINCT: Final = 512
"""Number of photographs that are kept in memory for nvJPEG: 50 MB at 512 px."""
PLAIN: Final = "plain DataLoader float32"
STEP: Final = "step alone"


class Rows(NamedTuple):
    """Makes the rows of one benchmark. `stack` closes what they open."""

    cache: Cache  # its manifest is a whole number of batches, as long as the longest run
    size: int
    batch: int
    workers: int
    device: torch.device
    stack: ExitStack

    def all(self, smaller: Cache) -> dict[str, Run]:
        """All rows that this machine can run, by name. `smaller`: the same cache at a smaller size."""
        names = ["torchvision", "dali"] if dali_installed() else ["torchvision"]
        loaders = {name: self.open(name, self.cache, self.size) for name in names}
        small = smaller.recipe.size
        step = Step(self.device)
        runs = {DECODE: self.decode()}
        if self.device.type == "cuda":
            runs[NVJPEG] = self.decode_on_gpu()
        runs[PLAIN] = self.plain()
        for name, loader in loaders.items():
            runs[uint8(name)] = self.render(loader, lambda images, _: images)
            runs[f"{name} float32"] = self.render(loader, lambda images, _: step.normalised(images))
        runs[uint8("torchvision", small)] = self.render(
            self.open("torchvision", smaller, min(self.size, small)), lambda images, _: images
        )
        images, grades, _ = next(iter(loaders["torchvision"].epoch(0, start=len(loaders["torchvision"]) - 1)))
        runs[STEP] = self.repeat(lambda: step(images, grades))
        for name, loader in loaders.items():
            runs[fed(name)] = self.render(loader, step)
        return runs

    def open(self, name: str, cache: Cache, size: int) -> Loader:
        """A loader of all photographs, shuffled and augmented."""
        return self.stack.enter_context(
            open_loader(
                name,
                cache,
                split="all",
                batch_size=self.batch,
                augment=AUGMENT,
                shuffle=True,
                size=size,
                device=self.device,
                workers=self.workers,
            )
        )

    def render(self, loader: Loader, use: Callable[[Tensor, Tensor], object]) -> Run:
        """Renders the last batches of an epoch; `use` gets the images and grades of each."""

        def run(batches: int) -> None:
            for images, grades, _ in loader.epoch(0, start=len(loader) - batches):
                use(images, grades)
            self._wait()

        return run

    def repeat(self, work: Callable[[], object]) -> Run:
        """Does the same work for each batch."""

        def run(batches: int) -> None:
            for _ in range(batches):
                work()
            self._wait()

        return run

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def decode(self) -> Run:
        """Decodes with OpenCV, in threads."""
        pool = self.stack.enter_context(ThreadPool(self.workers))

        def decode(row: int) -> None:
            cv2.imdecode(np.frombuffer(self.cache.read(row), np.uint8), cv2.IMREAD_COLOR_RGB)

        def run(batches: int) -> None:
            for _ in pool.map(decode, range(batches * self.batch)):
                pass

        return run

    def decode_on_gpu(self) -> Run:
        """Decodes with nvJPEG, as torchvision calls it."""
        rows = range(min(DISTINCT, len(self.cache.manifest)))
        return decode_on_gpu([self.cache.read(row) for row in rows], self.batch, self.device)

    def plain(self) -> Run:
        """Loads with a plain DataLoader; each worker is a process."""
        batches_to_do: list[list[int]] = []
        loader = DataLoader(
            PlainPhotos(self.cache, self.size),
            batch_sampler=batches_to_do,
            num_workers=self.workers,
            persistent_workers=True,
            multiprocessing_context="spawn",  # this process has threads: a fork might inherit a lock that one holds
        )

        def run(batches: int) -> None:
            batches_to_do[:] = [list(range(i * self.batch, (i + 1) * self.batch)) for i in range(batches)]
            try:
                for images, _ in loader:
                    images.to(self.device)
            except RuntimeError as error:
                raise FundusError(
                    f"the plain DataLoader's processes fail ({error}); if they lack shared memory, as in a container, "
                    "give it more (docker run --shm-size 2g) or take a smaller --batch"
                ) from error
            self._wait()

        return run


class PlainPhotos(Dataset[tuple[Tensor, int]]):
    """One photograph at a time, as most projects read them: Pillow, then torchvision's transforms.

    The bytes come from the cache; single files would be a little slower.
    """

    def __init__(self, cache: Cache, size: int) -> None:
        self.cache = cache.reopened()  # without memory maps, which cannot be pickled
        self.grades = cache.grades
        resize = [transforms.Resize(size)] if size != cache.recipe.size else []
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(AUGMENT.hflip),
                transforms.RandomVerticalFlip(AUGMENT.vflip),
                transforms.RandomRotation(AUGMENT.degrees, transforms.InterpolationMode.BILINEAR),
                *resize,
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        picture = Image.open(BytesIO(self.cache.read(row))).convert("RGB")
        return self.transform(picture), int(self.grades[row])


class Step:
    """A training step of a ResNet, as `trainer fit` makes it: channels-last, SGD, bfloat16 where it is fast.

    architecture: torchvision's name. compiled: whether by torch.compile, with the normalisation.
    """

    def __init__(self, device: torch.device, architecture: str = "resnet18", *, compiled: bool = False) -> None:
        self.device = device
        self.model = torchvision.models.get_model(architecture, num_classes=N_GRADES)
        self.model.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, fused=True)
        self._bfloat16 = multiplies_bfloat16(device.type)
        self._mean, self._std = (255 * torch.tensor(values, device=device) for values in (MEAN, STD))
        self._forward = torch.compile(self._logits, dynamic=False) if compiled else self._logits

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images as normalised float32."""
        return normalise(images, self._mean, self._std)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalised(images))
        return logits

    def __call__(self, images: Tensor, grades: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._forward(images)
        loss: Any = F.cross_entropy(logits.float(), grades.clamp(min=0))  # an ungraded photograph takes the same time
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def decode_on_gpu(jpegs: Sequence[bytes | memoryview], batch: int, device: torch.device) -> Run:
    """Decodes these JPEGs with nvJPEG, as torchvision calls it, over and over."""
    ready = [torch.from_numpy(np.frombuffer(jpeg, np.uint8).copy()) for jpeg in jpegs]

    def run(batches: int) -> None:
        for number in range(batches):
            some = [ready[i % len(ready)] for i in range(number * batch, (number + 1) * batch)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # only the speed of nvJPEG matters here
                torchvision.io.decode_jpeg(some, torchvision.io.ImageReadMode.RGB, device=device)
        torch.cuda.synchronize(device)

    return run


def uint8(loader: str, small: int | None = None) -> str:
    """The row of a loader's uint8 batches. small: size of a smaller cache, pixels."""
    return f"{loader}, {small} px cache" if small else f"{loader} uint8"


def fed(loader: str) -> str:
    """The row of a step that a loader feeds."""
    return f"step fed by {loader}"
