"""Both loaders against each other, and each against Pillow and torchvision, on real photographs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pipeline.cache.cache import Cache, open_cache
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import NO_AUGMENT, Augment, EpochPlan, Schedule, affine
from pipeline.loading.torchvision_loader import Scratch, TorchvisionLoader, recolour_batch, warp, warp_batch
from pipeline.photos.preparation import Recipe
from tools.phantoms.dataset import write_phantoms
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

LOADERS = ["torchvision", "dali"]


@pytest.fixture(scope="module")
def cache(eyepacs_cache: Path) -> Cache:
    return open_cache(eyepacs_cache)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """64 phantoms at 512 px, for machines with a GPU, where no photographs lie."""
    folder = tmp_path_factory.mktemp("drawn")
    write_phantoms(folder / "eyes", 64)
    settings = PreprocessSettings(workers=2)
    preprocess(list_source(folder / "eyes"), folder / "cache", Recipe(512), settings, lambda done, total: None)
    return open_cache(folder / "cache")


def dali_loader() -> Callable[..., Loader]:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from pipeline.loading.dali_loader import DaliLoader

    return DaliLoader


def render(name: str, cache: Cache, number: int = 0, **settings: object) -> torch.Tensor:
    if name == "dali":
        dali_loader()
    with open_loader(name, cache, split="all", batch_size=16, **settings) as loader:  # type: ignore[arg-type]
        return torch.cat([batch.images for batch in loader.epoch(number)])


def differences(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.cpu().int() - b.cpu().int()).abs()


def assert_alike(a: torch.Tensor, b: torch.Tensor) -> None:
    """One grey level at most on 99.9 % of the values, three nowhere exceeded."""
    difference = differences(a, b)
    assert (difference <= 1).float().mean() >= 0.999
    assert difference.max() <= 3


@pytest.mark.parametrize("size", [512, 384, 256, 224, 128])
def test_dali_and_torchvision_give_the_same_pixels(cache: Cache, size: int) -> None:
    settings = {"augment": Augment(), "shuffle": True, "size": size}
    assert_alike(render("dali", cache, **settings), render("torchvision", cache, **settings))


COLOURED = Augment(hflip=0, vflip=0, degrees=0, colour=0.4)


def recoloured(cache: Cache, number: int) -> torch.Tensor:
    """An epoch of the cache's own pictures in the plan's colours, in 64-bit arithmetic."""
    batches = Schedule(cache.rows("all"), COLOURED, source_size=512, size=512, batch_size=16, shuffle=True).batches(
        number
    )
    found = []
    for plan in batches:
        assert plan.colours is not None
        for row, colour in zip(plan.rows.tolist(), plan.colours.astype(np.float64), strict=True):
            picture = np.array(Image.open(BytesIO(cache.read(row))), np.float64)
            found.append(np.clip(np.rint(picture @ colour[:, :3].T + colour[:, 3]), 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", LOADERS)
def test_colours_are_the_plans_within_a_grey_level(cache: Cache, name: str) -> None:
    rendered = render(name, cache, 3, augment=COLOURED, shuffle=True)
    assert differences(rendered, recoloured(cache, 3)).max() <= 1
    assert differences(rendered, render(name, cache, 3, augment=NO_AUGMENT, shuffle=True)).float().mean() > 5


@pytest.mark.parametrize(("size", "share"), [(512, 0.999), (224, 0.98)])
def test_both_loaders_zoom_and_colour_alike(cache: Cache, size: int, share: float) -> None:
    """Where pictures are halved first, a tenth of the values is a level apart before its colour multiplies it."""
    settings = {"augment": Augment(zoom=1.3, colour=0.3), "shuffle": True, "size": size}
    difference = differences(render("dali", cache, **settings), render("torchvision", cache, **settings))
    assert (difference <= 1).float().mean() >= share
    assert difference.max() <= 3


def test_the_colours_for_gpus_are_those_for_cpus(cache: Cache) -> None:
    rows = np.arange(8)
    (plan,) = Schedule(rows, COLOURED, source_size=512, size=512, batch_size=len(rows)).batches(3)
    assert plan.colours is not None
    pictures = np.stack([np.array(Image.open(BytesIO(cache.read(row)))) for row in rows])
    expected = np.stack([cv2.transform(*pair) for pair in zip(pictures, plan.colours, strict=True)])
    found = recolour_batch(torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.from_numpy(plan.colours))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert differences(found, torch.from_numpy(expected).permute(0, 3, 1, 2)).max() <= 1


def warp_by_torch(
    picture: np.ndarray, matrix: np.ndarray, out: np.ndarray, scratch: Scratch, batch: Callable[..., torch.Tensor]
) -> None:
    """In place of `warp` where OpenCV is older than 5, whose own is 4 grey levels off; `batch` is `warp_batch`."""
    images = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    out[:] = batch(images, torch.from_numpy(matrix)[None], len(out))[0].permute(1, 2, 0).numpy()


@pytest.fixture
def exact_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if int(cv2.__version__.partition(".")[0]) < 5:
        monkeypatch.setattr("pipeline.loading.torchvision_loader.warp", partial(warp_by_torch, batch=warp_batch))


@pytest.mark.parametrize("size", [512, 224])
def test_without_opencv_5_torch_warps_what_gpus_are_compared_to(
    drawn: Cache, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    settings = {"augment": Augment(zoom=1.3, colour=0.3), "shuffle": True, "size": size}
    expected = render("torchvision", drawn, **settings)
    monkeypatch.setattr("pipeline.loading.torchvision_loader.warp", partial(warp_by_torch, batch=warp_batch))
    assert_alike(render("torchvision", drawn, **settings), expected)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_on_the_cpu")
@pytest.mark.parametrize("size", [512, 224])
@pytest.mark.parametrize(("name", "tolerance"), [("torchvision", 1), ("dali", 4)])
@pytest.mark.parametrize("augment", [Augment(), Augment(zoom=1.3, colour=0.3)])
def test_a_gpu_gives_the_same_pixels(drawn: Cache, name: str, tolerance: int, size: int, augment: Augment) -> None:
    """nvJPEG rounds its transforms and colours in its own way, so DALI is allowed more there."""
    settings = {"augment": augment, "shuffle": True, "size": size}
    difference = differences(
        render(name, drawn, device="cuda", **settings), render("torchvision", drawn, device="cpu", **settings)
    )
    assert difference.float().mean() <= 0.5
    gain = 2 if augment.colour else 1  # of brightness, contrast and saturation together
    assert (difference <= gain * tolerance).float().mean() >= 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
def test_a_kept_batch_stays_on_a_gpu(drawn: Cache, name: str) -> None:
    if name == "dali":
        dali_loader()
    with open_loader(name, drawn, split="all", batch_size=16, augment=Augment(), device="cuda") as loader:
        kept = [(batch.images, batch.images.clone()) for batch in loader.epoch(0)]
        for number in range(1, 10):
            for _ in loader.epoch(number):
                pass
        assert all(torch.equal(images, copy) for images, copy in kept)
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in kept)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
def test_a_batch_let_go_of_is_whole_when_a_gpu_reads_it_late(drawn: Cache, name: str) -> None:
    """The host runs batches ahead of a busy GPU; their memory must not be taken for the next ones meanwhile."""
    if name == "dali":
        dali_loader()

    def sums(busy: int) -> torch.Tensor:
        found = []
        with open_loader(name, drawn, split="all", batch_size=4, augment=Augment(), device="cuda") as loader:
            for batch in loader.epoch(0):
                torch.cuda._sleep(busy)
                found.append(batch.images.sum(dim=(1, 2, 3), dtype=torch.int64))
                if not busy:
                    torch.cuda.synchronize()
                del batch
        return torch.stack(found)

    assert torch.equal(sums(busy=50_000_000), sums(busy=0))  # 25 ms of an H100 before each


@dataclass(frozen=True, eq=False)
class Turned(Schedule):
    """Every photograph flipped and turned as told."""

    hflip: bool = False
    vflip: bool = False
    degrees: float = 0

    def batches(self, epoch: int, start: int = 0) -> list[EpochPlan]:
        n = len(self.rows)
        matrices = affine(
            hflip=np.full(n, self.hflip),
            vflip=np.full(n, self.vflip),
            degrees=np.full(n, self.degrees),
            zoom=np.ones(n),
            source_size=self.source_size,
            size=self.size,
        )
        return [EpochPlan(self.rows, matrices)]


def reference(cache: Cache, rows: Iterable[int], hflip: bool, vflip: bool, degrees: float) -> torch.Tensor:
    """Pillow's pixels, flipped and turned by torchvision, which hands Pillow images to Pillow."""
    turned = []
    for row in rows:
        image = Image.open(BytesIO(cache.read(row)))
        image = F.hflip(image) if hflip else image
        image = F.vflip(image) if vflip else image
        turned.append(F.pil_to_tensor(F.rotate(image, degrees, InterpolationMode.BILINEAR)))
    return torch.stack(turned)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("degrees", [0, 90, 180, -90, 33.3, -117.25])
