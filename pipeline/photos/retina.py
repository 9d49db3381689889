"""Find the retina's disc in a fundus photograph, and the square to crop. Pure functions on arrays.

Coordinates: x to the right, y down, in pixels from the frame's upper left corner, so pixel centres lie at +0.5.
"""

from math import ceil, floor
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SEARCH_SIDE: Final = 256
"""Longer side of the copy that is searched, about, pixels: enough to place the disc to 0.5 % of its radius."""
RIM: Final = 0.2
"""Where the retina begins, on the way from the background's level (0) to its own (1): higher loses dim rims, lower
takes in the glow around bright ones."""
FAINT: Final = 0.1
"""Where light begins that must not be cut away; below RIM, to err on the safe side."""
MIN_CONTRAST: Final = 5
"""Levels between background and retina below which the rim drowns in noise."""
BLACK: Final = 8
"""Levels that a black bar or a clean black ground does not exceed, whatever JPEG made of it."""
NOT_BLACK: Final = 16
"""The level from which a ground is not black: of 420 EyePACS photographs none has more than 4."""
COLOURED: Final = 32
"""The level from which pixels are told from the ground by their distance; a dim rim differs from a darker ground by its
light alone."""
SAME_COLOUR: Final = 24
"""Levels between the corners of one ground."""
ROUGHNESS: Final = 0.05
"""The mean step between neighbours, as a share of their level, that retina and an even ground stay below; noise on the
ground has 0.05 to 0.6."""
NOISE_KEPT: Final = 0.25
"""Of the noise, what may pass a level of the finder: less would cost dim rims, more leaves little between the ground's
votes and the retina's."""
NOISE_CROPPED: Final = 0.1
"""The same where light outside the disc is to be kept: what reaches so far is seldom noise."""
RIM_STEP: Final = 0.2
"""The step at the rim, on the way from the ground's level to the retina's, that tells a coloured ground from corners of
retina, which fade by 0.18 at most."""
VOTE_SIDE: Final = 9
"""Side of the square of pixels that vote on the one in its middle where the ground is noisy."""
ELLIPSE_ASPECT: Final = (1.1, 1.7)
"""The longer axis of an ultra-wide field by the shorter one: Optos frames are 1.27 times as wide as high."""
TRIALS: Final = 256
TOLERANCE: Final = 1.5
"""Pixels of the small copy between the circle and the points that support it."""
SECTORS: Final = 64
"""Of the circle, in which support is counted."""


class Disc(NamedTuple):
    """The circle of the retina. It may reach past the frame where the camera cut it off."""

    cx: float
    cy: float
    radius: float

    def scaled(self, factor: float) -> "Disc":
        return Disc(self.cx * factor, self.cy * factor, self.radius * factor)


class Contrast(NamedTuple):
    """How far a small RGB image (h, w, 3) is from the ground around its retina."""

    difference: NDArray[np.uint8]  # (h, w) from the background, the largest of the channels; from black: brightness
    background: str | None = (
        None  # "black", "noisy" (or dark grey), "coloured" (white, any even one); None: taken for black
    )
    noise: tuple[NDArray[np.uint8], ...] = ()  # of another ground than black: patches of `light` where it alone shows


class Square(NamedTuple):
    """An upright square. It may reach past the frame."""

    left: float
    top: float
    side: float

    def scaled(self, factor: float) -> "Square":
        return Square(self.left * factor, self.top * factor, self.side * factor)


def small_copy(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """The RGB image (h, w, 3) averaged over blocks of step x step pixels, and the step.

    The longer side comes near SEARCH_SIDE; a smaller image comes back as it is. What is left over at the right and
    lower border, less than a block, is left out. A whole step makes the averaging three times as fast.
    """
    step = max(1, round(max(image.shape[:2]) / SEARCH_SIDE))
    height, width = image.shape[0] // step, image.shape[1] // step
    covered = image[: height * step, : width * step]
    return np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8), step


