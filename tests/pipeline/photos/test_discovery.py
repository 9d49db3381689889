"""Names are taken apart as pathlib takes them apart."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.photos.discovery import plain_id, split_suffix

NAMES = st.text(alphabet="ab. ", min_size=1).filter(lambda name: name not in (".", ".."))


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_suffixes_are_pathlibs(parts: list[str]) -> None:
    path = PurePosixPath(*parts)
    without, suffix = split_suffix("/".join(parts))
    if parts[-1].startswith(".") or parts[-1].endswith("."):
        return  # pathlib's own answer to these changed between versions of Python
    assert (without, suffix) == (str(path.with_suffix("")), path.suffix)


@pytest.mark.parametrize(
    ("source", "id"),
    [("1.JPG", "1"), ("a/1_left.x.png", "a/1_left.x"), ("a.b/1", "a.b/1"), (".b/.1", ".b/.1"), ("1.", "1.")],
)
def test_an_id_is_the_path_without_its_suffix(source: str, id: str) -> None:
    assert plain_id(source) == id
