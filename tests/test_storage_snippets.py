"""The snippets of docs/storage.md, word for word, read the photographs of a cache that lies in a bucket."""

import json
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
TRAIN = [n for n in range(20) if n % 4 < 2]


@pytest.fixture
def cache(make_cache: Callable[..., Path], s3: Weather) -> Cache:
    """In the page's own place."""
    splits = {id: ("train", "train", "val", "test")[n % 4] for n, id in enumerate(PICTURES)}
    folder = make_cache(PICTURES, {id: n % 5 for n, id in enumerate(PICTURES)}, splits, shards=2)
    for path in folder.rglob("*.*"):
        object_store.send(path, Url("s3://eyes/cache") / str(path.relative_to(folder)))
    return open_cache("s3://eyes/cache")


def run(snippet: str, **names: Any) -> dict[str, Any]:
    exec(snippet, names)
    return names


def number(picture: np.ndarray) -> int:
    return round(float(np.median(picture)) / 12)


@pytest.mark.filterwarnings("ignore")  # what webdataset itself warns of is not ours
def test_webdataset_streams_the_shards(cache: Cache) -> None:
    wds = pytest.importorskip("webdataset")
    import fsspec

    before = dict(wds.gopen_schemes)
    try:
        samples = list(run(SNIPPETS[0], wds=wds, fsspec=fsspec, json=json)["samples"])
    finally:
        wds.gopen_schemes.clear()
        wds.gopen_schemes.update(before)
    assert sorted(number(np.asarray(picture)) for picture, _ in samples) == TRAIN
    for picture, grade in samples:
        assert isinstance(picture, Image.Image)
        assert grade == number(np.asarray(picture)) % 5


def test_a_dali_pipeline_streams_them(cache: Cache) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=64, num_threads=1, device_id=None)
    with pipe:
        names = run(SNIPPETS[1], fn=fn, np=np, open_cache=open_cache)
        pipe.set_outputs(fn.decoders.image(names["jpegs"], output_type=types.RGB), names["grades"])
    pipe.build()
    for _ in range(2):
        pictures, grades = pipe.run()
        seen = [number(np.asarray(picture)) for picture in pictures]
        assert sorted(seen) == TRAIN
        assert [int(np.asarray(grade)[0]) for grade in grades] == [each % 5 for each in seen]
        with pytest.raises(StopIteration):
            pipe.run()
        pipe.reset()
    names["cache"].close()
