"""New photographs: finds them, names them, and prepares them exactly as the training photographs were prepared."""

import logging
import os
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import Cache, open_cache
from pipeline.cache.eyes import EyeTable
from pipeline.errors import CacheError, PhotoError, SourceError
from pipeline.loading.batch import prefetch
from pipeline.loading.plan import NO_AUGMENT, plan_epoch
from pipeline.loading.torchvision_loader import Picture, Renderer, Rendering
from pipeline.machine import usable_cores
from pipeline.photos.contact_sheet import decode_small
from pipeline.photos.discovery import Refusal, plain_id, read_regular, unique_ids, walk
from pipeline.photos.eye_names import eye_name
from pipeline.photos.fingerprint import Print, fingerprint_or_zeros
from pipeline.photos.formats import SUFFIXES
from pipeline.photos.photo import read_photo
from pipeline.photos.preparation import Recipe, prepare
from pipeline.photos.retina import Square
from pipeline.storage.artifacts import INDEX, UNFINISHED, is_explained, is_run
from pipeline.threads import ThreadPool
from trainer.network.image_statistics import Drift, ImageStatistics, TrainingStatistics, image_statistics
from trainer.network.metadata import Metadata

logger = logging.getLogger(__name__)

BATCH: Final = 64
"""Photographs per batch, as in `trainer evaluate` by default. Libraries choose other kernels for small batches, so the
last bits of an output depend on it."""
LOOKED_AT: Final = 400
"""Training photographs that `training_statistics` measures, evenly spread: 400 at 512 px take 1 s on two cores."""

Flags = tuple[str, ...]


class Ready(NamedTuple):
    """A prepared photograph, as a cache holds it."""

    jpeg: bytes | memoryview
    width: int  # of the original, pixels
    height: int
    radius: float | None  # of the retina's disc, in pixels of the original; None: no disc was found
    flags: Flags  # see pipeline.photos.preparation.Prepared


class Eye(NamedTuple):
    """Whose eye a photograph shows, and at which visit."""

    visit: str = ""
    """The same name for all photographs of one patient and visit."""
    side: str = ""
    """"left" or "right"; "" if the eye or the patient is not known."""


class Photograph(NamedTuple):
    """A photograph to grade. It is not read yet."""

    id: str
    source: str  # path of the file; for a cached photograph the path of the original
    read: Callable[[Recipe], Ready]  # raises PhotoError, CacheError or OSError
    path: Path | None = None  # of its file; None: it is in a cache or in memory
    eye: Eye = Eye()


