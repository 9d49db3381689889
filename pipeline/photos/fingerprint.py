"""Fingerprints of photographs. They find copies of another size, brightness or border, and mirrored copies."""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoError
from pipeline.photos.photo import read_photo

SIDE: Final = 64  # side of a fingerprint, pixels
COPY_CORRELATION: Final = 0.7
"""Two photographs count as copies if their fingerprints correlate above this. Among 420 EyePACS photographs the highest
correlation without a copy is 0.58 (the same dust on the lens). 99 % of copies at half the size and JPEG quality 75, or
at quality 50, have more than 0.84."""
MIN_NORM: Final = 5.0
"""Structure with a norm below this is noise. 420 EyePACS photographs have 18 or more, flat pictures 0.001."""
BLOCK: Final = 2048  # fingerprints compared at a time; 35,000 photographs take 0.6 GB and 15 s
COARSE_SIDE: Final = 32
"""Side of a coarse fingerprint, pixels. All pairs are compared by these, at a quarter of the cost of full ones."""
CANDIDATE_CORRELATION: Final = 0.55
"""The full fingerprints of a pair are compared if its coarse ones correlate above this."""
MAX_COMPARED: Final = 100_000
"""Copies are searched among at most this many photographs. To compare 20,000 of test with 80,000 others takes 81 s on
two cores. The time grows with the square of the number."""


def fingerprint(data: bytes | memoryview) -> NDArray[np.float32]:
    """The fine structure of the retina in a square photograph, float32 (SIDE * SIDE,), of norm 1.

    Local brightness and contrast are removed: they are similar in all retinas and change with the camera and the
    exposure. Vessels and lesions remain, which differ in every eye. A photograph without structure gives zeros, which
    correlate with no other fingerprint.

    Raises PhotoError if the photograph cannot be decoded.
    """
    grey = read_photo(data, cover=SIDE).image.mean(axis=2, dtype=np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    structure = small - cv2.GaussianBlur(small, (0, 0), SIDE / 32)
    structure /= np.sqrt(cv2.GaussianBlur(structure * structure, (0, 0), SIDE / 16)) + 1.0
    y, x = np.ogrid[:SIDE, :SIDE]
    structure[np.hypot(x - SIDE / 2 + 0.5, y - SIDE / 2 + 0.5) > 0.36 * SIDE] = 0  # all discs have the same edge
    norm = float(np.linalg.norm(structure))
    return np.asarray(structure / norm if norm > MIN_NORM else np.zeros_like(structure), np.float32).ravel()


def fingerprint_or_zeros(data: bytes | memoryview) -> NDArray[np.float32]:
    """The `fingerprint`, or zeros if the photograph cannot be decoded."""
    try:
        return fingerprint(data)
    except PhotoError:
        return np.zeros(SIDE * SIDE, np.float32)


class Print(NamedTuple):
    """What tells whether two prepared photographs are copies."""

    crc32: int  # of the JPEG
    fingerprint: NDArray[np.float32]

    def is_copy(self, other: "Print") -> bool:
        """Whether both have the same bytes, or look the same, mirrored or not."""
        return self.crc32 == other.crc32 or are_copies(self.fingerprint, other.fingerprint)


def near_duplicates(fingerprints: NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    """Yields (i, j, correlation), i < j, for rows of (n, SIDE * SIDE) that look like copies of one photograph."""
    for start in range(0, len(fingerprints), BLOCK):
        block = fingerprints[start : start + BLOCK]
        for other in range(start, len(fingerprints), BLOCK):
            correlation = block @ fingerprints[other : other + BLOCK].T
            for i, j in np.argwhere(correlation > COPY_CORRELATION):
                if start + i < other + j:
                    yield start + int(i), other + int(j), float(correlation[i, j])


def mirrored(vector: NDArray[np.float32], mirror: int) -> NDArray[np.float32]:
    """A fingerprint (side * side,) flipped top to bottom (bit 0 of `mirror`) and left to right (bit 1)."""
    square = vector.reshape(math.isqrt(len(vector)), -1)
    return square[:: -1 if mirror & 1 else 1, :: -1 if mirror & 2 else 1].ravel()


def coarse(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coarse fingerprint (COARSE_SIDE * COARSE_SIDE,), of norm 1, of a fingerprint (SIDE * SIDE,)."""
    small = cv2.resize(vector.reshape(SIDE, SIDE), (COARSE_SIDE, COARSE_SIDE), interpolation=cv2.INTER_AREA).ravel()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)


def mirrored_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The correlation of two fingerprints (SIDE * SIDE,): the highest over the four ways to mirror one of them."""
    return max(float(mirrored(one, mirror) @ other) for mirror in range(4))


def are_copies(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two fingerprints (SIDE * SIDE,) are of one photograph, mirrored or not."""
    return mirrored_correlation(one, other) > COPY_CORRELATION


def candidates(vectors: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Yields (i, j), i < j, for coarse fingerprints (n, COARSE_SIDE * COARSE_SIDE) that may be copies, mirrored or not.

    A pair may come twice.
    """
    for start in range(0, len(vectors), BLOCK // 2):
        block = vectors[start : start + BLOCK // 2]
        for mirror in range(4):
            mirrored_block = np.stack([mirrored(each, mirror) for each in block])
            for i, j in np.argwhere(mirrored_block @ vectors[start:].T > CANDIDATE_CORRELATION).tolist():
                if i < j:
                    yield start + i, start + j
