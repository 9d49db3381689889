"""`tools preprocess --scheduler` with a Dask cluster of two workers on this machine, beside its own two processes: at
least 0.9 times the rate. The workers run already, as a cluster's do; starting its processes is in the pool's time."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from turns import SHARED, in_turn, say_load, say_ratio

from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
ROUNDS = 5


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "scheduler.json"
        processes = [start("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)]
        try:
            while not file.exists() or not file.read_bytes().endswith(b"}"):
                time.sleep(0.1)
            address = json.loads(file.read_text())["address"]
            options = ("--nthreads", 1, "--no-nanny", "--local-directory", folder)
            processes += [start("worker", address, *options) for _ in range(WORKERS)]
            time.sleep(5)  # until both are there

            def rate(**settings: object) -> float:
                began = time.perf_counter()
                out = folder / "cache"
                outcome = preprocess(
                    list_source(SHARED / "data/eyepacs"), out, Recipe(), PreprocessSettings(**settings), lambda *_: None
                )
                seconds = time.perf_counter() - began
                shutil.rmtree(out)
                return outcome.encoded / seconds

            say_load()
            rates = in_turn({"pool": partial(rate, workers=WORKERS), "dask": partial(rate, scheduler=address)}, ROUNDS)
            say_load()
        finally:
            for process in processes:
                process.kill()
                process.wait()
    say_ratio("Dask / own processes, two workers each", rates["dask"], rates["pool"], "wanted >= 0.9")


if __name__ == "__main__":
    main()