def is_blank(image: NDArray[np.uint8]) -> bool:
    """Whether a small RGB image (h, w, 3) is featureless: black, white or flat, apart from noise.

    The blur leaves a tenth of pixel noise; a retina at 3 % of its usual brightness still spans 6 levels.
    """
    histogram = np.bincount(cv2.GaussianBlur(_brightness(image), (0, 0), 3).ravel(), minlength=256)
    return _level(histogram, 0.99) - _level(histogram, 0.01) < 4


def contrast_with_black(image: NDArray[np.uint8]) -> Contrast:
    """The contrast of a small RGB image (h, w, 3) with black, whatever its ground is."""
    return Contrast(_brightness(image))


def contrast_with_background(image: NDArray[np.uint8]) -> Contrast:
    """The contrast of a small RGB image (h, w, 3) with its ground: black, white, grey, of any colour, or noisy.

    The ground shows in the corners of what lies within black bars. A disc that touches all four sides stays away from
    them: they are 1.41 of its radius from its centre, and the patches that are looked at end at 1.23. One of the four
    may hold a stamp or retina.
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
    """The retina's disc in a small RGB image, in its pixels, or None where none can be made out; and whether it is the
    circle around an ellipse, as the ultra-wide-field photographs of Optos cameras have it.

    The outermost lit pixels of every row and column are the points. The circle that most of them support wins (RANSAC,
    Fischler and Bolles 1981, with a fixed seed) and is fitted to its supporters' distances by least squares
    (Gauss-Newton; the algebraic fits make circles of which little is seen too small).
    """
    difference = contrast.difference
    background, retina = _levels(difference)
    if retina - background < MIN_CONTRAST:
        return None, False
    height, width = difference.shape
    # The second level is for a dark eye with a flare in it, the third for a background that is not black everywhere.
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
    """Whether half of the disc of a small RGB image (h, w, 3) is nearly white: no channel below the level 160.

    Of 420 EyePACS photographs ten are, both eyes of 95, 326, 679, 728 and 747; the next brightest has a median of 149.
    """
    red, green, blue = cv2.split(image)
    darkest = np.asarray(cv2.min(cv2.min(red, green), blue))[_inside(image, disc)]
    return bool(np.count_nonzero(darkest >= 160) > darkest.size / 2)


def is_near_black(image: NDArray[np.uint8], disc: Disc) -> bool:
    """Whether half of the disc of a small RGB image (h, w, 3) lies below the fifth of 256 levels.

    So few levels hold no vessel and no lesion. Of 420 EyePACS photographs 766_left has a median of 4 there and the
    scrambled 492_right 0; the next darkest has 28.
    """
    brightness = _brightness(image)[_inside(image, disc)]
    return bool(np.count_nonzero(brightness < 5) > brightness.size / 2)


def crop_square(contrast: Contrast, disc: Disc) -> Square:
    """The square around the disc of a small RGB image, in its pixels.

    Retina is never cut away: where more than 1 % of the lit pixels lay outside, the square grows to cover them all.
    """
    x0, y0, x1, y1 = disc.cx - disc.radius, disc.cy - disc.radius, disc.cx + disc.radius, disc.cy + disc.radius
    lit = _lit(contrast)
    # Pixels inside have their centres, at + 0.5, in the square.
    columns, rows = (slice(max(0, ceil(a - 0.5)), max(0, floor(b + 0.5))) for a, b in ((x0, x1), (y0, y1)))
    total = np.count_nonzero(lit)
    if total - np.count_nonzero(lit[rows, columns]) <= 0.01 * total:
        return square_around(x0, y0, x1, y1)
    x, y = np.flatnonzero(lit.any(axis=0)), np.flatnonzero(lit.any(axis=1))
    x0, x1 = min(x0, float(x[0])), max(x1, float(x[-1] + 1))
    y0, y1 = min(y0, float(y[0])), max(y1, float(y[-1] + 1))
    return square_around(x0, y0, x1, y1)


def lit_box(image: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of an RGB image (h, w, 3) from the first to the last that hold more light than noise has.

    What lies outside, in a disc's square, is where the frame or a black bar cut the disc off. All of them where nothing
    is lit.
    """
    return _rows_and_columns(_lit(contrast_with_black(image)))


