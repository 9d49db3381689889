"""Find the retina's disc in a fundus photograph, and the square to crop. Pure functions on arrays.

Coordinates: x to the right, y down, in pixels from the frame's upper left corner, so pixel centres lie at +0.5.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SEARCH_SIDE: Final = 256
"""Longer side of the copy that is searched, pixels. A disc's radius is then found to about 0.3 %."""
TRIALS: Final = 256
TOLERANCE: Final = 1.5  # pixels of the small copy between a point and the circle it supports
SECTORS: Final = 64  # of the circle, to count how much of it the points support


class Disc(NamedTuple):
    """The circle of the retina. It may reach past the frame where the camera cut it off."""

    cx: float
    cy: float
    radius: float

    def scaled(self, factor: float) -> "Disc":
        return Disc(self.cx * factor, self.cy * factor, self.radius * factor)


class Square(NamedTuple):
    """An upright square. It may reach past the frame."""

    left: float
    top: float
    side: float

    def scaled(self, factor: float) -> "Square":
        return Square(self.left * factor, self.top * factor, self.side * factor)


def small_copy(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` (h, w, 3), averaged down until its longer side has SEARCH_SIDE pixels; as it is where it has no more."""
    height, width = image.shape[:2]
    factor = SEARCH_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def is_blank(image: NDArray[np.uint8]) -> bool:
    """Whether a small RGB image (h, w, 3) is featureless: black, white or flat, apart from noise."""
    low, high = _levels(cv2.GaussianBlur(_light(image), (0, 0), 3), 0.01, 0.99)
    return high - low < 4


def find_disc(image: NDArray[np.uint8]) -> Disc | None:
    """The retina's disc in a small RGB image (h, w, 3), in its pixels, or None where none can be made out.

    The outermost lit pixels of every row and column are the points; the circle that most of them support wins (RANSAC,
    Fischler and Bolles 1981, with a fixed seed), and is fitted to its supporters by least squares (Kasa 1976).
    """
    light = _light(image)
    for share in (0.15, 0.06, 0.4):  # the later ones for flare in a dark eye, and for a lit background
        points = _outline(_lit(light, share))
        disc = _circle(points, light.shape[1], light.shape[0])
        if disc is not None:
            return disc
    return None


def crop_square(image: NDArray[np.uint8], disc: Disc | None) -> Square:
    """The square around a small image's disc, or around the whole frame where there is none.

    Retina is never cut away: where more than 1 % of the lit pixels lay outside, the square grows to cover them.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if disc is not None:
        x0, y0, x1, y1 = disc.cx - disc.radius, disc.cy - disc.radius, disc.cx + disc.radius, disc.cy + disc.radius
        lit = _lit(_light(image), 0.15)
        inside = lit[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))].sum()
        if inside >= 0.99 * lit.sum():
            return Square(x0, y0, 2 * disc.radius)
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        left, right = min(x0, float(columns[0])), max(x1, float(columns[-1] + 1))
        top, bottom = min(y0, float(rows[0])), max(y1, float(rows[-1] + 1))
    side = max(right - left, bottom - top)
    return Square((left + right - side) / 2, (top + bottom - side) / 2, side)


def _light(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brightest channel (h, w): a retina is red before it is anything else. The median filter takes hot pixels."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3), dtype=np.uint8)


def _levels(light: NDArray[np.uint8], *shares: float) -> list[int]:
    """The levels that these shares of the pixels do not exceed."""
    cumulative = np.bincount(light.ravel(), minlength=256).cumsum()
    return [int(np.searchsorted(cumulative, share * light.size)) for share in shares]


def _lit(light: NDArray[np.uint8], share: float) -> NDArray[np.bool_]:
    """Where the light is more than `share` of the way from the background to the retina."""
    background, retina = _levels(light, 0.01, 0.9)
    return light > background + max(2.0, share * (retina - background))


def _outline(lit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outermost lit edges (n, 2) of every row and column, as x and y, without those on the frame's border."""
    height, width = lit.shape
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    ends = (
        (lit[rows].argmax(axis=1), rows + 0.5),
        (width - lit[rows, ::-1].argmax(axis=1), rows + 0.5),
        (columns + 0.5, lit[:, columns].argmax(axis=0)),
        (columns + 0.5, height - lit[::-1, columns].argmax(axis=0)),
    )
    x, y = np.concatenate(ends, axis=1)
    return np.stack([x, y], axis=1)[(x > 0) & (x < width) & (y > 0) & (y < height)]


def _circle(points: NDArray[np.float64], width: int, height: int) -> Disc | None:
    if len(points) < 16:
        return None
    circles = _circumcircles(points[np.random.default_rng(0).integers(len(points), size=(TRIALS, 3))])
    # A disc smaller than this is a reflex or the optic disc, a larger one the straight edge of a notch or of a mask.
    longer = max(width, height)
    circles = circles[(circles[:, 2] > 0.1 * longer) & (circles[:, 2] < 0.75 * longer)]
    if len(circles) == 0:
        return None
    some = points[:: max(1, len(points) // 200)]
    cx, cy, radius = circles.T[:, :, None]
    support = (np.abs(np.hypot(some[:, 0] - cx, some[:, 1] - cy) - radius) < TOLERANCE).sum(axis=1)
    disc = Disc(*circles[support.argmax()])
    for _ in range(2):
        supporters = points[np.abs(np.hypot(points[:, 0] - disc.cx, points[:, 1] - disc.cy) - disc.radius) < TOLERANCE]
        disc = _least_squares(supporters)
    return disc if _supported(disc, supporters, width, height) else None


def _circumcircles(triples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre and radius (n, 3) of the circles through three points each (n, 3, 2); NaN where they lie on a line."""
    a = triples[:, 0]
    (bx, by), (cx, cy) = (triples[:, 1] - a).T, (triples[:, 2] - a).T
    with np.errstate(divide="ignore", invalid="ignore"):
        b2, c2, double = bx**2 + by**2, cx**2 + cy**2, 2 * (bx * cy - by * cx)
        x, y = (cy * b2 - by * c2) / double, (bx * c2 - cx * b2) / double
    return np.stack([a[:, 0] + x, a[:, 1] + y, np.hypot(x, y)], axis=1)


def _least_squares(points: NDArray[np.float64]) -> Disc:
    x, y = points.T
    a, b, c = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], axis=1), x**2 + y**2, rcond=None)[0]
    return Disc(float(a / 2), float(b / 2), float(np.sqrt(max(0.0, c + (a**2 + b**2) / 4))))


def _supported(disc: Disc, points: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether the points stand on enough of that part of the circle which lies inside the frame."""
    angles = (np.arange(SECTORS) + 0.5) * (2 * np.pi / SECTORS)
    x, y = disc.cx + disc.radius * np.cos(angles), disc.cy + disc.radius * np.sin(angles)
    visible = (x > 2) & (x < width - 2) & (y > 2) & (y < height - 2)
    turned = np.arctan2(points[:, 1] - disc.cy, points[:, 0] - disc.cx) / (2 * np.pi) % 1
    hit = np.bincount((turned * SECTORS).astype(np.int64) % SECTORS, minlength=SECTORS) > 0
    found = (hit & visible).sum()
    return bool(found >= 8 and found >= 0.4 * visible.sum())