class Original(NamedTuple):
    """A photograph at its own resolution, and the square of it that the network is shown."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB, upright
    square: Square  # in pixels of the image; it may reach past the frame


class Rendered(NamedTuple):
    """A batch of n photographs, and the photographs that were refused while it was made."""

    photographs: list[Photograph]
    images: Tensor  # uint8 (n, 3, size, size), RGB, on the device; as a Loader's batches
    flags: list[Flags]  # (n,) the recipe's, then those of Metadata.statistics
    refused: list[Refusal]
    prints: list[Print]  # (n,), empty if they are not asked for


class Seen(NamedTuple):
    """What is seen in a photograph besides its pixels."""

    flags: Flags = ()
    print: Print | None = None
    """None if it is not needed."""


class Gathered(NamedTuple):
    """The contents of files, folders and caches."""

    photographs: list[Photograph]  # sorted by id, each once
    refused: list[Refusal]  # files that are no photographs
    own_folders: list[Refusal]  # folders that this program wrote, and what they are; their pictures are not graded


def gather(paths: Sequence[Path], recipe: Recipe) -> Gathered:
    """All photographs in the given files, folders and caches.

    An id is the file's name without suffix, as in most tables of grades. If several photographs have the same one, the
    id is the path below their folder. All photographs of a cache are taken, those in no split too. Pictures in a run
    folder or from `trainer explain` are not taken, because the program drew them. Warns of a path without photographs.
    Raises SourceError if a path does not exist or nothing is found, CacheError for a cache that cannot be used.
    """
    found: dict[str, tuple[str, Photograph]] = {}  # absolute path -> (short id, photograph with a longer one)
    refused: list[Refusal] = []
    own_folders: list[Refusal] = []
    idle: list[Path] = []
    for path in paths:
        before = len(found) + len(refused)
        if os.path.exists(path / INDEX) or os.path.exists(path / UNFINISHED):
            cache = open_cache(path)
            if cache.recipe != recipe:
                raise CacheError(
                    f"{path} was made by another recipe ({cache.recipe}) than the training photographs ({recipe}); "
                    "give the photographs themselves"
                )
            for photograph in cached_photographs(cache, np.arange(len(cache.manifest))):
                found.setdefault(f"{path.absolute()}#{photograph.id}", (photograph.id, photograph))
        elif os.path.isdir(path):  # pathlib's is_dir raises where a name is too long
            inside = walk(path)
            refused += [Refusal((path / refusal.source).as_posix(), refusal.reason) for refusal in inside.refused]
            own_folders += [Refusal((path / each.source).as_posix(), each.reason) for each in inside.own_folders]
            for each in inside.photographs:
                _add(found, plain_id(each.source), path / each.source)
            if len(found) + len(refused) == before and not inside.photographs:
                idle.append(path)
        elif os.path.lexists(path):
            if drawn := _drawn_in(path.absolute().parent):
                refused.append(Refusal(path.as_posix(), f"belongs to {drawn} of this program, no photograph"))
            else:
                _add(found, plain_id(path.name), path)
        else:
            raise SourceError(f"{path}: no such file, folder or cache")
    if not found and not refused:
        why = f"looked for {' '.join(sorted(SUFFIXES))}, and for images by content"
        why += "".join(f"; {each.source} is {each.reason} of this program" for each in own_folders)
        raise SourceError(f"{paths[0]}: no photographs below it ({why})")
    for path in idle:
        logger.warning(f"{path}: no photographs below it")
    often = Counter(short for short, _ in found.values())
    named = [each._replace(id=short) if often[short] == 1 else each for short, each in found.values()]
    ids = unique_ids([(each.id, each.source) for each in named])
    photographs = [each._replace(id=id) for id, each in zip(ids, named, strict=True)]
    return Gathered(sorted(photographs, key=lambda photograph: photograph.id), refused, own_folders)


def cached_photographs(cache: Cache, rows: NDArray[np.int64]) -> list[Photograph]:
    """Photographs of a cache, by rows (n,) of its manifest. Photographs of two caches are of two patients."""
    table = cache.manifest[["id", "source", "width", "height", "radius", "flags"]]
    eyes = EyeTable.of(cache.manifest, read_attributes(cache))
    table = table.assign(visit=eyes.visits, side=eyes.sides).iloc[rows]

    def photograph(
        row: int, id: str, source: str, width: int, height: int, radius: float, flags: str, visit: str, side: str
    ) -> Photograph:
        known = (int(width), int(height), None if isnan(radius) else float(radius), tuple(flags.split()))
        eye = Eye(f"{cache.path}\0{visit}", side)
        return Photograph(id, source, partial(_read_cached, cache, row, *known), eye=eye)

    return [photograph(row, *cells) for row, cells in zip(rows.tolist(), table.itertuples(index=False), strict=True)]


def uploaded(source: str, data: bytes) -> Photograph:
    """A photograph in memory. source: its name, a file name or a path with slashes; no file is opened."""
    return Photograph(plain_id(source.rpartition("/")[2]), source, partial(ready_bytes, data), eye=eye_in_name(source))


def eye_in_name(source: str) -> Eye:
    """The eye in a photograph's file name, such as 17_left.jpeg; see pipeline.photos.eye_names. Photographs of two
    folders are of two patients."""
    folder, _, name = source.rpartition("/")
    patient, side = eye_name(name)
    return Eye(f"{folder}/{patient}", side)


def original(photograph: Photograph, recipe: Recipe) -> Original:
    """The photograph at its own resolution, or as cached if it is in a cache.

    Raises PhotoError, CacheError or SourceError if it cannot be read any more.
    """
    if photograph.path is None:
        cached = decode_small(photograph.read(recipe).jpeg, recipe.size)
        return Original(np.asarray(cached, np.uint8), Square(0, 0, recipe.size))
    try:
        data = read_regular(photograph.path)
    except OSError as error:
        raise SourceError(f"{photograph.source}: cannot be read any more ({error.strerror or error})") from error
    return Original(read_photo(data).image, prepare(data, recipe).square)


def _drawn_in(folder: Path) -> str:
    """The kind of folder that this program wrote, in words; "" for any other folder."""
    if is_run(folder):
        return "a run"
    return "the pictures of `trainer explain`" if is_explained(folder) else ""


def render(
    photographs: Sequence[Photograph],
    metadata: Metadata,
    *,
    device: torch.device,
    workers: int | None = None,
    prints: bool = False,
) -> Iterator[Rendered]:
    """The photographs in batches of at most BATCH, without those refused. Threads prepare them two batches ahead.

    The pixels are bit for bit those of a cache made by `metadata.recipe` and its torchvision loader at `metadata.size`,
    from files, folders and caches alike. workers: threads; None: one for each usable core.
    prints: whether they are needed.
    """
    over = threading.Event()
    with Renderer(metadata.recipe.size, metadata.size, device=device, workers=workers or usable_cores()) as renderer:

        def begin(batch: Sequence[Photograph]) -> tuple[Sequence[Photograph], list[Seen | Refusal], Rendering]:
            found: list[Seen | Refusal] = [Seen()] * len(batch)
            pictures = [
                partial(_picture, renderer, metadata, each, found, i, prints=prints) for i, each in enumerate(batch)
            ]
            rows = np.zeros(len(batch), np.int64)
            plan = plan_epoch(
                rows, NO_AUGMENT, source_size=metadata.recipe.size, size=metadata.size, shuffle=False, seed=0, epoch=0
            )
            return batch, found, renderer.begin(pictures, plan, over)

        batches = [photographs[first : first + BATCH] for first in range(0, len(photographs), BATCH)]
        try:
            for batch, found, rendering in prefetch(begin, batches):
                yield _without_refused(batch, found, renderer.finish(rendering))
        finally:
            over.set()


def training_statistics(cache: Cache, rows: NDArray[np.int64], size: int, workers: int | None) -> TrainingStatistics:
    """Image statistics of the photographs of a cache that weights were trained on, at `size` pixels.

    rows: (n,) of the manifest, at least one. Deterministic: LOOKED_AT photographs, evenly spread. Raises CacheError if
    one is damaged.
    """
    some = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().astype(np.int64)]
    return TrainingStatistics.summarise(_statistics(cache, some, size, workers))


def drift_in(cache: Cache, rows: NDArray[np.int64], metadata: Metadata, workers: int | None) -> Drift | None:
    """How many of a cache's photographs, by rows (n,), are unlike the training photographs of some weights. None if the
    weights carry no image statistics.

    400 photographs at 512 px take 1 s on two cores. Raises CacheError if one is damaged.
    """
    if metadata.statistics is None:
        return None
    return metadata.statistics.drift(_statistics(cache, cache.by_shard(rows), metadata.size, workers))


def _statistics(cache: Cache, rows: NDArray[np.int64], size: int, workers: int | None) -> list[ImageStatistics]:
    geometry = cache.manifest[["width", "height", "radius"]].to_numpy(np.float64)
    workers, read = workers or usable_cores(), cache.reader(rows)
    with Renderer(cache.recipe.size, size, device="cpu", workers=1) as renderer, ThreadPool(workers) as pool:

        def measure(row: int) -> ImageStatistics:
            width, height, radius = geometry[row].tolist()
            picture = _decode(renderer, read(row), cache.manifest["id"].iloc[row])
            return image_statistics(picture, int(width), int(height), None if isnan(radius) else radius)

        return list(pool.map(measure, rows.tolist()))


def _add(found: dict[str, tuple[str, Photograph]], id: str, path: Path) -> None:
    source = path.as_posix()
    photograph = Photograph(id, source, partial(ready_file, source), path, eye_in_name(source))
    found.setdefault(os.path.normpath(path.absolute()), (path.stem, photograph))


def ready_file(source: str, recipe: Recipe) -> Ready:
    """Reads and prepares a photograph's file. Raises PhotoError or OSError."""
    return ready_bytes(read_regular(Path(source)), recipe)