def square_around(left: float, top: float, right: float, bottom: float) -> Square:
    """The smallest square about the centre of a rectangle that covers it."""
    side = float(max(right - left, bottom - top))
    return Square((left + right - side) / 2, (top + bottom - side) / 2, side)


def _brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brightest channel (h, w): a retina is red before it is anything else. The median filter takes hot pixels."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3), dtype=np.uint8)


def _inside(image: NDArray[np.uint8], disc: Disc) -> NDArray[np.bool_]:
    """The pixels (h, w) within 90 % of the disc's radius, where its rim plays no part."""
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    return np.asarray((x + 0.5 - disc.cx) ** 2 + (y + 0.5 - disc.cy) ** 2 < (0.9 * disc.radius) ** 2)


def _lit(contrast: Contrast) -> NDArray[np.bool_]:
    """The pixels (h, w) that hold light which must not be cut away: all that noise does not hide."""
    background, retina = _levels(contrast.difference)
    fraction = RIM if contrast.noise else FAINT
    return _above(contrast, background + max(2.0, fraction * (retina - background)), NOISE_CROPPED)


def _above(contrast: Contrast, level: float, noise_fraction: float) -> NDArray[np.bool_]:
    """The pixels (h, w) above a level, without the noise of the ground.

    The level is raised until at most `kept` of the noise passes. Then the pixels around each vote: where the share
    s of the ground passes and all of the retina, (1 + s) / 2 of them do on the edge between the two. The retina is the
    largest piece of what is left.
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
    steps = np.abs(np.diff(patch.astype(np.float32)))
    return steps.sum() < ROUGHNESS * max(1.0, float(patch.mean())) * steps.size if steps.size else True


def _rows_and_columns(lit: NDArray[np.bool_]) -> tuple[slice, slice]:
    """From the first to the last of which more than 2 % is lit; all of them where there is none."""
    rows, columns = (np.flatnonzero(lit.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not rows.size or not columns.size:
        return slice(0, lit.shape[0]), slice(0, lit.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _level(histogram: NDArray[np.int64], fraction: float) -> int:
    """The level that this share of the pixels does not exceed."""
    return int(np.searchsorted(histogram.cumsum(), fraction * histogram.sum()))


def _levels(difference: NDArray[np.uint8]) -> tuple[int, int]:
    """The levels of the background and of the retina.

    The retina's is the upper quartile of what is not background, so neither the size of the disc matters nor a flare
    that covers less than a quarter of it.
    """
    histogram = np.bincount(difference.ravel(), minlength=256)
    background = _level(histogram, 0.01)
    faint = background + max(2, (_level(histogram, 0.99) - background) // 16)
    histogram[: faint + 1] = 0
    return background, _level(histogram, 0.75)


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
    points = np.concatenate(ends, axis=1).T
    return points[((points > 0) & (points < (width, height))).all(axis=1)]


def _circle(points: NDArray[np.float64], width: int, height: int) -> Disc | None:
    if len(points) < 16:
        return None
    circles = _circumcircles(points[np.random.default_rng(0).integers(len(points), size=(TRIALS, 3))])
    # A smaller disc is a reflex or the optic disc, a larger one the straight edge of a notch or of a mask.
    longer = max(width, height)
    circles = circles[(circles[:, 2] > max(4, 0.1 * longer)) & (circles[:, 2] < 0.75 * longer)]
    if len(circles) == 0:
        return None
    sample = points[:: max(1, len(points) // 200)]
    cx, cy, radius = circles.T[:, :, None]
    support = (np.abs(_length(sample[:, 0] - cx, sample[:, 1] - cy) - radius) < TOLERANCE).sum(axis=1)
    circle = circles[support.argmax()]
    for _ in range(4):
        arms = points - circle[:2]
        lengths = _length(*arms.T)
        near = np.abs(lengths - circle[2]) < TOLERANCE
        distance = lengths[near]
        directions = np.column_stack([arms[near] / distance[:, None], np.ones_like(distance)])
        circle = circle + np.linalg.lstsq(directions, distance - circle[2], rcond=None)[0]
    disc = Disc(*circle.tolist())
    return disc if _supported(disc, points[near], width, height) else None


def _fraction_near(points: NDArray[np.float64], disc: Disc) -> float:
    """The share of the points that lie near the circle."""
    away = np.abs(_length(points[:, 0] - disc.cx, points[:, 1] - disc.cy) - disc.radius)
    return np.count_nonzero(away < 2 * TOLERANCE) / len(points)


def _length(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """np.hypot in a third of the time: nothing here overflows."""
    return np.sqrt(x * x + y * y)


def _circumcircles(triples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre and radius (n, 3) of the circles through three points each (n, 3, 2); NaN where they lie on a line."""
    a = triples[:, 0]
    (bx, by), (cx, cy) = (triples[:, 1] - a).T, (triples[:, 2] - a).T
    with np.errstate(divide="ignore", invalid="ignore"):
        b2, c2, double = bx**2 + by**2, cx**2 + cy**2, 2 * (bx * cy - by * cx)
        x, y = (cy * b2 - by * c2) / double, (bx * c2 - cx * b2) / double
    return np.stack([a[:, 0] + x, a[:, 1] + y, np.hypot(x, y)], axis=1)


