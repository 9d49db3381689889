"""Finds the disc of the retina in a fundus photograph, and the square to crop. Pure functions on arrays.

Coordinates: x to the right, y down, in pixels from the upper left corner of the frame. Pixel centres are at +0.5.

The search works on a small copy of the photograph. "Level" is a value of 0 to 255 in it, and "lit" means brighter than
the background, or different from it.
"""

from math import ceil, floor
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SEARCH_SIDE: Final = 256
"""Approximate longer side of the small copy, pixels: enough to find the disc to 0.5 % of its radius."""
RIM: Final = 0.2
"""A pixel is retina above this level, where the background is 0 and the retina 1. Higher values lose dim rims, lower
ones include the glow around bright ones."""
FAINT: Final = 0.1
"""A pixel is lit, and must not be cropped, above this level on the same scale. Below RIM, to be safe."""
MIN_CONTRAST: Final = 5
"""Levels from the background to the retina. With fewer, noise hides the rim."""
BLACK: Final = 8
"""The highest level of black bars and clean black backgrounds, with JPEG artefacts."""
NOT_BLACK: Final = 16
"""A background from this level on is not black. In 420 EyePACS photographs the highest level is 4."""
COLOURED: Final = 32
"""From this level on, colour separates a background from the retina; below, brightness alone: a dim rim differs from a
dark background in nothing else."""
SAME_COLOUR: Final = 24
"""Corners that differ by at most this many levels belong to one background."""
ROUGHNESS: Final = 0.05
"""Mean step between neighbouring pixels, as a fraction of their level. Retina and even backgrounds are below, noisy
backgrounds have 0.05 to 0.6."""
NOISE_KEPT: Final = 0.25
"""Fraction of the noise that may be above the level when the disc is searched. A smaller one would lose dim rims; with
a larger one the votes of background and retina differ too little."""
NOISE_CROPPED: Final = 0.1
"""The same fraction when lit pixels outside the disc are searched: noise is seldom so far above the background."""
RIM_STEP: Final = 0.2
"""Step at the rim, where the background is 0 and the retina 1. A coloured background has a larger one; corners that are
retina fade by at most 0.18."""
VOTE_SIDE: Final = 9
"""Side, in pixels, of the square whose pixels vote on its middle pixel if the background is noisy."""
ELLIPSE_ASPECT: Final = (1.1, 1.7)
"""Lowest and highest ratio of the axes of an ultra-wide-field retina. Optos frames are 1.27 times as wide as high."""
TRIALS: Final = 256  # circles that RANSAC tries
TOLERANCE: Final = 1.5
"""Largest distance, in pixels of the small copy, of a circle to the points that support it."""
SECTORS: Final = 64
"""Sectors of the circle in which support is counted."""


class Disc(NamedTuple):
    """The circle of the retina, pixels. It extends beyond the frame where the camera cut it off."""

    cx: float
    cy: float
    radius: float

    def scaled(self, factor: float) -> "Disc":
        return Disc(self.cx * factor, self.cy * factor, self.radius * factor)


class Contrast(NamedTuple):
    """How much the pixels of a small RGB image (h, w, 3) differ from the background around the retina."""

    difference: NDArray[np.uint8]  # (h, w) from the background, the largest of the channels; from black: brightness
    background: str | None = None  # "black", "noisy" (or dark grey), "coloured" (white too); None: assumed to be black
    noise: tuple[NDArray[np.uint8], ...] = ()  # patches of `difference` that show background only; none if it is black


class Square(NamedTuple):
    """A square with sides along x and y, pixels. It may extend beyond the frame."""

    left: float
    top: float
    side: float

    def scaled(self, factor: float) -> "Square":
        return Square(self.left * factor, self.top * factor, self.side * factor)


def small_copy(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """(copy, step): the RGB image (h, w, 3) averaged over blocks of step x step pixels.

    The longer side becomes about SEARCH_SIDE; a smaller image stays as it is. Less than one block at the right and the
    lower border is dropped, because averaging by an integer step is three times as fast.
    """
    step = max(1, round(max(image.shape[:2]) / SEARCH_SIDE))
    height, width = image.shape[0] // step, image.shape[1] // step
    covered = image[: height * step, : width * step]
    return np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8), step