def ready_bytes(data: bytes, recipe: Recipe) -> Ready:
    """Prepares a photograph, given as the bytes of its file. Raises PhotoError."""
    prepared = prepare(data, recipe)
    disc = prepared.disc
    return Ready(prepared.jpeg, prepared.width, prepared.height, None if disc is None else disc.radius, prepared.flags)


def _read_cached(
    cache: Cache, row: int, width: int, height: int, radius: float | None, flags: Flags, recipe: Recipe
) -> Ready:
    return Ready(cache.read(row), width, height, radius, flags)


def _decode(renderer: Renderer, jpeg: bytes | memoryview, id: str) -> Picture:
    picture = renderer.decode(jpeg)
    if picture is None:
        raise CacheError(f"{id} does not decode as a JPEG")
    return picture


def _picture(
    renderer: Renderer,
    metadata: Metadata,
    photograph: Photograph,
    found: list[Seen | Refusal],
    number: int,
    *,
    prints: bool,
) -> Picture:
    """The photograph's pixels; writes what is seen in it into `found[number]`. If it is refused: black pixels, and the
    reason."""
    try:
        ready = photograph.read(metadata.recipe)
        picture = _decode(renderer, ready.jpeg, photograph.id)
    except (PhotoError, CacheError) as error:
        found[number] = Refusal(photograph.source, error.message)
    except OSError as error:
        found[number] = Refusal(photograph.source, f"cannot be read ({error.strerror or error})")
    else:
        unlike = metadata.statistics.unlike(image_statistics(picture, *ready[1:4])) if metadata.statistics else ()
        mark = Print(zlib.crc32(ready.jpeg), fingerprint_or_zeros(ready.jpeg)) if prints else None
        found[number] = Seen((*ready.flags, *unlike), mark)
        return picture
    return np.zeros((renderer.reduced, renderer.reduced, 3), np.uint8)


def _without_refused(batch: Sequence[Photograph], found: Sequence[Seen | Refusal], images: Tensor) -> Rendered:
    refused = [each for each in found if isinstance(each, Refusal)]
    kept = [i for i, each in enumerate(found) if not isinstance(each, Refusal)]
    if refused:
        images = images[kept].contiguous(memory_format=torch.channels_last)
    seen = [each for each in found if isinstance(each, Seen)]
    prints = [each.print for each in seen if each.print]
    return Rendered([batch[i] for i in kept], images, [each.flags for each in seen], refused, prints)
