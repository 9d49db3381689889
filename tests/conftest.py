"""Caches to test on: made of given pictures, and of real photographs where they are at hand."""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from pipeline.cache.index import CacheIndex
from pipeline.cache.shards import Entry, shard_name, shard_of, sort_key, write_shard
from pipeline.cache.splits import parse_patient
from pipeline.cache.writing import make_entry, make_record, make_row, make_tables, with_patient_and_split, with_tables
from pipeline.grades import UNKNOWN
from pipeline.photos.discovery import Found
from pipeline.photos.preparation import Prepared, Recipe, encode
from pipeline.photos.retina import Disc, Square
from pipeline.storage.artifacts import SHARDS
from pipeline.storage.url import Url
from tests.loopback import Weather, s3_server

EYEPACS = re.compile(r"^(?P<patient>.+)_(?P<eye>left|right)$")
"""17_left and 17_right are the eyes of patient 17."""
SHARED = Path(__file__).resolve().parents[2] / "shared"


LONGEST = {
    *("test_distributed.py", "test_fault_fit.py", "test_fit.py", "test_resume.py", "test_fault_cluster.py"),
    *("test_fault_kills.py", "test_outputs.py", "test_end_to_end.py", "test_evaluate.py", "test_report.py"),
}
"""Files that take the longest. They come first: pytest-xdist gives a file to one worker, and the last must be short."""


MEMORY = Path("/dev/shm")
ROOM_NEEDED = 8e9
"""Bytes that must be free in memory; the tests hold up to 3 GB at once."""


def pytest_configure(config: pytest.Config) -> None:
    """Puts the tests' folders into memory where it has room: a run writes 20 GB, and a short fit takes a quarter less
    time there (1.8 s instead of 2.4 s). --basetemp chooses another place."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_NEEDED:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


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
    shards: int = 1,
    kept: Mapping[str, Mapping[str, str]] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Path:
    """A complete cache of the pictures, uint8 (size, size, 3) RGB each, as preprocess writes what it has prepared.

    kept: column -> id -> cell of attributes.csv.
    """
    size = len(next(iter(pictures.values())))
    recipe, disc = Recipe(size), Disc(size / 2, size / 2, size / 2)
    grades = dict.fromkeys(pictures, UNKNOWN) | dict(grades or {})
    splits = dict.fromkeys(pictures, "") | dict(splits) if splits else dict.fromkeys(pictures, "train")
    found = {id: Found(f"{id}.png", picture.nbytes, 0, 0) for id, picture in pictures.items()}

    def entry(id: str) -> Entry:
        prepared = Prepared(encode(pictures[id], recipe.quality), size, size, disc, (), Square(0, 0, size))
        made = make_entry(id, grades[id], found[id], sha256(pictures[id].tobytes()).hexdigest(), prepared, recipe)
        return with_patient_and_split(made, parse_patient(id, EYEPACS)[0], splits[id])

    (folder / SHARDS).mkdir(parents=True)
    rows, records = [], []
    for shard in range(shards):
        inside = sorted((id for id in pictures if shard_of(id, shards) == shard), key=sort_key)
        entries, digest, nbytes = write_shard(folder / SHARDS / shard_name(shard), map(entry, inside))
        records.append(make_record(entries, digest, nbytes))
        for written in entries:
            row = make_row(written, shard, grades[written.id], found[written.id])
            flagged = (flags or {}).get(row.id, row.flags)
            rows.append(row._replace(eye=parse_patient(row.id, EYEPACS)[1], flags=flagged))
    cells = [(row.id, *(column[row.id] for column in kept.values())) for row in sorted(rows)] if kept else None
    tables = make_tables(sorted(rows), [], cells, tuple(kept or ()))
    for name, data in tables.items():
        (folder / name).write_bytes(data)
    with_tables(CacheIndex(recipe, "auto", 0, tuple(records), "", "", placed=True), tables).write(folder)
    return folder


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    """make_cache(pictures, grades=None, splits=None, name="cache", shards=1) -> a cache folder; see `write_cache`."""

    def make(
        pictures: Mapping[str, np.ndarray],
        grades: Mapping[str, int] | None = None,
        splits: Mapping[str, str] | None = None,
        name: str = "cache",
        shards: int = 1,
        kept: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Path:
        return write_cache(tmp_path / name, pictures, grades, splits, shards, kept)

    return make


def write_tiny_eyes(folder: Path, patients: range) -> Path:
    """Photographs of both eyes of these patients, 48 px; no table."""
    folder.mkdir(exist_ok=True)
    for patient in patients:
        rng = np.random.default_rng(patient)
        for eye in ("left", "right"):
            picture = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((48, 48))
            picture.save(folder / f"{patient}_{eye}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 photographs, as many as make two shards."""
    return write_tiny_eyes(tmp_path_factory.mktemp("eyes") / "src", range(200))


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


@pytest.fixture(scope="session")
def s3_of_session() -> Iterator[Weather]:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    pytest.importorskip("moto", reason="needs the extra dev: moto's S3 server")
    with s3_server("eyes") as weather:
        yield weather


@pytest.fixture
def s3(s3_of_session: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    """The way to an S3 server with a bucket `eyes`, in fine weather; --local-cache is tmp_path / "local"."""
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path / "local"))
    s3_of_session.clear()
    yield s3_of_session
    s3_of_session.clear()


@pytest.fixture
def there(s3: Weather) -> Url:
    """A place in the bucket that no other test has; the name of tmp_path comes again once it has gone."""
    return Url(f"s3://eyes/{uuid4().hex}")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Url]:
    """tmp_path on the web, as `python -m http.server` has it: pages of links, and HEAD tells size and time."""
    pytest.importorskip("aiohttp", reason="needs the extra http")
    monkeypatch.setenv("FUNDUS_LOCAL_CACHE", str(tmp_path / "local"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Url(f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()