@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True)])
def test_flips_and_turns_are_those_of_pillow(cache: Cache, name: str, hflip: bool, vflip: bool, degrees: float) -> None:
    rows = np.arange(8)
    turned = {"hflip": hflip, "vflip": vflip, "degrees": degrees}
    schedule = Turned(rows, NO_AUGMENT, source_size=512, size=512, batch_size=len(rows), **turned)
    renderer = TorchvisionLoader if name == "torchvision" else dali_loader()
    with renderer(cache, schedule, device="cpu", workers=2) as loader:
        (batch,) = loader.epoch(0)
    expected = reference(cache, rows, hflip, vflip, degrees)
    if degrees % 90:
        assert_alike(batch.images, expected)
    else:
        assert torch.equal(batch.images, expected)


@pytest.mark.parametrize("size", [512, 300])
def test_the_warp_for_gpus_is_the_warp_for_cpus(cache: Cache, size: int) -> None:
    n = 8
    (plan,) = Schedule(np.arange(n), Augment(), source_size=512, size=size, batch_size=n).batches(0)
    pictures = np.stack([np.array(Image.open(BytesIO(cache.read(row)))) for row in plan.rows])
    expected = np.empty((n, size, size, 3), np.uint8)
    for picture, matrix, out in zip(pictures, plan.matrices, expected, strict=True):
        warp(picture, matrix, out, Scratch(512, size))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    warped = warp_batch(images, torch.from_numpy(plan.matrices), size)
    assert warped.is_contiguous(memory_format=torch.channels_last)
    assert differences(warped, torch.from_numpy(expected).permute(0, 3, 1, 2)).max() <= 1


@pytest.mark.parametrize("size", [224, 128])
def test_a_smaller_size_blurs_what_it_cannot_show(shared: Path, make_cache: Callable[..., Path], size: int) -> None:
    """B45: a zone plate turns grey where its rings are finer than the pixels; made up rings would give a std of 60."""
    pictures = {}
    for name in ("zone", "fundus"):
        image = Image.open(shared / f"cases/B45/data/train/{name}.png").convert("RGB")
        pictures[name] = np.array(image.resize((512, 512), Image.Resampling.LANCZOS))
    cache = open_cache(make_cache(pictures))
    fundus, zone = render("torchvision", cache, size=size)
    assert zone.float().std() < 20
    other_fundus, other_zone = render("dali", cache, size=size)
    assert differences(fundus, other_fundus).max() <= 2
    assert differences(fundus, other_fundus).float().mean() <= 0.5
    assert differences(zone, other_zone).float().mean() <= 0.5
