"""Caches for the loaders' benchmarks."""

from pathlib import Path

import numpy as np
from turns import SHARED

from pipeline.cache.cache import Cache, open_cache
from pipeline.machine import usable_cores
from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source


def eyepacs(folder: Path, size: int = 512) -> Cache:
    """420 real photographs."""
    settings = PreprocessSettings(workers=usable_cores())
    preprocess(list_source(SHARED / "data/eyepacs"), folder / "cache", Recipe(size), settings, lambda *_: None)
    return open_cache(folder / "cache")


def repeated(cache: Cache, length: int) -> Cache:
    """The same photographs over and over."""
    return cache.take(np.resize(np.arange(len(cache.manifest)), length))


def write_jpegs(cache: Cache, folder: Path) -> Path:
    """Each photograph of the cache as a file, for those who read files."""
    folder.mkdir()
    for row, id in enumerate(cache.manifest["id"]):
        (folder / f"{Path(id).name}.jpeg").write_bytes(cache.read(row))
    return folder
