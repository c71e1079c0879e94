"""What callers give in Python - numbers and arrays of NumPy, tensors, lists, names of files - as plain values."""

from collections.abc import Iterable
from operator import index
from typing import Any

from unitgain.text import brief


def several(values: object, what: str) -> tuple[Any, ...]:
    """Some values as a tuple of plain ones; a text is one value, and no sequence of letters.

    Raises:
        ValueError: if it is one value.
    """
    if hasattr(values, "tolist"):
        values = values.tolist()  # type: ignore[attr-defined]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{what} = {brief(values)}: expected several, such as [{brief(values)}]")
    return tuple(one.item() if hasattr(one, "item") else one for one in values)


def whole(value: Any, what: str) -> int:
    """A whole number.

    Raises:
        ValueError: if it is none.
    """
    try:
        return int(index(value))
    except TypeError as error:
        raise ValueError(f"{what} = {brief(value)}: expected a whole number") from error


def real(value: Any, what: str) -> float:
    """A number; a whole one stays what it is.

    Raises:
        ValueError: if it is none.
    """
    if type(value) in (int, float):
        return value
    try:
        if isinstance(value, str | bytes):
            raise TypeError("a text")
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of a tensor of several
        raise ValueError(f"{what} = {brief(value)}: expected a number") from error


def settle(settings: object, **values: object) -> None:
    """Put plain values in the place of what a frozen dataclass was given."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)
