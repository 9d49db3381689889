"""From photograph to training pixels: the one way, used by preprocess and by predict alike.

That both call `prepare` is what keeps training and serving from drifting apart.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from math import ceil, floor
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import PhotoError
from pipeline.limits import LARGEST, SMALLEST
from pipeline.photos.photo import Photo, read_photo
from pipeline.photos.retina import (
    Disc,
    Square,
    contrast_with_black,
    contrast_with_ground,
    covering,
    crop_square,
    find_disc,
    is_blank,
    is_near_black,
    is_overexposed,
    lit_box,
    small_copy,
)

VERSION: Final = 3
"""Of what `prepare` makes now; raised whenever it gives other pixels for the same settings."""
EARLIER: Final = {"none": 1, "graham": 2, "clahe": 1}
"""By enhancement, the version before, which took every ground for black and a 16-bit value for one of 65,536. `prepare`
still makes it, bit for bit: weights that were trained on such photographs want them."""
LEVELS: Final = 3
"""Colours that a mask has at most: background, and one or two kinds of lesion."""
MAX_ASPECT: Final = 16
"""The longer side of a photograph by its shorter one; beyond it lie banners and strips."""


@dataclass(frozen=True)
class Recipe:
    """How photographs become training pixels. Two equal recipes give equal bytes.

    size: side of the square, pixels, SMALLEST to LARGEST.
    quality: of the JPEG, 1 to 100.
    enhance: a key of EARLIER (see `prepare`).
    version: VERSION or the earlier one.
    """

    size: int = 512
    quality: int = 95
    enhance: str = "none"
    version: int = VERSION

    def __post_init__(self) -> None:
        if not SMALLEST <= self.size <= LARGEST:
            raise ValueError(f"size must be {SMALLEST} to {LARGEST} pixels, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        if self.enhance not in EARLIER:
            raise ValueError(f"enhance must be one of {', '.join(EARLIER)}, got {self.enhance!r}")
        if self.version not in (VERSION, EARLIER[self.enhance]):
            raise ValueError(f"version must be {VERSION} or {EARLIER[self.enhance]}, got {self.version}")

    def as_dict(self) -> dict[str, int | str]:
        """The settings and the version, as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, object]) -> "Recipe":
        """The recipe that `as_dict` described. Raises ValueError where it is not one, or of a version unknown here."""
        match dict(settings):
            case {"size": int(size), "quality": int(quality), "enhance": str(enhance), "version": int(version)}:
                return cls(size, quality, enhance, version)
        raise ValueError(f"not a recipe: {dict(settings)}")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that differ where the pixels could."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Prepared(NamedTuple):
    """A photograph made ready for training.

    jpeg: size x size RGB, without chroma subsampling and metadata.
    width, height: of the photograph, upright, in pixels.
    disc: the retina's circle, in pixels of the upright photograph; None where none was found.
    flags: sorted, of
        "blank"    black, white, flat, or so dark that nothing can be graded.
        "burned_in"  a DICOM file that says that words are drawn into its picture. It takes part; they may name the
                   patient, so look at it before anybody else gets the cache.
        "damaged"  a JPEG that decodes, but with warnings of corrupt data; it takes part, for it may be whole but for
                   some stray bytes.
        "first_page"  the file holds more pictures, of which the first was taken.
        "no_disc"  no disc was found, so the whole frame was kept.
        "overexposed"  half of the disc is nearly white; it takes part, for vessels and lesions may still be seen.
        "synthetic"  `tools phantom` drew the picture, or painted lesions on it. It takes part, and whoever reads of its
                   figures is told that they say nothing of real eyes.
        "wide_field"  the retina is an ellipse, as in the ultra-wide-field photographs of Optos cameras, which show more
                   of it, smaller, than the photographs that gradings are made for; the disc is the circle around it.
        "widened"  more than 1 % of the light lay outside the disc's square (a stamp, a reflex, a wrong disc), so the
                   square was widened to keep it.
    square: what the jpeg shows, in pixels of the upright photograph; it may reach past the frame.
    """

    jpeg: bytes
    width: int
    height: int
    disc: Disc | None
    flags: tuple[str, ...]
    square: Square


