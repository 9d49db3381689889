"""Patients who share a photograph are found by its looks, and joined."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.cache import copies
from pipeline.cache.cache import open_cache
from pipeline.cache.copies import SharedPhoto, joined_patients, shared_photos
from pipeline.cache.folds import fold_splits, folded_rows


def eye(seed: int) -> np.ndarray:
    """A picture with a structure of its own, uint8 (128, 128, 3)."""
    random = np.random.default_rng(seed)
    return cv2.resize(random.integers(60, 200, (24, 24, 3), np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    """Twelve patients. 1 and 2 share a photograph, mirrored and darker; 2 and 3 another, byte for byte."""
    found = {
        f"{patient}_{side}": eye(2 * patient + (side == "right")) for patient in range(12) for side in ("left", "right")
    }
    found["2_left"] = np.ascontiguousarray((found["1_left"] * 0.8).astype(np.uint8)[:, ::-1])
    found["3_right"] = found["2_right"]
    found["5_right"] = found["5_left"]  # of one patient
    return found


def test_copies_of_other_patients_are_found_mirrored_and_darker_too(
    pictures: dict[str, np.ndarray], make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(make_cache(pictures, dict.fromkeys(pictures, 0))) as cache:
        rows = folded_rows(cache.manifest, with_test=False)
        mirrored, same = shared_photos(cache, rows)
        assert mirrored[:4] == ("1_left", "2_left", "1", "2")
        assert 0.7 < mirrored.correlation < 1
        assert same == ("2_right", "3_right", "2", "3", 1.0)
        assert shared_photos(cache, rows[[0, 1, 2]]) == []
        monkeypatch.setattr(copies, "MAX_COMPARED", 10)
        assert shared_photos(cache, rows) == [same]  # the same bytes are found among any number


def test_who_shares_photographs_is_joined_whatever_their_order() -> None:
    def pairs(*names: str) -> list[SharedPhoto]:
        return [SharedPhoto("", "", *name, 1.0) for name in names]

    assert joined_patients([]) == {}
    assert joined_patients(pairs("ab", "cd", "bd")) == dict.fromkeys("abcd", "a")
    assert joined_patients(pairs("dc", "ca", "zy", "ad")) == {"a": "a", "c": "a", "d": "a", "y": "y", "z": "y"}


def test_joined_patients_are_in_one_fold_and_on_one_side() -> None:
    table = pd.DataFrame({"id": [f"{n}" for n in range(60)], "patient": [f"{n}" for n in range(60)]})
    table = table.assign(grade=[n % 5 for n in range(60)], split="train")
    joined = {f"{n}": f"{n % 10}" for n in range(20)}  # 0 and 10, 1 and 11, ...
    for splits in fold_splits(table, 3, 0, joined=joined):
        assert list(splits[:10]) == list(splits[10:20])
    apart = [list(splits[:10]) == list(splits[10:20]) for splits in fold_splits(table, 3, 0)]
    assert not any(apart)
