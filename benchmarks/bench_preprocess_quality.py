"""What the scaled decoding and the JPEG of the cache cost: PSNR within the retina's disc against full decoding, Lanczos
and no JPEG, at least 45 dB at 512 px."""

from io import BytesIO

import numpy as np
from PIL import Image
from turns import SHARED

from pipeline.photos.preparation import Recipe, prepare

SIZE = 512


def main() -> None:
    for path in sorted((SHARED / "data/fullres").rglob("*.jpeg")):
        data = path.read_bytes()
        prepared = prepare(data, Recipe(SIZE))
        assert prepared.disc is not None
        cx, cy, radius = prepared.disc
        full = Image.open(BytesIO(data)).convert("RGB")
        margin = full.width // 2  # black around the frame, for the part of the square that lies outside
        padded = Image.new("RGB", (full.width + 2 * margin, full.height + 2 * margin))
        padded.paste(full, (margin, margin))
        box = (cx - radius + margin, cy - radius + margin, cx + radius + margin, cy + radius + margin)
        ideal = np.asarray(padded.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box), np.float64)

        x = np.arange(SIZE) + 0.5
        disc = np.hypot(x - SIZE / 2, x[:, None] - SIZE / 2) < SIZE / 2 - 2
        y = cy - radius + x * 2 * radius / SIZE
        disc &= ((y > 20) & (y < full.height - 20))[:, None]  # the filter sees black beyond the frame, or repeats it

        def psnr(pixels: np.ndarray, ideal: np.ndarray = ideal, disc: np.ndarray = disc) -> float:
            return 10 * np.log10(255**2 / np.mean((pixels[disc] - ideal[disc]) ** 2))

        cached = np.asarray(Image.open(BytesIO(prepared.jpeg)), np.float64)
        jpeg = BytesIO()
        Image.fromarray(ideal.astype(np.uint8)).save(jpeg, "JPEG", quality=95, subsampling=0)
        only_jpeg = np.asarray(Image.open(jpeg), np.float64)
        print(f"{path.name}: {psnr(cached):.1f} dB, wanted >= 45; by JPEG alone {psnr(only_jpeg):.1f} dB")


if __name__ == "__main__":
    main()
