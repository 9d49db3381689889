"""rejects.csv read again: what was found and is not in the cache, counted by kind."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.cache import open_cache
from pipeline.cache.rejects import Rejects, kind_of, read_rejects
from tests.conftest import write_cache

LINES = """source,reason
a.jpg,cut off: its end marker is missing
b.jpg,empty file
c.jpg,cut off: image file is truncated (50 bytes not processed)
d.jpg,not used: labels.csv:7: grade '9' is not in 0..4
e.jpg,ignored: a copy of a/e.jpg
f.jpg,ignored: a copy of a/f.jpg
g.jpg,ignored: no row names it
labels.csv:8,'h' has no photograph
"labels.csv:9, more.csv:9",'i' has no photograph
"""


def test_photographs_are_counted_by_reason_and_rows_of_tables_apart(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", {"1_left": np.zeros((32, 32, 3), np.uint8)})
    cache = open_cache(folder)
    assert read_rejects(cache) == Rejects({}, {}, 0)
    (folder / "rejects.csv").write_text(LINES)
    assert read_rejects(cache) is None  # not the file that cache.json was written with
    cache.index = replace(cache.index, rejects=hashlib.sha256(LINES.encode()).hexdigest())
    assert read_rejects(cache) == Rejects(
        rejected={"cut off": 2, "empty file": 1, "rows that cannot be used": 1},
        ignored={"copies of photographs that are taken": 2, "no row names it": 1},
        rows=2,
    )
    (folder / "rejects.csv").unlink()
    assert read_rejects(cache) is None


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("300 x 10 pixels: a strip, not a photograph", "a strip, not a photograph"),
        ("20000 x 9000 pixels, more than the 120,000,000 allowed", "too many pixels"),
        ("damaged PNG: bad chunk", "damaged PNG"),
        ("labels.csv:3 and labels.csv:9 contradict each other: 0, 2", "rows that contradict each other"),
        ("a link that leads out of src; --follow-links reads what it leads to", "a link"),
        ("HEIC: needs a package that is not here: pip install 'fundus-grading[heic]'",
         "HEIC: needs a package that is not here"),
        ("another file of the name of a.jpg, which is taken", "other files of the names of photographs that are taken"),
        ("a mask, no photograph", "a mask, no photograph"),
    ],
)  # fmt: skip
def test_reasons_of_one_kind_are_one(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
