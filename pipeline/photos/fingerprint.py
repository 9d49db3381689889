"""Fingerprints of photographs, by which copies are found: of other sizes, brightness and borders, and mirrored."""

import math
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoError
from pipeline.photos.photo import read_photo

SIDE: Final = 64  # of a fingerprint, pixels
COPY_CORRELATION: Final = 0.7
"""Correlation of two fingerprints from which on two photographs are taken for copies of one. Among 420 EyePACS
photographs the most alike that are no copies have 0.58 (the same dust on the lens); 99 % of copies at half the size and
JPEG quality 75, or at quality 50, have more than 0.84."""
MIN_NORM: Final = 5.0
"""Length below which structure is noise: 420 EyePACS photographs have 18 at least, flat pictures 0.001."""
BLOCK: Final = 2048  # fingerprints compared at a time; 35,000 photographs need 0.6 GB and a quarter of a minute
COARSE_SIDE: Final = 32
"""Side of the fingerprints that all are compared by, pixels: a quarter of the work of whole ones."""
CANDIDATE_CORRELATION: Final = 0.55
"""Correlation of coarse fingerprints from which on the whole ones are compared."""
MAX_COMPARED: Final = 100_000
"""Photographs among which copies are looked for. 20,000 of test and 80,000 others are compared in 81 s on two cores.
The time grows as the square."""


def fingerprint(data: bytes | memoryview) -> NDArray[np.float32]:
    """The fine structure of a square photograph's retina, (SIDE * SIDE,), unit length.

    Brightness and contrast around each pixel are taken away: retinas share them, cameras and exposures change them.
    What is left is vessels and lesions, which no two eyes share. A photograph without structure has a fingerprint of
    zeros, which is like none.
    """
    grey = read_photo(data, cover=SIDE).image.mean(axis=2, dtype=np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    structure = small - cv2.GaussianBlur(small, (0, 0), SIDE / 32)
    structure /= np.sqrt(cv2.GaussianBlur(structure * structure, (0, 0), SIDE / 16)) + 1.0
    y, x = np.ogrid[:SIDE, :SIDE]
    structure[np.hypot(x - SIDE / 2 + 0.5, y - SIDE / 2 + 0.5) > 0.36 * SIDE] = 0  # all discs share their edges
    norm = float(np.linalg.norm(structure))
    return np.asarray(structure / norm if norm > MIN_NORM else np.zeros_like(structure), np.float32).ravel()


def fingerprint_or_zeros(data: bytes | memoryview) -> NDArray[np.float32]:
    """The same; zeros, which are like none, of what cannot be decoded."""
    try:
        return fingerprint(data)
    except PhotoError:
        return np.zeros(SIDE * SIDE, np.float32)


def near_duplicates(fingerprints: NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    """(i, j, correlation) of the rows of (n, SIDE * SIDE) that look like copies of one photograph, i < j."""
    for start in range(0, len(fingerprints), BLOCK):
        block = fingerprints[start : start + BLOCK]
        for other in range(start, len(fingerprints), BLOCK):
            correlation = block @ fingerprints[other : other + BLOCK].T
            for i, j in np.argwhere(correlation > COPY_CORRELATION):
                if start + i < other + j:
                    yield start + int(i), other + int(j), float(correlation[i, j])


def mirrored(vector: NDArray[np.float32], mirror: int) -> NDArray[np.float32]:
    """The fingerprint (side * side,), whole or coarse, upside down (bit 0 of `mirror`) and left to right (bit 1)."""
    square = vector.reshape(math.isqrt(len(vector)), -1)
    return square[:: -1 if mirror & 1 else 1, :: -1 if mirror & 2 else 1].ravel()


def coarse(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """(COARSE * COARSE,) unit length, of a fingerprint (SIDE * SIDE,)."""
    small = cv2.resize(vector.reshape(SIDE, SIDE), (COARSE_SIDE, COARSE_SIDE), interpolation=cv2.INTER_AREA).ravel()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)


def mirrored_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation of two fingerprints (SIDE * SIDE,), the highest of the four ways to mirror one."""
    return max(float(mirrored(one, mirror) @ other) for mirror in range(4))


def candidates(vectors: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """(i, j) of the coarse fingerprints (n, COARSE * COARSE) that may be copies, perhaps mirrored, i < j; a pair may
    come twice."""
    for start in range(0, len(vectors), BLOCK // 2):
        block = vectors[start : start + BLOCK // 2]
        for mirror in range(4):
            mirrored_block = np.stack([mirrored(each, mirror) for each in block])
            for i, j in np.argwhere(mirrored_block @ vectors[start:].T > CANDIDATE_CORRELATION).tolist():
                if i < j:
                    yield start + i, start + j
