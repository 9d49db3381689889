"""How small and how large, in pixels, the side of a square photograph may be."""

from typing import Final

SMALLEST: Final = 32
"""The last map of a ResNet, a 32nd of the side, has one place of it."""
LARGEST: Final = 4096
