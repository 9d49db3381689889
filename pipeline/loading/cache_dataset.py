"""A cache as a `torch.utils.data.Dataset`, for training loops that use their own DataLoader."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import CacheError
from pipeline.loading.torchvision_loader import decode_jpeg, decoded


class CacheDataset(Dataset[tuple[Any, int]]):
    """The photographs of a split: pairs of an image and its grade, 0-4, or -1 if it has none.

    The image is a tensor, uint8 (3, size, size), RGB 0-255, with the pixels of a loader without augmentation. With a
    `transform`, it is what `transform` returns for the photograph as a PIL image (RGB).

    Each worker of a DataLoader, forked or spawned, maps the shards itself.
    """

    def __init__(
        self,
        cache: Cache | Path | str,
        *,
        split: str = "train",
        transform: Callable[[Image.Image], Any] | None = None,
        ungraded: bool = False,
    ) -> None:
        """
        cache: an open cache, its folder or its URL.
        split: "train", "val", "test" or "all".
        transform: called with each photograph, a PIL image (RGB).
        ungraded: include photographs without a grade.

        Raises CacheError if the cache cannot be used or the split has no photographs.
        """
        self._cache = cache if isinstance(cache, Cache) else open_cache(cache)
        self._process = os.getpid()
        self.transform = transform
        self.rows: NDArray[np.int64] = self._cache.rows(split) if ungraded else self._cache.graded_rows(split)
        """(n,) rows of the manifest."""
        if not len(self.rows):
            kind = "" if ungraded else "graded "
            raise CacheError(f"{self._cache.path}: no {kind}photograph is in the split {split!r}")

    @property
    def cache(self) -> Cache:
        """The cache, opened by this process."""
        if self._process != os.getpid():  # a worker
            self._cache, self._process = self._cache.reopened(), os.getpid()
        return self._cache

    @property
    def grades(self) -> NDArray[np.int64]:
        """(n,) 0-4, -1 if unknown; for example for a weighted sampler."""
        return self._cache.grades[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """(image, grade). Raises CacheError with the photograph's id if it is damaged."""
        row, cache = int(self.rows[index]), self.cache
        picture, grade = decoded(decode_jpeg, cache, row), int(cache.manifest["grade"].iloc[row])
        if self.transform is not None:
            return self.transform(Image.fromarray(picture)), grade
        return torch.from_numpy(picture).permute(2, 0, 1).contiguous(), grade
