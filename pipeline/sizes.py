"""How small and how large, in pixels, the side of a square photograph may be."""

from typing import Final

SMALLEST: Final = 32
"""A ResNet makes one place of it; below, its last map would have none."""
LARGEST: Final = 4096
