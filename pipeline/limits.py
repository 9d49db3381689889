"""Limits of options: sides of photographs, threads, epochs, photographs in a batch."""

from typing import Final

SMALLEST: Final = 32
"""The smallest side of a square photograph, pixels. The last map of a ResNet, 1/32 of the side, is one cell then."""
LARGEST: Final = 4096
MOST_THREADS: Final = 1024
MOST_EPOCHS: Final = 100_000
MOST_A_BATCH: Final = 1 << 20