def prepare(data: bytes | memoryview, recipe: Recipe) -> Prepared:
    """A photograph's bytes, in any format that `read_photo` knows, to training pixels.

    Find the retina's disc, crop the square around it (black where it reaches past the frame; the whole frame where
    there is no disc), resize it once (Lanczos, both axes by exactly the same factor), make what lies outside the disc
    black where the ground is not, enhance it, draw a black frame one pixel wide and encode it. The frame is what lets
    every renderer agree when the image is turned.

    enhance="graham": the local average is subtracted and the contrast raised fourfold around middle grey, within 90 %
    of the disc's radius, beyond which its edge shows (Graham, Kaggle diabetic retinopathy report, 2015; black outside
    instead of grey, because turned images are black outside). Where the frame cut the disc off, the average is of the
    retina alone: averaged with the black beyond it a cut shines as a white bar, as top and bottom would of two in five
    EyePACS photographs, and tells the camera. "clahe": contrast-limited adaptive histogram
    equalisation of the lightness (CIELAB), within the disc.

    The same bytes and recipe give the same result. Raises PhotoError with the reason. Safe to call from several
    threads.
    """
    of_today = recipe.version == VERSION
    photo = read_photo(data, cover=recipe.size, bits_in_use=of_today)
    if max(photo.width, photo.height) > MAX_ASPECT * min(photo.width, photo.height):
        raise PhotoError(f"{photo.width} x {photo.height} pixels: a strip, not a photograph")
    small, step = small_copy(photo.image)
    blank = is_blank(small)
    if not blank and count_colours(photo.image) <= LEVELS:
        raise PhotoError(f"a picture of at most {LEVELS} colours: a mask or a drawing, no photograph")
    contrast = contrast_with_ground(small) if of_today else contrast_with_black(small)
    disc, wide_field = (None, False) if blank else find_disc(contrast)
    overexposed = disc is not None and is_overexposed(small, disc)
    square, widened = covering(0, 0, photo.width, photo.height), False
    if disc is not None:
        blank = is_near_black(small, disc)
        square, disc = crop_square(contrast, disc).scaled(step * photo.scale), disc.scaled(step * photo.scale)
        widened = square.side > 2.001 * disc.radius
    if photo.scale > 1 and photo.scale * recipe.size > square.side:  # a small disc in a large frame: decode it finer
        cover = ceil(recipe.size * min(photo.width, photo.height) / square.side)
        photo = read_photo(data, cover=cover, bits_in_use=of_today)
    pixels = _crop(photo, square, recipe.size)
    mask = None if widened else disc
    if contrast.ground in ("noisy", "coloured"):
        pixels[~_within(mask, square, recipe.size, 0.99)] = 0  # the last hundredth is mixed with the ground
    if recipe.enhance == "graham":
        pixels = _graham(pixels, _within(mask, square, recipe.size, 0.9))
    elif recipe.enhance == "clahe":
        pixels = _clahe(pixels, _within(mask, square, recipe.size, 1.0))
    pixels[[0, -1]] = 0
    pixels[:, [0, -1]] = 0
    flags = {
        "blank": blank,
        "burned_in": photo.burned_in,
        "damaged": photo.damaged,
        "first_page": photo.first_page,
        "no_disc": disc is None,
        "overexposed": overexposed,
        "synthetic": photo.synthetic,
        "wide_field": wide_field,
        "widened": widened,
    }
    raised = tuple(flag for flag, is_raised in flags.items() if is_raised)
    return Prepared(encode(pixels, recipe.quality), photo.width, photo.height, disc, raised, square)


def encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """The JPEG of RGB pixels (h, w, 3), without chroma subsampling and metadata."""
    jpeg = BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=quality, subsampling=0)
    return jpeg.getvalue()


def count_colours(image: NDArray[np.uint8]) -> int:
    """The number of colours of (h, w, 3) RGB; more than LEVELS come back as LEVELS + 1, soon."""
    packed = image.reshape(-1, 3).astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    few = np.unique(packed[:: max(1, len(packed) // 4096)])
    return LEVELS + 1 if len(few) > LEVELS else min(LEVELS + 1, len(np.unique(packed)))


def _crop(photo: Photo, square: Square, size: int) -> NDArray[np.uint8]:
    """The square (in pixels of the photograph), resized to (size, size, 3)."""
    height, width = photo.image.shape[:2]
    step = square.side / photo.scale / size  # pixels of the image to one of the crop
    left, top = square.left / photo.scale, square.top / photo.scale
    # Whole pixels of the crop first, and from them the box in the image: both axes then have the same step exactly.
    x0, y0 = max(0, ceil(-left / step)), max(0, ceil(-top / step))
    x1, y1 = min(size, floor((width - left) / step)), min(size, floor((height - top) / step))
    box = (
        max(0.0, left + x0 * step),
        max(0.0, top + y0 * step),
        min(float(width), left + x1 * step),
        min(float(height), top + y1 * step),
    )
    crop = np.zeros((size, size, 3), np.uint8)
    crop[y0:y1, x0:x1] = np.asarray(
        Image.fromarray(photo.image).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=box)
    )
    return crop


def _graham(pixels: NDArray[np.uint8], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`seen` (h, w) says where there is retina; only that is averaged, and the rest comes out black."""
    rows, columns = lit_box(pixels)
    edge = len(pixels) // 256 + 1  # pixels of the cut that resizing and JPEG have mixed with black
    retina = np.zeros_like(seen)
    retina[rows.start + edge : rows.stop - edge, columns.start + edge : columns.stop - edge] = True
    retina &= seen
    mask = retina * np.uint8(255)
    sigma = len(pixels) / 60  # a thirtieth of the radius
    masked = cv2.bitwise_and(pixels, pixels, mask=mask)
    light, share = (cv2.GaussianBlur(each, (0, 0), sigma) for each in (masked, mask))
    average = cv2.divide(light, cv2.merge([share] * 3), scale=255)
    raised = cv2.addWeighted(pixels, 4, average, -4, 128)
    return np.asarray(cv2.bitwise_and(raised, raised, mask=mask), dtype=np.uint8)


def _clahe(pixels: NDArray[np.uint8], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * seen[..., None], dtype=np.uint8)


def _within(disc: Disc | None, square: Square, size: int, share: float) -> NDArray[np.bool_]:
    """The pixels (size, size) of the square within `share` of the disc's radius; all where there is no disc."""
    if disc is None:
        return np.ones((size, size), bool)
    centres = (np.arange(size) + 0.5) * (square.side / size)
    x, y = centres + square.left - disc.cx, centres[:, None] + square.top - disc.cy
    return np.asarray(np.hypot(x, y) <= share * disc.radius)
