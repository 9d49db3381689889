"""What is put behind a URL is there when its last byte has come, whatever happens on the way."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.storage import object_store
from pipeline.storage.url import Url
from tests.loopback import Trouble, Weather

NBYTES = 130_000_000
"""Over the 100 MB from which s3fs sends a file in parts."""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "0000.tar"
    path.write_bytes(np.random.default_rng(0).bytes(NBYTES))
    return path


def parts_sent(s3: Weather) -> int:
    return sum("partNumber=" in path for _, path in s3.requests)


def unfinished(there: Url) -> list[str]:
    """Keys of uploads whose parts the server still holds (and a real one charges for)."""
    client = object_store._client("s3")
    found = client.call_s3("list_multipart_uploads", Bucket="eyes", Prefix=there.name)
    return [upload["Key"] for upload in found.get("Uploads", [])]


def test_a_large_file_goes_in_parts_and_is_seen_when_the_last_has_come(
    large: Path, there: Url, s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01,) * 3)
    seen: list[list[object_store.Stored]] = []
    under_way: list[list[str]] = []
    dropped: list[str] = []

    def drops_one(method: str, path: str) -> Trouble | None:
        if "partNumber=" not in path:
            return None
        seen.append(object_store.files_below(there))
        under_way.append(unfinished(there))
        if dropped or "partNumber=2" not in path:
            return None
        dropped.append(path)
        return "drop"

    s3.trouble = drops_one
    object_store.send(large, there / large.name)
    assert len(seen) > 3  # of which the first few were in vain
    assert not any(seen)
    assert any(under_way)
    assert dropped
    s3.clear()
    assert object_store.read(there / large.name) == large.read_bytes()
    assert unfinished(there) == []


def test_when_it_gives_up_no_part_stays_though_what_asks_for_that_is_lost(
    large: Path, there: Url, s3: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAITS", (0.01,))
    aborts: list[str] = []

    def loses_the_first_aborts(method: str, path: str) -> Trouble | None:
        if method == "DELETE":
            aborts.append(path)
            return "drop" if len(aborts) <= 2 else None
        return "503" if "partNumber=2" in path else None

    s3.trouble = loses_the_first_aborts
    with pytest.raises(StoreError, match=r"0000\.tar: cannot be written \(.*tried 2 times in"):
        object_store.send(large, there / large.name)
    assert parts_sent(s3) >= 2
    s3.clear()
    assert object_store.files_below(there) == []
    assert unfinished(there) == []
