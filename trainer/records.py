"""Reads typed records (dataclasses, NamedTuples) from JSON. Imports no torch."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read(kind: type[T], value: object, at: str = "the record") -> T:
    """Converts `value`, from json.loads, to `kind`. Numbers are not converted: an int stays an int in a float field.

    kind: a dataclass or a NamedTuple; `list`, `tuple`, `Sequence`, `dict` or `Mapping` of such types; str, int, float
    or bool. Fields may also be unions and Literals; the first type of a union that fits is taken. Unknown keys of an
    object are ignored, and missing ones get the field's default. at: the name of `value` in error messages.

    Raises ValueError, with the path of the value, if a key without a default is missing or a value has another type.
    """
    return _read(kind, value, at)  # type: ignore[no-any-return]


def optional(kind: type[T], value: object, at: str = "the record") -> T | None:
    """Like `read`; None for None."""
    return None if value is None else read(kind, value, at)


def _read(kind: Any, value: Any, at: str) -> Any:
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return kind(**_read_fields(kind, value, at))
    if origin in (Union, types.UnionType):
        return _read_union(inner, value, at)
    if origin is Literal and value in inner:
        return value
    if origin in (list, Sequence) and isinstance(value, list):
        return [_read(inner[0], each, at) for each in value]
    if origin is tuple and isinstance(value, list) and (inner[-1] is ... or len(value) == len(inner)):
        each_kind = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_read(one, each, at) for one, each in zip(each_kind, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _read(inner[1], each, f"{at}.{name}") for name, each in value.items()}
    allowed = (int, float) if kind is float else kind
    if isinstance(kind, type) and isinstance(value, allowed) and not (kind is not bool and isinstance(value, bool)):
        return value
    raise ValueError(f"{at}: {value!r:.40} is not {kind}")


def _read_fields(kind: Any, value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{at}: {value!r:.40} is not an object")
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    else:
        needed = hints.keys() - kind._field_defaults.keys()
    if missing := sorted(needed - value.keys()):
        raise ValueError(f"{at}: no {missing[0]!r}")
    return {name: _read(hint, value[name], f"{at}.{name}") for name, hint in hints.items() if name in value}


def _read_union(kinds: Sequence[Any], value: Any, at: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = (each for each in kinds if each is not types.NoneType)
    for kind in others:
        try:
            return _read(kind, value, at)
        except ValueError:
            continue
    return _read(last, value, at)
