"""Both loaders on the CPU at 512 px with flips and free rotation, two threads, batches of 64, beside what a user would
write otherwise with as many workers, and beside decoding alone (Pillow's limit and OpenCV's: the same
libjpeg-turbo)."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from caches import eyepacs, write_jpegs
from turns import in_turn, peer, say_load, say_ratio

from pipeline.loading.loaders import open_loader
from pipeline.loading.plan import Augment
from trainer.network.model import Normalise

ROUNDS = 5
WORKERS = 2
BATCH = 64


def main() -> None:
    torch.set_num_threads(1)  # as plain_loader.py has it
    normalise = Normalise()
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        cache = eyepacs(folder)
        jpegs = write_jpegs(cache, folder / "jpegs")
        cv2.setNumThreads(1)
        loaders = {
            name: open_loader(
                name, cache, split="all", batch_size=BATCH, augment=Augment(), shuffle=True, workers=WORKERS
            )
            for name in ("torchvision", "dali")
        }

        def rate(epoch: Callable[[], int]) -> float:
            epoch()
            began = time.perf_counter()
            photographs = epoch() + epoch()
            return photographs / (time.perf_counter() - began)

        def render(name: str, use: Callable[[torch.Tensor], object]) -> float:
            def epoch() -> int:
                seen = 0
                for images, _, _ in loaders[name].epoch(0):
                    use(images)
                    seen += len(images)
                return seen

            return rate(epoch)

        def decode() -> float:
            def one(row: int) -> None:
                cv2.imdecode(np.frombuffer(cache.read(row), np.uint8), cv2.IMREAD_COLOR_RGB)

            with ThreadPoolExecutor(WORKERS) as pool:
                return rate(lambda: len(list(pool.map(one, range(len(cache.manifest))))))

        say_load()
        rates = in_turn(
            {
                "plain": partial(peer, "plain_loader.py", jpegs, "--rotate", "--workers", WORKERS),
                "uint8": partial(render, "torchvision", lambda images: images),
                "float32": partial(render, "torchvision", normalise),
                "decode": decode,
                "dali_rotate": partial(peer, "dali_rotate.py", jpegs),
                "dali_float32": partial(render, "dali", normalise),
                "dali_uint8": partial(render, "dali", lambda images: images),
            },
            ROUNDS,
        )
        say_load()
        for loader in loaders.values():
            loader.close()
    say_ratio("torchvision uint8 / plain_loader.py --rotate", rates["uint8"], rates["plain"], "wanted >= 2.8")
    say_ratio("torchvision float32 / plain_loader.py --rotate", rates["float32"], rates["plain"], "wanted >= 2.0")
    say_ratio("torchvision uint8 / decoding alone", rates["uint8"], rates["decode"], "wanted >= 0.45")
    say_ratio("dali float32 / dali_rotate.py", rates["dali_float32"], rates["dali_rotate"], "wanted >= 1.0")
    say_ratio(
        "dali uint8 / dali_rotate.py, which normalises", rates["dali_uint8"], rates["dali_rotate"], "for comparison"
    )


if __name__ == "__main__":
    main()
