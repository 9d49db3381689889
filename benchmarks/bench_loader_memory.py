"""Memory of a loader over 20 epochs, of photographs whose files differ in size by a factor of ten: at most 5 % + 30 MB
more than after the second epoch."""

import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from pipeline.cache.cache import open_cache
from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

PHOTOGRAPHS = 300
EPOCHS = 20


def memory() -> float:
    """MB resident in this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def write(folder: Path) -> None:
    """Discs from smooth to noisy."""
    x, y = np.meshgrid(*2 * [np.linspace(-1.05, 1.05, 512)])
    random = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        noise = Image.fromarray(random.integers(60, 255, (512, 512, 3), np.uint8))
        blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(number % 10)))
        data = BytesIO()
        Image.fromarray(blurred * (np.hypot(x, y) < 1)[..., None]).save(data, "JPEG", quality=95)
        (folder / f"{number}_left.jpeg").write_bytes(data.getvalue())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "src", Path(name) / "cache"
        source.mkdir()
        write(source)
        preprocess(list_source(source), out, Recipe(), PreprocessSettings(workers=2), lambda *_: None)
        for loader_name in ("torchvision", "dali"):
            with (
                open_cache(out) as cache,
                open_loader(
                    loader_name, cache, split="all", batch_size=32, augment=Augment(), shuffle=True, workers=2
                ) as loader,
            ):
                nbytes = cache.manifest["nbytes"]
                print(f"{loader_name}: files of {nbytes.min() / 1e3:.0f} to {nbytes.max() / 1e3:.0f} kB")
                sizes = []
                for epoch in range(EPOCHS):
                    for _ in loader.epoch(epoch):
                        pass
                    sizes.append(memory())
            print(f"{loader_name}: {sizes[1]:.0f} MB after 2 epochs, {sizes[-1]:.0f} MB after {EPOCHS}, "
                  f"wanted <= {1.05 * sizes[1] + 30:.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
