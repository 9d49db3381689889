"""What every loader promises: the same tests over each."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.shard_store import open_shards
from pipeline.cache.shards import shard_name
from pipeline.errors import CacheError, LoaderMissing, UsageError
from pipeline.loading.batch import Batch, Loader, prefetch
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from pipeline.photos.preparation import Recipe, prepare
from pipeline.storage.artifacts import SHARDS

N = 13
SIZE = 48
GRADES = {f"{number}_left": number % 6 - 1 for number in range(N)}  # unknown among them


def coded(number: int) -> np.ndarray:
    """A picture that tells its number: 3 x 3 cells on black, the cell of each bit that is set is bright."""
    bits = np.array([230 if number >> bit & 1 else 60 for bit in range(9)], np.uint8).reshape(3, 3)
    return np.pad(np.kron(bits, np.ones((12, 12), np.uint8)), 6)[..., None].repeat(3, 2)


def decoded(images: torch.Tensor) -> list[int]:
    cells = images[:, 0, 12::12, 12::12].flatten(1)[:, :9].tolist()
    return [sum(1 << bit for bit, value in enumerate(picture) if value > 145) for picture in cells]


@dataclass
class Opener:
    """Opens the loader under test, and closes what it opened."""

    name: str
    opened: list[Loader]

    def __call__(self, cache: Cache, **settings: object) -> Loader:
        defaults = {"split": "all", "batch_size": 4, "workers": 2}
        self.opened.append(open_loader(self.name, cache, **(defaults | settings)))  # type: ignore[arg-type]
        return self.opened[-1]


@pytest.fixture(params=["torchvision", "dali"])
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    opener = Opener(request.param, [])
    yield opener
    for loader in opener.opened:
        loader.close()


@pytest.fixture
def cache(make_cache: Callable[..., Path]) -> Cache:
    return open_cache(make_cache({f"{number}_left": coded(number) for number in range(N)}, GRADES))


def noise(seed: int) -> np.ndarray:
    """A picture unlike any turned or mirrored other, itself included."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def pixels(batches: Iterator[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def by_row(batches: Iterator[Batch]) -> dict[int, bytes]:
    return {
        int(row): image.numpy().tobytes()
        for batch in batches
        for row, image in zip(batch.rows, batch.images, strict=True)
    }


def with_jpeg(cache: Cache, row: int, jpeg: bytes) -> Cache:
    """The cache with another, no longer JPEG in place of a row's, as if it had been made so."""
    place = cache.manifest.iloc[row]
    jpeg = jpeg.ljust(place["nbytes"], b"\0")
    assert len(jpeg) == place["nbytes"]
    with open(cache.path / SHARDS / shard_name(place["shard"]), "r+b") as shard:
        shard.seek(place["offset"])
        shard.write(jpeg)
    manifest = cache.manifest.copy()
    manifest.loc[row, "crc32"] = crc32(jpeg)
    return Cache(cache.path, cache.index, manifest, open_shards(cache.path, cache.index))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_every_photograph_once_with_its_grade(opener: Opener, cache: Cache, batch_size: int) -> None:
    for world in (1, 2, 3, 4):
        loaders = [opener(cache, batch_size=batch_size, shuffle=True, shard=(rank, world)) for rank in range(world)]
        for number in range(3):
            seen: dict[str, int] = {}
            for loader in loaders:
                batches = list(loader.epoch(number))
                assert len(batches) == len(loader)
                assert all(len(batch.rows) == batch_size for batch in batches[:-1])
                for batch in batches:
                    ids = cache.manifest["id"].iloc[batch.rows.numpy()].tolist()
                    assert ids == [f"{code}_left" for code in decoded(batch.images)]
                    seen |= dict(zip(ids, batch.grades.tolist(), strict=True))
            assert sum(len(batch.rows) for loader in loaders for batch in loader.epoch(number)) == N
            assert seen == GRADES


def test_shapes_types_and_strides(opener: Opener, cache: Cache) -> None:
    *_, (images, grades, rows) = opener(cache, size=24).epoch(0)
    assert (images.dtype, images.shape) == (torch.uint8, (1, 3, 24, 24))
    assert images.stride()[1:] == (1, 24 * 3, 3)
    assert (grades.dtype, grades.shape) == (torch.int64, (1,))
    assert (rows.dtype, rows.shape) == (torch.int64, (1,))
    assert {tensor.device.type for tensor in (images, grades, rows)} == {"cpu"}


def test_a_split_holds_its_photographs_only(opener: Opener, make_cache: Callable[..., Path]) -> None:
    splits = {"1_left": "train", "2_left": "val", "3_left": "test", "5_left": "val"}
    cache = open_cache(make_cache({id: coded(int(id[0])) for id in splits}, splits=splits))
    assert decoded(pixels(opener(cache, split="val").epoch(0))) == [2, 5]


