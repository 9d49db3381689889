"""Caches to test on: made of given pictures, and of real photographs where they are at hand."""

import io
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cache import MANIFEST, REJECTS, SHARDS, CacheIndex, ShardRecord
from pipeline.grades import UNKNOWN
from pipeline.manifest import PATIENT_PATTERN, Row, manifest_csv, parse_patient, to_csv
from pipeline.recipe import Recipe
from pipeline.shards import Entry, sort_key, write_shard

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs and cases that are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real photographs and cases), which is not here")
    return SHARED


def write_cache(
    folder: Path,
    pictures: Mapping[str, np.ndarray],
    grades: Mapping[str, int] | None = None,
    splits: Mapping[str, str] | None = None,
) -> Path:
    """A complete cache of the pictures, uint8 (size, size, 3) RGB each, encoded as preprocess encodes them."""
    size = len(next(iter(pictures.values())))
    grades = grades or {}
    ids = sorted(pictures, key=sort_key)
    (folder / SHARDS).mkdir(parents=True)

    def jpeg(picture: np.ndarray) -> bytes:
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=95, subsampling=0)
        return data.getvalue()

    entries = [Entry(id, jpeg(pictures[id]), {}, grades.get(id, UNKNOWN)) for id in ids]
    index, digest, nbytes = write_shard(folder / SHARDS / "0000.tar", entries)
    places = {entry.id: (0, entry.offset, entry.nbytes, entry.crc32) for entry in index}
    rows = [
        Row(
            id,
            *parse_patient(id, re.compile(PATIENT_PATTERN)),
            grades.get(id, UNKNOWN),
            (splits or {}).get(id, "" if splits else "train"),
            f"{id}.png",
            *(0, 0, size, size, size / 2, size / 2, size / 2, ""),
            *places[id],
        )
        for id in sorted(pictures)
    ]
    manifest, rejects = manifest_csv(rows), to_csv([], ["source", "reason"])
    (folder / MANIFEST).write_bytes(manifest)
    (folder / REJECTS).write_bytes(rejects)
    digests = [sha256(data).hexdigest() for data in (manifest, rejects)]
    CacheIndex(Recipe(size), "auto", 0, (ShardRecord(nbytes, digest, ""),), *digests).write(folder)
    return folder


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    """make_cache(pictures, grades=None, splits=None) -> a cache folder; see `write_cache`."""

    def make(
        pictures: Mapping[str, np.ndarray],
        grades: Mapping[str, int] | None = None,
        splits: Mapping[str, str] | None = None,
        name: str = "cache",
    ) -> Path:
        return write_cache(tmp_path / name, pictures, grades, splits)

    return make


@pytest.fixture(scope="session")
def eyepacs_cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs at 512 px: 64 of them, both eyes of 32 patients."""
    from click.testing import CliRunner

    from tools.cli import main

    source = tmp_path_factory.mktemp("eyepacs")
    (source / "train").mkdir()
    lines = (shared / "data/eyepacs/trainLabels.csv").read_text().splitlines()
    (source / "trainLabels.csv").write_text("\n".join(lines[:65]) + "\n")
    for line in lines[1:65]:
        name = f"{line.partition(',')[0]}.jpeg"
        (source / "train" / name).write_bytes((shared / "data/eyepacs/train" / name).read_bytes())
    cache = tmp_path_factory.mktemp("eyepacs-cache")
    result = CliRunner().invoke(main, ["preprocess", str(source), "--out", str(cache)])
    assert result.exit_code == 0, result.output
    return cache
