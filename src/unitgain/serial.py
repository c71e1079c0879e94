"""Frozen dataclasses to plain JSON values and back, with errors that name the field.

A type with methods `to_json()` and `from_json(data, where)` is written and read by these.
"""

import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from unitgain.text import brief

T = TypeVar("T")
UNSAID = {"unsaid": True}  # metadata of a field that is left out of JSON as long as it has its default


def to_dict(value: Any) -> Any:
    """Dataclass (nested ones too) to what JSON can hold; tuples become lists."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {
            field.name: to_dict(it) for field, it in fields if not field.metadata.get("unsaid") or it != field.default
        }
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    return value


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold, 64 hexadecimal digits; the order of names in objects does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """Inverse of `to_dict`: build `cls`, checking names and types on the way.

    Args:
        cls: dataclass type.
        data: mapping of its fields; fields with a default may be left out.
        where: prefix of field names in errors.

    Raises:
        ValueError: if a field is unknown (with the nearest name), missing, or of another type.
    """
    where = where or cls.__name__
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object with named fields, not {brief(data)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            raise ValueError(f"{where}: unknown field {brief(name)}; {suggest(str(name), fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}: field {name!r} is missing")
    return cls(**values)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The leaves in which two results of `to_dict` differ, as 'field: old -> new'."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        rows = []
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{where}.{name}" if where else name
            rows += differences(old.get(name), new.get(name), path)
        return rows
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        options = [option for option in options if option is not type(None)]
        if len(options) > 1:  # one value, or several
            several = isinstance(value, list | tuple)
            options = [option for option in options if (typing.get_origin(option) is tuple) == several] or options
        inner = next((option for option in options if type(value) is option), options[0])
        return _convert(inner, value, where)
    if hasattr(hint, "from_json"):
        return hint.from_json(value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        item, *more = typing.get_args(hint)
        if Ellipsis not in more and len(value) != 1 + len(more):
            raise ValueError(f"{where}: expected {1 + len(more)} values, not {brief(value)}")
        return tuple(_convert(item, element, f"{where}[{i}]") for i, element in enumerate(value))
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise ValueError(f"{where}: a number beyond the largest float")
        return float(value)
    kind = origin or hint
    if isinstance(kind, type) and isinstance(value, kind) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = (
        " or ".join(map(repr, typing.get_args(hint))) if origin is typing.Literal else getattr(hint, "__name__", hint)
    )
    raise ValueError(f"{where}: expected {expected}, not {brief(value)}")
