"""The photographs that everything is measured on: phantoms, drawn and cached on the machine itself."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Final

import numpy as np
from measuring import Scale, Stage, command
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from tools.phantoms import dataset as phantom
from tools.phantoms.eye import Camera

EYES: Final = "eyes"


def cache_path(work: Path, size: int) -> Path:
    return work / f"cache{size}"


def draw(stage: Stage) -> None:
    """Draws the phantoms and caches them at both sizes; what is there already stays."""
    scale, work = stage.scale, stage.work
    eyes = work / EYES
    if not (eyes / "trainLabels.csv").exists():
        shutil.rmtree(eyes, ignore_errors=True)  # what a killed run left
        with stage.attempt("drawing phantoms"):
            began = stage.left()
            draw_at_once(eyes, scale, processes=min(stage.workers, scale.eyes // 24))
            stage.facts["drawing, seconds"] = round(began - stage.left(), 1)
            stage.say(f"drew {scale.eyes} phantoms")
    for size in (scale.large, scale.small):
        name = f"preprocess at {size} px, seconds"
        arguments = ["-m", "tools", "preprocess", eyes, "--out", cache_path(work, size), "--size", size]
        with stage.attempt(name):
            code, output, seconds = command(work, *arguments, "--workers", stage.workers, timeout=stage.left())
            if code:
                raise RuntimeError(f"exit code {code}: {output.strip().splitlines()[-1:]}")
            stage.facts[name] = seconds
            stage.say(f"cached at {size} px")
    stage.facts["photographs"] = scale.eyes


def draw_at_once(eyes: Path, scale: Scale, processes: int) -> None:
    """As `tools phantom` draws, but by so many processes: threads alone wait for one another's Python.

    Each draws patients of a seed of its own, who are numbered on where the last one's end.
    """
    shares = [scale.eyes // processes // 2 * 2] * (processes - 1)
    shares.append(scale.eyes - sum(shares))
    parts = [eyes.with_name(f"{eyes.name}.{number}") for number in range(processes)]
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(draw_part, parts, shares, range(processes), repeat(scale)))
    lines, patients = ["image,level"], 0
    (eyes / "train").mkdir(parents=True)
    for part, share in zip(parts, shares, strict=True):
        for line in (part / "trainLabels.csv").read_text().split()[1:]:
            old, _, grade = line.partition(",")
            patient, _, eye = old.partition("_")
            new = f"{patients + int(patient)}_{eye}"
            (part / "train" / f"{old}.jpeg").rename(eyes / "train" / f"{new}.jpeg")
            lines.append(f"{new},{grade}")
        patients += -(-share // 2)
        shutil.rmtree(part)
    (eyes / "trainLabels.csv").write_text("\n".join(lines) + "\n")


def draw_part(part: Path, eyes: int, seed: int, scale: Scale) -> None:
    """In a process of its own."""
    phantom.CAMERAS = enlarged(scale)
    phantom.write_phantoms(part, eyes, seed)


def enlarged(scale: Scale) -> tuple[Camera, ...]:
    """The phantoms' cameras with larger pictures, so that 512 px of a cache are filled as photographs fill them."""
    return tuple(
        camera._replace(
            **{length: round(scale.enlarge * getattr(camera, length)) for length in ("width", "height", "radius")}
        )
        for camera in phantom.CAMERAS
    )


def open_drawn(stage: Stage, size: int) -> Cache:
    """Some of the cached phantoms, over and over: as many as the longest turn takes."""
    path = cache_path(stage.work, size)
    if not (path / "cache.json").exists():
        raise FileNotFoundError(f"no phantoms are cached at {size} px; run `python benchmarks/gpu.py draw`")
    cache = open_cache(path)
    distinct = np.linspace(0, len(cache.manifest) - 1, min(stage.scale.distinct, len(cache.manifest))).astype(int)
    length = stage.scale.longest // stage.scale.batch * stage.scale.batch
    return cache.take(np.resize(distinct, length))


def jpegs_of(stage: Stage, cache: Cache) -> list[bytes]:
    """The distinct photographs of `open_drawn`, as the cache holds them: 4:4:4, quality 95."""
    return [bytes(cache.read(row)) for row in range(min(stage.scale.distinct, len(cache.manifest)))]


def halved_colour(jpegs: list[bytes]) -> list[bytes]:
    """The same with colours at half the resolution (4:2:0), quality 95."""
    jpegs = []
    for jpeg in jpegs:
        with Image.open(BytesIO(jpeg)) as picture:
            data = BytesIO()
            picture.save(data, "JPEG", quality=95, subsampling=2)
        jpegs.append(data.getvalue())
    return jpegs
