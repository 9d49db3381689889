"""From photograph to training pixels: the one way, used by preprocess and by predict alike.

That both call `prepare` is what keeps training and serving from drifting apart.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor
from typing import ClassVar, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.photo import Photo, read_photo
from pipeline.retina import Disc, find_disc, is_blank, small_copy

ENHANCEMENTS: Final = ("none", "graham", "clahe")


@dataclass(frozen=True)
class Recipe:
    """How photographs become training pixels. Two equal recipes give equal bytes.

    size: side of the square, pixels, 32 to 4096.
    quality: of the JPEG, 1 to 100.
    enhance: "none", "graham" or "clahe" (see `prepare`).
    """

    VERSION: ClassVar[int] = 1  # raised whenever `prepare` gives other pixels for the same settings

    size: int = 512
    quality: int = 95
    enhance: str = "none"

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096:
            raise ValueError(f"size must be 32 to 4096 pixels, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        if self.enhance not in ENHANCEMENTS:
            raise ValueError(f"enhance must be one of {', '.join(ENHANCEMENTS)}, got {self.enhance!r}")

    def as_dict(self) -> dict[str, int | str]:
        """The settings and the version, as plain JSON."""
        return {"size": self.size, "quality": self.quality, "enhance": self.enhance, "version": self.VERSION}

    @classmethod
    def from_dict(cls, settings: Mapping[str, object]) -> "Recipe":
        """The recipe that `as_dict` described. Raises ValueError where it is not one, or of another version."""
        match dict(settings):
            case {"size": int(size), "quality": int(quality), "enhance": str(enhance), "version": cls.VERSION}:
                return cls(size, quality, enhance)
        raise ValueError(f"not a recipe of version {cls.VERSION}: {dict(settings)}")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that differ where the pixels could."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Prepared(NamedTuple):
    """A photograph made ready for training."""

    jpeg: bytes  # size x size RGB, no chroma subsampling, no EXIF
    width: int  # of the photograph, upright, pixels
    height: int
    disc: Disc | None  # in pixels of the upright photograph
    flags: tuple[str, ...]  # sorted


def prepare(data: bytes | memoryview, recipe: Recipe) -> Prepared:
    """Decode, find the retina, crop a square around it, resize, enhance, frame, encode."""
    photo = read_photo(data, cover=recipe.size)
    small = small_copy(photo.image)
    flags = []
    disc = None
    if is_blank(small):
        flags.append("blank")
    else:
        disc = find_disc(small)
    if disc is None:
        flags.append("no_disc")
    else:
        disc = disc.scaled(photo.width / small.shape[1])
    left, top, side = _square(photo, disc)
    if photo.scale > 1 and side < recipe.size * photo.scale:
        photo = read_photo(data, cover=ceil(recipe.size * min(photo.width, photo.height) / side))
    pixels = _crop(photo, left, top, side, recipe.size)
    pixels = _enhance(
        pixels, recipe, disc and Disc(*(v * recipe.size / side for v in (disc.cx - left, disc.cy - top, disc.radius)))
    )
    pixels[[0, -1]] = 0
    pixels[:, [0, -1]] = 0
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=recipe.quality, subsampling=0)
    return Prepared(out.getvalue(), photo.width, photo.height, disc, tuple(sorted(flags)))


def _square(photo: Photo, disc: Disc | None) -> tuple[float, float, float]:
    if disc is None:
        side = float(max(photo.width, photo.height))
        return (photo.width - side) / 2, (photo.height - side) / 2, side
    return disc.cx - disc.radius, disc.cy - disc.radius, 2 * disc.radius


def _crop(photo: Photo, left: float, top: float, side: float, size: int) -> NDArray[np.uint8]:
    height, width = photo.image.shape[:2]
    step = side / photo.scale / size  # pixels of the image to one of the crop
    left, top = left / photo.scale / step, top / photo.scale / step
    x0, y0 = ceil(max(0, -left)), ceil(max(0, -top))
    x1, y1 = floor(min(size, width / step - left)), floor(min(size, height / step - top))
    box = (left + x0) * step, (top + y0) * step, (left + x1) * step, (top + y1) * step
    resized = Image.fromarray(photo.image).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=box)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[y0:y1, x0:x1] = resized
    return pixels


def _enhance(pixels: NDArray[np.uint8], recipe: Recipe, disc: Disc | None) -> NDArray[np.uint8]:
    if recipe.enhance == "none":
        return pixels
    if recipe.enhance == "graham":
        blurred = cv2.GaussianBlur(pixels, (0, 0), recipe.size / 30)
        pixels = np.asarray(cv2.addWeighted(pixels, 4, blurred, -4, 128), dtype=np.uint8)
    else:
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
        pixels = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), dtype=np.uint8)
    if disc is not None:
        y, x = np.ogrid[: recipe.size, : recipe.size]
        pixels[np.hypot(x + 0.5 - disc.cx, y + 0.5 - disc.cy) > 0.96 * disc.radius] = 0
    return pixels
