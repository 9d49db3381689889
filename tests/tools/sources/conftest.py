"""Small pictures of eyes, each another one."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter


def drawn_eye(number: int, size: tuple[int, int] = (128, 96), brighter: float = 1.0) -> Image.Image:
    """An eye with a pattern of its own on black; the same number gives the same eye."""
    rng = np.random.default_rng(number)
    width, height = size
    pattern = Image.fromarray(rng.integers(0, 255, (24, 32), np.uint8)).resize((512, 384), Image.Resampling.BICUBIC)
    texture = np.asarray(pattern.filter(ImageFilter.GaussianBlur(2)).resize(size), np.float32)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(x - width / 2 + 0.5, y - height / 2 + 0.5) < 0.46 * min(width, height)
    colour = np.array([170, 80, 40], np.float32) * (0.6 + texture[..., None] / 320) * brighter
    return Image.fromarray(np.where(inside[..., None], np.clip(colour, 0, 255), 0).astype(np.uint8))


def encoded(picture: Image.Image, format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    picture.save(out, format, quality=92)
    return out.getvalue()


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., None]:
    """draw(source, number=None, **how): an eye below tmp_path; without a number, one that depends on the source."""

    def draw(source: str, number: int | None = None, picture: Image.Image | None = None, **how: object) -> None:
        path = tmp_path / source
        path.parent.mkdir(parents=True, exist_ok=True)
        if picture is None:
            seed = sum(map(ord, source)) * 31 + len(source) if number is None else number
            picture = drawn_eye(seed, **how)  # type: ignore[arg-type]
        picture.save(path)

    return draw
