from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.attributes import read_attributes
from pipeline.cache.cache import open_cache
from pipeline.errors import CacheError
from pipeline.storage.url import Url

PICTURES = {id: np.zeros((32, 32, 3), np.uint8) for id in ("007", "1e5", "NA")}
CELLS = {"site": {"007": "NA", "1e5": "", "NA": 'a "b",\nc'}, "id": {"007": "01", "1e5": "x", "NA": "y"}}


def test_cells_are_the_texts_that_were_kept_in_the_order_of_the_manifest(make_cache: Callable[..., Path]) -> None:
    cache = open_cache(make_cache(PICTURES, kept=CELLS))
    table = read_attributes(cache)
    assert list(table.columns) == ["site", "id"]
    for name, cells in CELLS.items():
        assert dict(zip(cache.manifest["id"], table[name], strict=True)) == cells


def test_a_cache_that_kept_nothing_has_no_columns(make_cache: Callable[..., Path]) -> None:
    assert read_attributes(open_cache(make_cache(PICTURES))).shape == (3, 0)


def test_a_missing_or_edited_file_is_told(make_cache: Callable[..., Path]) -> None:
    path = make_cache(PICTURES, kept=CELLS)
    cache = open_cache(path)
    (path / "attributes.csv").write_text("id,site,id\n")
    with pytest.raises(CacheError, match=r"attributes\.csv: damaged or edited; `tools preprocess` repairs it"):
        read_attributes(cache)
    (path / "attributes.csv").unlink()
    with pytest.raises(CacheError, match=r"attributes\.csv: cannot be read"):
        read_attributes(cache)


def test_rows_of_other_photographs_are_told(make_cache: Callable[..., Path]) -> None:
    cache = open_cache(make_cache(PICTURES, kept=CELLS))
    fewer = replace(cache, manifest=cache.manifest.iloc[:2])
    with pytest.raises(CacheError, match="its rows do not match the manifest"):
        read_attributes(fewer)


def test_it_is_read_from_behind_a_url(make_cache: Callable[..., Path], web: Url) -> None:
    here = read_attributes(open_cache(make_cache(PICTURES, kept=CELLS)))
    assert read_attributes(open_cache(web / "cache")).equals(here)
