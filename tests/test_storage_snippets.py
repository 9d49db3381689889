"""The snippets of docs/storage.md, word for word, read the photographs of a cache that lies in a bucket."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import Weather

PAGE = (Path(__file__).resolve().parents[1] / "docs/storage.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PICTURES = {f"{n}_left": np.full((32, 32, 3), 12 * n, np.uint8) for n in range(20)}


@pytest.fixture
def cache(make_cache: Callable[..., Path], s3: Weather) -> Cache:
    """In the page's own place."""
    folder = make_cache(PICTURES, {id: n % 5 for n, id in enumerate(PICTURES)}, shards=2)
    for path in folder.rglob("*.*"):
        object_store.send(path, Url("s3://eyes/cache") / str(path.relative_to(folder)))
    return open_cache(folder)


def run(snippet: str, **names: Any) -> dict[str, Any]:
    exec(snippet, names)
    return names


def level(picture: np.ndarray) -> int:
    return int(np.median(picture))


@pytest.mark.filterwarnings("ignore")  # what webdataset itself warns of is not ours
def test_webdataset_streams_the_shards(cache: Cache) -> None:
    wds = pytest.importorskip("webdataset")
    import fsspec

    before = dict(wds.gopen_schemes)
    try:
        samples = list(run(SNIPPETS[0], wds=wds, fsspec=fsspec)["samples"])
    finally:
        wds.gopen_schemes.clear()
        wds.gopen_schemes.update(before)
    assert len(samples) == len(PICTURES)
    for picture, grade in samples:
        assert isinstance(picture, Image.Image)
        assert grade == round(level(np.asarray(picture)) / 12) % 5


def test_dalis_own_reader_streams_them(cache: Cache, s3: Weather, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali")
    # DALI asks without letting go of Python, where the weather is made.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.upstream}")
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=4, num_threads=1, device_id=None)
    with pipe:
        names = run(SNIPPETS[1], fn=fn)
        pipe.set_outputs(fn.decoders.image(names["jpegs"], output_type=types.RGB), names["grades"])
    pipe.build()
    inside = np.flatnonzero(cache.manifest["shard"] == 0)
    pictures, grades = pipe.run()
    seen = [level(np.asarray(pictures[n])) for n in range(4)]
    assert [int(bytes(np.asarray(grades[n]))) for n in range(4)] == [round(each / 12) % 5 for each in seen]
    assert {round(each / 12) for each in seen} <= {int(cache.manifest["id"][row].split("_")[0]) for row in inside}