def test_unaugmented_pixels_are_the_cached_ones(opener: Opener, make_cache: Callable[..., Path]) -> None:
    cache = open_cache(make_cache({"a": noise(1), "b": noise(2)}))
    for row, image in zip(range(2), pixels(opener(cache).epoch(0)), strict=True):
        assert (image.permute(1, 2, 0).numpy() == np.array(Image.open(BytesIO(cache.read(row))))).all()


def test_pixels_do_not_depend_on_batch_size_workers_or_shards(opener: Opener, make_cache: Callable[..., Path]) -> None:
    cache = open_cache(make_cache({str(seed): noise(seed) for seed in range(7)}))
    augment = Augment()
    expected = by_row(opener(cache, augment=augment, shuffle=True).epoch(3))
    for settings in ({"batch_size": 1}, {"batch_size": 7, "workers": 1}, {"workers": 3}, {"shuffle": False}):
        assert by_row(opener(cache, augment=augment, **({"shuffle": True} | settings)).epoch(3)) == expected
    halves = [opener(cache, augment=augment, shuffle=True, shard=(rank, 2)) for rank in range(2)]
    assert by_row(halves[0].epoch(3)) | by_row(halves[1].epoch(3)) == expected


def test_a_balanced_epoch_shows_every_grade_equally_often_and_resumes(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, augment=Augment(), shuffle=True, balanced=True)
    batches = list(loader.epoch(2))
    grades = torch.cat([batch.grades for batch in batches])
    assert sorted(np.bincount(grades.numpy() + 1).tolist()) == [2, 2, 2, 2, 2, 3]  # 13 places, 6 grades with "unknown"
    assert [
        GRADES[cache.manifest["id"].iloc[row]] for batch in batches for row in batch.rows.tolist()
    ] == grades.tolist()
    assert torch.equal(pixels(loader.epoch(2, start=2)), pixels(iter(batches[2:])))


def test_equal_photographs_are_augmented_differently(opener: Opener, make_cache: Callable[..., Path]) -> None:
    """Sixteen equal pictures, two shards, two epochs, two seeds: 64 different ones come out."""
    cache = open_cache(make_cache({f"{number}_left": noise(0) for number in range(16)}))
    seen = [
        image
        for seed in (0, 1)
        for rank in (0, 1)
        for number in (0, 1)
        for image in by_row(opener(cache, augment=Augment(), seed=seed, shard=(rank, 2)).epoch(number)).values()
    ]
    assert len(seen) == len(set(seen)) == 64


def test_the_same_epoch_again_is_the_same(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, augment=Augment(), shuffle=True)
    first, again, other = (pixels(loader.epoch(number)) for number in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_loader_is_iterated_as_epoch_0(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, shuffle=True, augment=Augment())
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert by_row(iter(batches)) == by_row(loader.epoch(0))
    assert [batch.rows.tolist() for batch in loader] != [batch.rows.tolist() for batch in loader.epoch(1)]


def test_start_resumes_in_the_middle(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, augment=Augment(), shuffle=True)
    batches = list(loader.epoch(2))
    for start in range(len(loader) + 1):
        rest = list(loader.epoch(2, start))
        assert [batch.rows.tolist() for batch in rest] == [batch.rows.tolist() for batch in batches[start:]]
        assert all(torch.equal(a.images, b.images) for a, b in zip(rest, batches[start:], strict=True))
    with pytest.raises(ValueError, match="start"):
        next(loader.epoch(2, 5))


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_epoch_left_half_way_leaves_no_trace(opener: Opener, cache: Cache, taken: int) -> None:
    loader = opener(cache, batch_size=2, augment=Augment(), shuffle=True)
    expected = by_row(loader.epoch(1))
    left = loader.epoch(0)
    for _ in range(taken):
        next(left)
    assert by_row(loader.epoch(1)) == expected


def test_epochs_may_be_read_in_turn(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, batch_size=3, augment=Augment(), shuffle=True)
    expected = [pixels(loader.epoch(number)) for number in (0, 1)]
    in_turn = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    for number in (0, 1):
        assert torch.equal(torch.cat([pair[number].images for pair in in_turn]), expected[number])


def test_a_batch_may_be_kept(opener: Opener, cache: Cache) -> None:
    loader = opener(cache, augment=Augment(), shuffle=True)
    kept = list(loader.epoch(0))
    copies = [batch.images.clone() for batch in kept]
    for number in range(1, 20):
        for _ in loader.epoch(number):
            pass
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))
    for batch in kept:
        batch.images.zero_()
    assert torch.equal(pixels(loader.epoch(0)), torch.cat(copies))


def test_closing_ends_the_threads(opener: Opener, cache: Cache) -> None:
    before = threading.active_count()
    with opener(cache, batch_size=1) as loader:
        epoch = loader.epoch(0)
        next(epoch)
        assert threading.active_count() > before
    assert threading.active_count() == before
    loader.close()


