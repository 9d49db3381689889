"""From photograph to training pixels.

`tools preprocess` and `trainer predict` both call `prepare`, so training and prediction always see the same pixels.
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
    contrast_with_background,
    contrast_with_black,
    crop_square,
    find_disc,
    is_blank,
    is_near_black,
    is_overexposed,
    lit_box,
    small_copy,
    square_around,
)

VERSION: Final = 3
"""Version of `prepare`. It is raised whenever `prepare` gives other pixels for the same settings."""
EARLIER_VERSION: Final = {"none": 1, "graham": 2, "clahe": 1}
"""The version before, by enhancement. It assumed that every background is black and that all 16 bits are in use.
`prepare` still gives its pixels, bit for bit, because weights that were trained on them need them."""
MASK_COLOURS: Final = 3
"""A mask has at most this many colours: the background and one or two kinds of lesion."""
MAX_ASPECT: Final = 16
"""The largest ratio of a photograph's longer side to its shorter one. Beyond it are banners and strips."""


@dataclass(frozen=True)
class Recipe:
    """How photographs become training pixels. Equal recipes give equal bytes.

    size: side of the square, pixels, SMALLEST to LARGEST.
    quality: JPEG quality, 1 to 100.
    enhance: "none", "graham" or "clahe" (see `prepare`).
    version: VERSION or the one in EARLIER_VERSION.

    Raises ValueError, quoting the bad value, if one is out of range.
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
        if self.enhance not in EARLIER_VERSION:
            raise ValueError(f"enhance must be one of {', '.join(EARLIER_VERSION)}, got {self.enhance!r}")
        if self.version not in (VERSION, EARLIER_VERSION[self.enhance]):
            raise ValueError(f"version must be {VERSION} or {EARLIER_VERSION[self.enhance]}, got {self.version}")

    def as_dict(self) -> dict[str, int | str]:
        """The fields as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, object]) -> "Recipe":
        """The recipe that `as_dict` gave. Raises ValueError if it is not a recipe, or its version is not known here."""
        match dict(settings):
            case {"size": int(size), "quality": int(quality), "enhance": str(enhance), "version": int(version)}:
                return cls(size, quality, enhance, version)
        raise ValueError(f"not a recipe: {dict(settings)}")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits. They differ if the recipes differ."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Prepared(NamedTuple):
    """A photograph prepared for training.

    jpeg: size x size RGB, without chroma subsampling and metadata.
    width, height: of the upright photograph, pixels.
    disc: the circle of the retina, in pixels of the upright photograph; None if none was found.
    flags: names, sorted. By default only "blank" keeps a photograph out of the splits.
        "blank": black, white, flat, or too dark to grade.
        "burned_in": the DICOM file says that text is drawn into its picture. The text may name the patient, so check
            the picture before you pass the cache on.
        "damaged": the JPEG decodes with warnings of corrupt data. Perhaps only a few bytes are affected.
        "first_page": the file has several pictures, and the first was taken.
        "no_disc": no disc was found, so the full frame was kept.
        "overexposed": half of the disc is nearly white. Vessels and lesions may still be visible.
        "synthetic": `tools phantom` drew the picture or painted lesions on it. Reports warn that results on it do not
            hold for real eyes.
        "wide_field": the retina is an ellipse, as in the ultra-wide-field photographs of Optos cameras. They show more
            of the retina, at a smaller scale, than the photographs that grading scales are made for. The disc is the
            circle around the ellipse.
        "widened": more than 1 % of the lit pixels were outside the disc's square (a stamp, a reflex, a wrong disc), so
            the square was widened to keep them.
    square: what `jpeg` shows, in pixels of the upright photograph. It may extend beyond the frame.
    """

    jpeg: bytes
    width: int
    height: int
    disc: Disc | None
    flags: tuple[str, ...]
    square: Square


