"""The photographs that everything is measured on: phantoms, drawn and cached on the machine itself."""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from measuring import ROOT, Scale, Stage, command
from PIL import Image

from pipeline.cache import Cache, open_cache
from tools import phantom

EYES: Final = "eyes"


def cache_path(work: Path, size: int) -> Path:
    return work / f"cache{size}"


def draw(stage: Stage) -> None:
    """Draws the phantoms and caches them at both sizes; what is there already stays."""
    scale, work = stage.scale, stage.work
    eyes = work / EYES
    if not (eyes / "trainLabels.csv").exists():
        shutil.rmtree(eyes, ignore_errors=True)  # what a killed run left
        phantom.CAMERAS = enlarged(scale)
        with stage.attempt("drawing phantoms"):
            began = stage.left()
            phantom.write_phantoms(eyes, scale.eyes)
            stage.found["drawing, seconds"] = round(began - stage.left(), 1)
            stage.say(f"drew {scale.eyes} phantoms")
    for size in (scale.large, scale.small):
        name = f"preprocess at {size} px, seconds"
        arguments = ["-m", "tools", "preprocess", eyes, "--out", cache_path(work, size), "--size", size]
        with stage.attempt(name):
            code, output, seconds = command(work, *arguments, "--workers", stage.workers, timeout=stage.left())
            if code:
                raise RuntimeError(f"exit code {code}: {output.strip().splitlines()[-1:]}")
            stage.found[name] = seconds
            stage.say(f"cached at {size} px")
    stage.found["photographs"] = scale.eyes


def enlarged(scale: Scale) -> tuple[phantom.Camera, ...]:
    """The phantoms' cameras with larger pictures, so that 512 px of a cache are filled as photographs fill them."""
    return tuple(
        camera._replace(**{side: round(scale.enlarge * getattr(camera, side)) for side in ("width", "height", "radius")})
        for camera in phantom.CAMERAS
    )


def open_drawn(stage: Stage, size: int) -> Cache:
    """Some of the cached phantoms, over and over: as many as the longest turn takes."""
    path = cache_path(stage.work, size)
    if not (path / "cache.json").exists():
        raise FileNotFoundError(f"no phantoms are cached at {size} px; run `python {ROOT.name}/benchmarks/gpu.py draw`")
    cache = open_cache(path)
    distinct = np.linspace(0, len(cache.manifest) - 1, min(stage.scale.distinct, len(cache.manifest))).astype(int)
    length = stage.scale.longest // stage.scale.batch * stage.scale.batch
    return Cache(cache.path, cache.index, cache.manifest.iloc[np.resize(distinct, length)].reset_index(drop=True))


def jpegs_of(stage: Stage, cache: Cache) -> list[bytes]:
    """The distinct photographs of `open_drawn`, as the cache holds them: 4:4:4, quality 95."""
    return [bytes(cache.read(row)) for row in range(min(stage.scale.distinct, len(cache.manifest)))]


def halved_colour(jpegs: list[bytes]) -> list[bytes]:
    """The same with colours at half the resolution (4:2:0), quality 95."""
    found = []
    for jpeg in jpegs:
        with Image.open(BytesIO(jpeg)) as picture:
            data = BytesIO()
            picture.save(data, "JPEG", quality=95, subsampling=2)
        found.append(data.getvalue())
    return found