def test_a_damaged_photograph_is_named(opener: Opener, cache: Cache) -> None:
    """Row 6 of 13 in batches of two: the first three batches come, and so does every one of the next epoch's start."""
    place = cache.manifest.iloc[6]
    with open(cache.path / SHARDS / shard_name(place["shard"]), "r+b") as shard:
        shard.seek(place["offset"] + 300)
        shard.write(b"\0damage\0")
    loader = opener(cache, batch_size=2)
    epoch = loader.epoch(0)
    rows = [next(epoch).rows.tolist() for _ in range(3)]
    assert rows == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(CacheError, match=cache.manifest["id"].iloc[6]):
        next(epoch)
    assert [batch.rows.tolist() for batch in loader.epoch(0, start=4)] == [[8, 9], [10, 11], [12]]


def test_a_photograph_that_does_not_decode_is_named(opener: Opener, cache: Cache) -> None:
    """Its checksum agrees: it went into the cache like this."""
    loader = opener(with_jpeg(cache, 6, b"no JPEG"), batch_size=2)
    epoch = loader.epoch(0)
    for _ in range(3):
        next(epoch)
    with pytest.raises(CacheError, match=f"{cache.manifest['id'].iloc[6]} does not decode"):
        next(epoch)
    assert [batch.rows.tolist() for batch in loader.epoch(0, start=4)] == [[8, 9], [10, 11], [12]]
    next(loader.epoch(0))  # leaves the undecodable one under way
    assert [batch.rows.tolist() for batch in loader.epoch(0, start=5)] == [[10, 11], [12]]


def test_orientation_is_preprocess_business(opener: Opener, shared: Path, make_cache: Callable[..., Path]) -> None:
    """One picture, stored turned in eight ways with the tag that says so (B06), is one picture in every loader."""
    paths = sorted((shared / "cases/B06/data/train").glob("o[1-8].jpeg"))
    assert len(paths) == 8
    prepared = [prepare(path.read_bytes(), Recipe(size=96)).jpeg for path in paths]
    pictures = {path.stem: np.array(Image.open(BytesIO(jpeg))) for path, jpeg in zip(paths, prepared, strict=True)}
    images = pixels(opener(open_cache(make_cache(pictures))).epoch(0)).float()
    assert (images - images[0]).abs().mean((1, 2, 3)).max() <= 3


def test_an_orientation_tag_in_a_cache_turns_nothing(opener: Opener, cache: Cache) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    jpeg = BytesIO()
    Image.fromarray(coded(9)).save(jpeg, "JPEG", quality=50, exif=exif)
    assert decoded(pixels(opener(with_jpeg(cache, 5, jpeg.getvalue())).epoch(0)))[5] == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"balanced": True, "fading": 1}, "fading must be at least 2 epochs, got 1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"size": 49}, "size must be 1 to 48, the cache's own, got 49"),
        ({"size": 0}, "size must be 1 to 48, the cache's own, got 0"),
        ({"seed": -1}, "seed must be 0 to 2**64 - 1, got -1"),
        ({"shard": (1, 1)}, "shard is (rank, world) with 0 <= rank < world, got (1, 1)"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    opener: Opener, cache: Cache, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        opener(cache, **settings)
    assert refusal.value.message == message


def test_an_empty_split_is_refused(opener: Opener, cache: Cache) -> None:
    with pytest.raises(CacheError, match="no photograph is in the split 'val'"):
        opener(cache, split="val")


def test_an_unknown_name_is_refused(cache: Cache) -> None:
    with pytest.raises(UsageError, match="loader 'dally': choose one of auto, dali, torchvision"):
        open_loader("dally", cache, split="all", batch_size=4)


def test_auto_needs_no_dali_on_the_cpu(cache: Cache) -> None:
    with open_loader("auto", cache, split="all", batch_size=4) as loader:
        assert type(loader).__name__ == "TorchvisionLoader"


def test_a_missing_dali_is_named_with_its_cure(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.loading.dali_loader", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # as where it is not installed: importing it fails
    with pytest.raises(LoaderMissing) as missing:
        open_loader("dali", cache, split="all", batch_size=4)
    assert missing.value.exit_code == 3
    assert missing.value.message.endswith("pip install 'fundus-grading[dali]'")
    assert "\n" not in missing.value.message


def test_torch_and_dali_are_imported_when_a_loader_is_opened() -> None:
    code = "import sys, pipeline.loading.loaders; sys.exit(bool({'torch', 'nvidia.dali'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ahead_begins_just_as_many_as_asked() -> None:
    begun: list[int] = []

    def begin(item: int) -> int:
        begun.append(item)
        return item * item

    squares = prefetch(begin, range(5), depth=2)
    assert next(squares) == 0
    assert begun == [0, 1, 2]
    assert list(squares) == [1, 4, 9, 16]
