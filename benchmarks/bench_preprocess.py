"""Preprocessing of full-size photographs: at least 8 times the plain way's rate, at most twice the time of Pillow's
scaled decode alone, and two workers at least 1.6 times as fast as one."""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from turns import full_size, in_turn, peer, say_load, say_ratio

from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

COPIES = 10  # of each of the 4 photographs
ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = full_size(folder / "src", COPIES)

        def ours(workers: int) -> float:
            began = time.perf_counter()
            preprocess(
                list_source(folder / "src"),
                folder / "cache",
                Recipe(),
                PreprocessSettings(workers=workers),
                lambda *_: None,
            )
            seconds = time.perf_counter() - began
            shutil.rmtree(folder / "cache")
            return len(photographs) / seconds

        def decode(path: Path) -> None:
            picture = Image.open(path)
            short = min(picture.size)
            scale = next(scale for scale in (8, 4, 2, 1) if short >= scale * 512)
            picture.draft("RGB", (picture.width // scale, picture.height // scale))
            picture.load()

        def limit() -> float:
            began = time.perf_counter()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(decode, photographs))
            return len(photographs) / (time.perf_counter() - began)

        say_load()
        rates = in_turn(
            {
                "plain": partial(peer, "plain_preprocess.py", folder / "src", folder / "plain"),
                "ours": partial(ours, 2),
                "decode": limit,
                "one": partial(ours, 1),
            },
            ROUNDS,
        )
        say_load()
    say_ratio("rate / plain_preprocess.py, two workers each", rates["ours"], rates["plain"], "wanted >= 8")
    say_ratio("time / scaled decode alone, two threads", rates["decode"], rates["ours"], "wanted <= 2.0")
    say_ratio("two workers / one", rates["ours"], rates["one"], "wanted >= 1.6")


if __name__ == "__main__":
    main()
