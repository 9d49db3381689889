"""What is read back from JSON is what was written, and nothing else passes for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.records import optional, read

Limits = tuple[float, float] | list[tuple[float, float] | None] | None


class Bin(NamedTuple):
    photographs: int
    mean: float | None = None


@dataclass(frozen=True)
class Part:
    wanted: Literal["sensitivity", "specificity"]
    level: float
    limits: Limits = None


@dataclass(frozen=True)
class Whole:
    name: str
    alarm: bool
    counts: tuple[int, ...]
    scale: tuple[str, bool]
    parts: Sequence[Part]
    by_name: Mapping[str, Part | None]
    bins: list[Bin]
    part: Part | None = None


PART = Part("sensitivity", 0.9, (0.1, 0.2))
WHOLE = Whole("a", True, (1, 2), ("icdr", True), [PART], {"x": PART, "y": None}, [Bin(3), Bin(4, 0.5)], PART)


def written(record: Any) -> Any:
    """NamedTuples are objects in our files."""
    fields = asdict(record) | {"bins": [each._asdict() for each in record.bins]}
    return json.loads(json.dumps(fields))


def test_a_record_comes_back_as_it_was_written() -> None:
    assert read(Whole, written(WHOLE)) == WHOLE


numbers = st.floats(allow_nan=False, allow_infinity=False)
intervals = st.none() | st.tuples(numbers, numbers)


@given(limits=intervals | st.lists(intervals, min_size=5, max_size=5), level=numbers | st.integers())
def test_an_interval_and_five_of_them_are_told_apart_and_no_digit_is_lost(limits: Any, level: float) -> None:
    part = Part("specificity", level, limits)
    found = read(Part, json.loads(json.dumps(asdict(part))))
    assert found == part
    assert json.dumps(asdict(found)) == json.dumps(asdict(part))


def test_keys_that_are_no_fields_do_not_matter_and_a_missing_one_is_the_default() -> None:
    assert read(Part, {"wanted": "sensitivity", "level": 1, "newer": []}) == Part("sensitivity", 1)
    assert read(Bin, {"photographs": 1}) == Bin(1)
    assert optional(Bin, None) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": None}, "record.name"),
        ({"name": 1}, "record.name"),
        ({"alarm": 1}, "record.alarm"),
        ({"counts": [1, 2.5]}, "record.counts"),
        ({"counts": [True]}, "record.counts"),
        ({"scale": ["icdr"]}, "record.scale"),
        ({"parts": {}}, "record.parts"),
        ({"by_name": {"x": 3}}, "record.by_name.x"),
        ({"bins": [{"mean": 1.0}]}, "record.bins: no 'photographs'"),
        ({"part": {"wanted": "both", "level": 1.0}}, "record.part.wanted"),
        ({"part": {"wanted": "sensitivity", "level": "high"}}, "record.part.level"),
        ({"part": {"wanted": "sensitivity", "level": 1.0, "limits": [1.0, 2.0, 3.0]}}, "record.part.limits"),
    ],
)
def test_what_is_no_such_record_is_refused_with_its_place(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(Whole, written(WHOLE) | changed)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not an object"):
        read(Part, value)