def _step(difference: NDArray[np.uint8], disc: Disc) -> float:
    """The median step from the ground to the retina, over the angles at which both lie in the frame.

    A photograph without ground may have corners that look like one; what surrounds them then fades in.
    """
    height, width = difference.shape
    angles = np.arange(4 * SECTORS) * (np.pi / 2 / SECTORS)
    radii = disc.radius + 2 * TOLERANCE * np.array([[-1.0], [1.0]])
    x, y = np.floor(disc.cx + radii * np.cos(angles)), np.floor(disc.cy + radii * np.sin(angles))
    in_frame = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all(axis=0)
    inside, outside = difference[y[:, in_frame].astype(np.int64), x[:, in_frame].astype(np.int64)].astype(np.int64)
    return float(np.median(inside - outside)) if in_frame.any() else 0.0


def _around_ellipse(points: NDArray[np.float64]) -> Disc | None:
    """The circle around the ellipse that the points lie on; None where it is as good as a circle, or none.

    Lids and lashes may hide a quarter of it: it is fitted to all points, and then to those near the ellipse before.
    """
    near = points.astype(np.float32)
    for tolerance in (0.1, 0.05, 0.03, 0.015, 0.015):
        if len(near) < 16:
            return None
        (cx, cy), axes, degrees = cv2.fitEllipseDirect(near)
        cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turned = (points - (cx, cy)) @ np.array([[cosine, -sine], [sine, cosine]]) / (np.array(axes) / 2)
        is_near = np.abs(_length(*turned.T) - 1) < tolerance
        near = points[is_near].astype(np.float32)
    narrow, wide = sorted(axes)
    hit = np.unique(np.floor(np.arctan2(*turned[is_near].T) / (2 * np.pi) * SECTORS))
    is_covered = len(near) >= 0.75 * len(points) and len(hit) >= SECTORS / 2
    is_ellipse = is_covered and ELLIPSE_ASPECT[0] <= wide / narrow <= ELLIPSE_ASPECT[1]
    return Disc(cx, cy, wide / 2) if is_ellipse else None


def _supported(disc: Disc, points: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether the points stand on enough of that part of the circle which lies inside the frame, its centre there."""
    if not (0 <= disc.cx <= width and 0 <= disc.cy <= height):
        return False  # such circles come of stray edges, and may cover no pixel at all
    angles = (np.arange(SECTORS) + 0.5) * (2 * np.pi / SECTORS)
    x, y = disc.cx + disc.radius * np.cos(angles), disc.cy + disc.radius * np.sin(angles)
    visible = (x > 2) & (x < width - 2) & (y > 2) & (y < height - 2)
    turned = np.arctan2(points[:, 1] - disc.cy, points[:, 0] - disc.cx) / (2 * np.pi) % 1
    hit = np.bincount((turned * SECTORS).astype(np.int64) % SECTORS, minlength=SECTORS) > 0
    found = (hit & visible).sum()
    return bool(found >= 8 and found >= 0.4 * visible.sum())
