"""Bounds of what can be asked for: sides of photographs, threads, epochs, photographs a batch."""

from typing import Final

SMALLEST: Final = 32
"""Pixels, the least side of a square photograph. The last map of a ResNet, a 32nd of the side, has one place of it."""
LARGEST: Final = 4096
MOST_THREADS: Final = 1024
MOST_EPOCHS: Final = 100_000
MOST_A_BATCH: Final = 1 << 20