def is_blank(image: NDArray[np.uint8]) -> bool:
    """Whether a small RGB image (h, w, 3) is black, white or flat, apart from noise.

    The blur reduces pixel noise to a tenth. A retina at 3 % of its usual brightness still spans 6 levels.
    """
    histogram = np.bincount(cv2.GaussianBlur(_brightness(image), (0, 0), 3).ravel(), minlength=256)
    return _level(histogram, 0.99) - _level(histogram, 0.01) < 4


def contrast_with_black(image: NDArray[np.uint8]) -> Contrast:
    """The contrast of a small RGB image (h, w, 3) with black, whatever its background is."""
    return Contrast(_brightness(image))


def contrast_with_background(image: NDArray[np.uint8]) -> Contrast:
    """The contrast of a small RGB image (h, w, 3) with its background: black, white, grey, of any colour, or noisy.

    Black bars are cropped first; then the four corners show the background. A disc that touches all four sides does not
    reach them: a corner is 1.41 radii from its centre, and the patches looked at end at 1.23 radii. One of the four
    corners may hold a stamp or retina.
    """
    brightness = _brightness(image)
    inner = _rows_and_columns(brightness > BLACK)
    inside = brightness[inner]
    side = max(1, min(inside.shape) // 16)
    ends = (slice(side), slice(-side, None))
    corners = [(rows, columns) for rows in ends for columns in ends]
    if sorted(inside[corner].max() for corner in corners)[2] <= BLACK:
        return Contrast(brightness, "black")
    colours = np.array([np.median(image[inner][corner], axis=(0, 1)) for corner in corners])
    background_colour = np.median(colours, axis=0).astype(np.uint8)
    same_colour = np.abs(colours - background_colour).max(axis=1) <= SAME_COLOUR
    smooth = np.array([_is_smooth(inside[corner]) for corner in corners])
    is_even = np.count_nonzero(same_colour & smooth) >= 3
    if is_even and background_colour.max() >= COLOURED:
        difference = np.zeros_like(brightness)
        distance = cv2.absdiff(image[inner], np.broadcast_to(background_colour, image[inner].shape))
        difference[inner] = _brightness(np.asarray(distance, dtype=np.uint8))
        patches = (difference[inner][corner] for corner, agrees in zip(corners, same_colour, strict=True) if agrees)
        return Contrast(difference, "coloured", tuple(patches))
    _, retina = _levels(brightness)
    dim = tuple(inside[corner] for corner in corners if inside[corner].mean() < retina / 2)
    is_black = len(dim) < 3 or (smooth.all() and not (is_even and background_colour.max() >= NOT_BLACK))
    return Contrast(brightness, "black") if is_black else Contrast(brightness, "noisy", dim)


def find_disc(contrast: Contrast) -> tuple[Disc | None, bool]:
    """(disc, wide_field): the retina's disc in a small image, in its pixels, or None if no disc is found.

    wide_field: the disc is the circle around an ellipse, as in the ultra-wide-field photographs of Optos cameras.

    The outermost lit pixels of every row and column are the candidate points. RANSAC (Fischler and Bolles, 1981; fixed
    seed) finds the circle that most points support. Least squares on the distances of these points refine it
    (Gauss-Newton). Algebraic fits are not used: they give too small a circle if only a short arc is visible.
    """
    difference = contrast.difference
    background, retina = _levels(difference)
    if retina - background < MIN_CONTRAST:
        return None, False
    height, width = difference.shape
    # The second level finds a dark eye with a flare, the third a retina on a background that is not black everywhere.
    for fraction in (RIM, RIM / 3, 2 * RIM):
        points = _outline(_above(contrast, background + max(2.0, fraction * (retina - background)), NOISE_KEPT))
        disc = _circle(points, width, height)
        if contrast.background is not None and (disc is None or _fraction_near(points, disc) < 0.6):
            around = _around_ellipse(points)
            if around is not None:
                return around, True
        if disc is None:
            continue
        if contrast.background != "coloured" or _step(difference, disc) >= RIM_STEP * (retina - background):
            return disc, False
    return None, False


def is_overexposed(image: NDArray[np.uint8], disc: Disc) -> bool:
    """Whether more than half of the disc in a small RGB image (h, w, 3) is nearly white: all channels 160 or more.

    This holds for 10 of 420 EyePACS photographs: both eyes of 95, 326, 679, 728 and 747. The next brightest has a
    median of 149.
    """
    red, green, blue = cv2.split(image)
    darkest = np.asarray(cv2.min(cv2.min(red, green), blue))[_inside(image, disc)]
    return bool(np.count_nonzero(darkest >= 160) > darkest.size / 2)


def is_near_black(image: NDArray[np.uint8], disc: Disc) -> bool:
    """Whether more than half of the disc in a small RGB image (h, w, 3) is below level 5 of 0 to 255.

    So few levels show no vessels and no lesions. Of 420 EyePACS photographs, 766_left has a median of 4 and the
    scrambled 492_right 0. The next darkest has 28.
    """
    brightness = _brightness(image)[_inside(image, disc)]
    return bool(np.count_nonzero(brightness < 5) > brightness.size / 2)


def crop_square(contrast: Contrast, disc: Disc) -> Square:
    """The square around the disc of a small image, in its pixels.

    If more than 1 % of the lit pixels are outside, the square grows to cover all of them, so that no retina is lost.
    """
    x0, y0, x1, y1 = disc.cx - disc.radius, disc.cy - disc.radius, disc.cx + disc.radius, disc.cy + disc.radius
    lit = _lit(contrast)
    # A pixel is inside if its centre, at + 0.5, is in the square.
    columns, rows = (slice(max(0, ceil(a - 0.5)), max(0, floor(b + 0.5))) for a, b in ((x0, x1), (y0, y1)))
    total = np.count_nonzero(lit)
    if total - np.count_nonzero(lit[rows, columns]) <= 0.01 * total:
        return square_around(x0, y0, x1, y1)
    x, y = np.flatnonzero(lit.any(axis=0)), np.flatnonzero(lit.any(axis=1))
    x0, x1 = min(x0, float(x[0])), max(x1, float(x[-1] + 1))
    y0, y1 = min(y0, float(y[0])), max(y1, float(y[-1] + 1))
    return square_around(x0, y0, x1, y1)


def lit_box(image: NDArray[np.uint8]) -> tuple[slice, slice]:
    """(rows, columns) of an RGB image (h, w, 3), each from the first to the last with lit pixels; all if none is lit.

    In the square around a disc, the rest is where the frame or a black bar cut the disc off.
    """
    return _rows_and_columns(_lit(contrast_with_black(image)))


def square_around(left: float, top: float, right: float, bottom: float) -> Square:
    """The smallest square that covers a rectangle and has its centre."""
    side = float(max(right - left, bottom - top))
    return Square((left + right - side) / 2, (top + bottom - side) / 2, side)


def _brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The highest channel of each pixel (h, w): a dim retina shows in red first. A median filter removes hot pixels."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3), dtype=np.uint8)


def _inside(image: NDArray[np.uint8], disc: Disc) -> NDArray[np.bool_]:
    """Mask (h, w) of the pixels within 90 % of the disc's radius, so without the rim."""
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    return np.asarray((x + 0.5 - disc.cx) ** 2 + (y + 0.5 - disc.cy) ** 2 < (0.9 * disc.radius) ** 2)


def _lit(contrast: Contrast) -> NDArray[np.bool_]:
    """Mask (h, w) of the lit pixels, which must not be cropped away. Noise is excluded."""
    background, retina = _levels(contrast.difference)
    fraction = RIM if contrast.noise else FAINT
    return _above(contrast, background + max(2.0, fraction * (retina - background)), NOISE_CROPPED)


def _above(contrast: Contrast, level: float, noise_fraction: float) -> NDArray[np.bool_]:
    """Mask (h, w) of the pixels above a level, without the noise of the background.

    The level is raised until at most `noise_fraction` of the noise is above it. Then the pixels in the square around
    each pixel vote on it. If a fraction s of the background and all of the retina are above the level, then (1 + s) / 2
    of a square on the edge between them is. The retina is the largest connected component of the result.
    """
    if all(np.count_nonzero(patch > level) <= 0.02 * patch.size for patch in contrast.noise):
        return np.asarray(contrast.difference > level)
    level = max(level, *(float(np.quantile(patch, 1 - noise_fraction)) for patch in contrast.noise))
    fraction = max(float((patch > level).mean()) for patch in contrast.noise)
    votes = cv2.boxFilter((contrast.difference > level) * np.uint8(255), -1, (VOTE_SIDE, VOTE_SIDE))
    lit = np.asarray(votes > 255 * (1 + fraction) / 2)
    _, components, statistics, _ = cv2.connectedComponentsWithStats(lit.view(np.uint8))
    largest = 1 + statistics[1:, cv2.CC_STAT_AREA].argmax() if len(statistics) > 1 else 0
    return np.asarray(lit & (components == largest))


def _is_smooth(patch: NDArray[np.uint8]) -> bool:
    """Whether the mean step between neighbouring pixels is below ROUGHNESS."""
    steps = np.abs(np.diff(patch.astype(np.float32)))
    return steps.sum() < ROUGHNESS * max(1.0, float(patch.mean())) * steps.size if steps.size else True


def _rows_and_columns(lit: NDArray[np.bool_]) -> tuple[slice, slice]:
    """(rows, columns), each from the first to the last of which more than 2 % is lit; all if there is none."""
    rows, columns = (np.flatnonzero(lit.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not rows.size or not columns.size:
        return slice(0, lit.shape[0]), slice(0, lit.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _level(histogram: NDArray[np.int64], fraction: float) -> int:
    """The lowest level that at least this fraction of the pixels does not exceed."""
    return int(np.searchsorted(histogram.cumsum(), fraction * histogram.sum()))


def _levels(difference: NDArray[np.uint8]) -> tuple[int, int]:
    """The levels of the background and of the retina.

    The level of the retina is the upper quartile of all pixels that are not background. So it does not depend on the
    size of the disc, nor on a flare that covers less than a quarter of it.
    """
    histogram = np.bincount(difference.ravel(), minlength=256)
    background = _level(histogram, 0.01)
    faint = background + max(2, (_level(histogram, 0.99) - background) // 16)
    histogram[: faint + 1] = 0
    return background, _level(histogram, 0.75)


def _outline(lit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 2) x and y of the outermost lit edges of every row and column, without those on the border of the frame."""
    height, width = lit.shape
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    ends = (
        (lit[rows].argmax(axis=1), rows + 0.5),
        (width - lit[rows, ::-1].argmax(axis=1), rows + 0.5),
        (columns + 0.5, lit[:, columns].argmax(axis=0)),
        (columns + 0.5, height - lit[::-1, columns].argmax(axis=0)),
    )
    points = np.concatenate(ends, axis=1).T
    return points[((points > 0) & (points < (width, height))).all(axis=1)]


def _circle(points: NDArray[np.float64], width: int, height: int) -> Disc | None:
    """The circle that most points (n, 2) support, fitted to them; None if too few support it. See `find_disc`."""
    if len(points) < 16:
        return None
    circles = _circumcircles(points[np.random.default_rng(0).integers(len(points), size=(TRIALS, 3))])
    # A smaller circle is a reflex or the optic disc, a larger one the straight edge of a notch or of a mask.
    longer = max(width, height)
    circles = circles[(circles[:, 2] > max(4, 0.1 * longer)) & (circles[:, 2] < 0.75 * longer)]
    if len(circles) == 0:
        return None
    sample = points[:: max(1, len(points) // 200)]
    cx, cy, radius = circles.T[:, :, None]
    support = (np.abs(_length(sample[:, 0] - cx, sample[:, 1] - cy) - radius) < TOLERANCE).sum(axis=1)
    circle = circles[support.argmax()]
    for _ in range(4):
        offsets = points - circle[:2]
        distances = _length(*offsets.T)
        near = np.abs(distances - circle[2]) < TOLERANCE
        distance = distances[near]
        directions = np.column_stack([offsets[near] / distance[:, None], np.ones_like(distance)])
        circle = circle + np.linalg.lstsq(directions, distance - circle[2], rcond=None)[0]
    disc = Disc(*circle.tolist())
    return disc if _supported(disc, points[near], width, height) else None


def _fraction_near(points: NDArray[np.float64], disc: Disc) -> float:
    """The fraction of the points that are near the circle."""
    error = np.abs(_length(points[:, 0] - disc.cx, points[:, 1] - disc.cy) - disc.radius)
    return np.count_nonzero(error < 2 * TOLERANCE) / len(points)


def _length(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """np.hypot in a third of the time, because overflow need not be avoided here."""
    return np.sqrt(x * x + y * y)


def _circumcircles(triples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) centre and radius of the circles through three points each (n, 3, 2); NaN or inf if they are collinear."""
    a = triples[:, 0]
    (bx, by), (cx, cy) = (triples[:, 1] - a).T, (triples[:, 2] - a).T
    with np.errstate(divide="ignore", invalid="ignore"):
        b2, c2, double = bx**2 + by**2, cx**2 + cy**2, 2 * (bx * cy - by * cx)
        x, y = (cy * b2 - by * c2) / double, (bx * c2 - cx * b2) / double
    return np.stack([a[:, 0] + x, a[:, 1] + y, np.hypot(x, y)], axis=1)


def _step(difference: NDArray[np.uint8], disc: Disc) -> float:
    """The median step from the background to the retina, over the angles at which both are in the frame; 0 if none is.

    Corners of retina may look like a background, but retina fades out and has no step.
    """
    height, width = difference.shape
    angles = np.arange(4 * SECTORS) * (np.pi / 2 / SECTORS)
    radii = disc.radius + 2 * TOLERANCE * np.array([[-1.0], [1.0]])
    x, y = np.floor(disc.cx + radii * np.cos(angles)), np.floor(disc.cy + radii * np.sin(angles))
    in_frame = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all(axis=0)
    inside, outside = difference[y[:, in_frame].astype(np.int64), x[:, in_frame].astype(np.int64)].astype(np.int64)
    return float(np.median(inside - outside)) if in_frame.any() else 0.0


def _around_ellipse(points: NDArray[np.float64]) -> Disc | None:
    """The circle around the ellipse through the points. None if they form no ellipse, or one that is nearly a circle.

    Lids and lashes may hide a quarter of it. So the ellipse (direct least squares, Fitzgibbon et al. 1999) is fitted to
    all points first, and then four times to the points near the last ellipse, with smaller tolerances.
    """
    near = points.astype(np.float32)
    for tolerance in (0.1, 0.05, 0.03, 0.015, 0.015):
        if len(near) < 16:
            return None
        (cx, cy), axes, degrees = cv2.fitEllipseDirect(near)
        cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        on_unit_circle = (points - (cx, cy)) @ np.array([[cosine, -sine], [sine, cosine]]) / (np.array(axes) / 2)
        is_near = np.abs(_length(*on_unit_circle.T) - 1) < tolerance
        near = points[is_near].astype(np.float32)
    narrow, wide = sorted(axes)
    hit = np.unique(np.floor(np.arctan2(*on_unit_circle[is_near].T) / (2 * np.pi) * SECTORS))
    is_covered = len(near) >= 0.75 * len(points) and len(hit) >= SECTORS / 2
    is_ellipse = is_covered and ELLIPSE_ASPECT[0] <= wide / narrow <= ELLIPSE_ASPECT[1]
    return Disc(cx, cy, wide / 2) if is_ellipse else None


def _supported(disc: Disc, points: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether the centre is in the frame, and enough of the visible part of the circle has points on it."""
    if not (0 <= disc.cx <= width and 0 <= disc.cy <= height):
        return False  # stray edges give such circles, and they may cover no pixel
    angles = (np.arange(SECTORS) + 0.5) * (2 * np.pi / SECTORS)
    x, y = disc.cx + disc.radius * np.cos(angles), disc.cy + disc.radius * np.sin(angles)
    visible = (x > 2) & (x < width - 2) & (y > 2) & (y < height - 2)
    turns = np.arctan2(points[:, 1] - disc.cy, points[:, 0] - disc.cx) / (2 * np.pi) % 1
    hit = np.bincount((turns * SECTORS).astype(np.int64) % SECTORS, minlength=SECTORS) > 0
    found = (hit & visible).sum()
    return bool(found >= 8 and found >= 0.4 * visible.sum())