def prepare(data: bytes | memoryview, recipe: Recipe) -> Prepared:
    """Prepares a photograph for training. data: its bytes, in any format that `read_photo` knows.

    1. Find the disc of the retina.
    2. Crop the square around it: black outside the frame, and the full frame if there is no disc.
    3. Resize it once (Lanczos, both axes by exactly the same factor).
    4. Make everything outside the disc black, if the background is not black.
    5. Enhance it, as the recipe says.
    6. Draw a black border one pixel wide. With it, all loaders agree at the border of a rotated image.
    7. Encode it as JPEG.

    enhance="graham" subtracts the local average and raises the contrast fourfold around mid-grey (Graham, Kaggle
    diabetic retinopathy report, 2015). It is limited to 90 % of the disc's radius, because the edge of the disc shows
    beyond. Outside is black and not grey, because rotated images are black outside. The average is of retina only: if
    the frame cuts the disc off, an average with the black beyond would draw a white bar there, at the top and bottom of
    two in five EyePACS photographs, and a network could recognise the camera by it.

    enhance="clahe" is contrast-limited adaptive histogram equalisation of the lightness (CIELAB), within the disc.

    The same bytes and recipe give the same result. Raises PhotoError with the reason. Thread-safe.
    """
    is_current = recipe.version == VERSION
    photo = read_photo(data, cover=recipe.size, bits_in_use=is_current)
    if max(photo.width, photo.height) > MAX_ASPECT * min(photo.width, photo.height):
        raise PhotoError(f"{photo.width} x {photo.height} pixels: a strip, not a photograph")
    small, step = small_copy(photo.image)
    blank = is_blank(small)
    if not blank and count_colours(photo.image) <= MASK_COLOURS:
        raise PhotoError(f"a picture of at most {MASK_COLOURS} colours: a mask or a drawing, no photograph")
    contrast = contrast_with_background(small) if is_current else contrast_with_black(small)
    disc, wide_field = (None, False) if blank else find_disc(contrast)
    overexposed = disc is not None and is_overexposed(small, disc)
    square, widened = square_around(0, 0, photo.width, photo.height), False
    if disc is not None:
        blank = is_near_black(small, disc)
        square, disc = crop_square(contrast, disc).scaled(step * photo.scale), disc.scaled(step * photo.scale)
        widened = square.side > 2.001 * disc.radius
    if photo.scale > 1 and photo.scale * recipe.size > square.side:  # small disc, large frame: decode at a larger scale
        cover = ceil(recipe.size * min(photo.width, photo.height) / square.side)
        photo = read_photo(data, cover=cover, bits_in_use=is_current)
    pixels = _crop(photo, square, recipe.size)
    boundary = None if widened else disc
    if contrast.background in ("noisy", "coloured"):
        pixels[~_within(boundary, square, recipe.size, 0.99)] = 0  # the outermost 1 % is mixed with the background
    if recipe.enhance == "graham":
        pixels = _graham(pixels, _within(boundary, square, recipe.size, 0.9))
    elif recipe.enhance == "clahe":
        pixels = _clahe(pixels, _within(boundary, square, recipe.size, 1.0))
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
    names = tuple(name for name, is_set in flags.items() if is_set)
    return Prepared(encode(pixels, recipe.quality), photo.width, photo.height, disc, names, square)


def encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encodes RGB pixels (h, w, 3) as JPEG, without chroma subsampling and metadata."""
    jpeg = BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=quality, subsampling=0)
    return jpeg.getvalue()


def count_colours(image: NDArray[np.uint8]) -> int:
    """The number of colours in RGB (h, w, 3), at most MASK_COLOURS + 1: the count stops there, to be fast."""
    packed = image.reshape(-1, 3).astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    few = np.unique(packed[:: max(1, len(packed) // 4096)])
    return MASK_COLOURS + 1 if len(few) > MASK_COLOURS else min(MASK_COLOURS + 1, len(np.unique(packed)))


def _crop(photo: Photo, square: Square, size: int) -> NDArray[np.uint8]:
    """The square (in pixels of the photograph), resized to (size, size, 3)."""
    height, width = photo.image.shape[:2]
    step = square.side / photo.scale / size  # pixels of the image per pixel of the crop
    left, top = square.left / photo.scale, square.top / photo.scale
    # Integer pixels of the crop first, then the box in the image from them: so both axes have exactly the same step.
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


def _graham(pixels: NDArray[np.uint8], retina: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Subtracts the local average. retina: (h, w) mask; only retina is averaged, and everything else becomes black."""
    rows, columns = lit_box(pixels)
    edge = len(pixels) // 256 + 1  # pixels at a cut that resizing and JPEG have mixed with black
    intact = np.zeros_like(retina)
    intact[rows.start + edge : rows.stop - edge, columns.start + edge : columns.stop - edge] = True
    mask = (intact & retina) * np.uint8(255)
    sigma = len(pixels) / 60  # 1/30 of the radius
    masked = cv2.bitwise_and(pixels, pixels, mask=mask)
    total, weight = (cv2.GaussianBlur(each, (0, 0), sigma) for each in (masked, mask))
    average = cv2.divide(total, cv2.merge([weight] * 3), scale=255)
    enhanced = cv2.addWeighted(pixels, 4, average, -4, 128)
    return np.asarray(cv2.bitwise_and(enhanced, enhanced, mask=mask), dtype=np.uint8)


def _clahe(pixels: NDArray[np.uint8], retina: NDArray[np.bool_]) -> NDArray[np.uint8]:
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * retina[..., None], dtype=np.uint8)


def _within(disc: Disc | None, square: Square, size: int, fraction: float) -> NDArray[np.bool_]:
    """Mask (size, size) of the square's pixels within `fraction` of the disc's radius; all True if there is no disc."""
    if disc is None:
        return np.ones((size, size), bool)
    centres = (np.arange(size) + 0.5) * (square.side / size)
    x, y = centres + square.left - disc.cx, centres[:, None] + square.top - disc.cy
    return np.asarray(np.hypot(x, y) <= fraction * disc.radius)
