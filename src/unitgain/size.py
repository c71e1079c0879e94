"""How large data are: a number for a square image, else their one to three sides; 48x64 as text."""

import re

from tyro.constructors import PrimitiveConstructorSpec

Size = int | tuple[int, ...]
MOST_SIDES = 3


def sides_of(size: Size) -> tuple[int, ...]:
    """The sides: height and width of an image."""
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def size_of(size: Size) -> Size:
    """The same size in its one form: a number for a square image, a tuple otherwise."""
    sides = sides_of(size)
    square = len(sides) == 2 and len(set(sides)) == 1
    return next(iter(sides)) if square else tuple(sides)


def show_size(size: Size) -> str:
    """As text, height first: "48x64"."""
    return "x".join(map(str, sides_of(size)))


def read_size(text: str) -> Size:
    """A size from text: "64" for a square image, "48x64" for height and width, "16x32x32" for a volume.

    Raises:
        ValueError: if it is none of these.
    """
    if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9}){0,2}", text.strip().lower()):
        raise ValueError(f"cannot read the size {text!r}: write 64 for a square, or 48x64 for height x width")
    sides = [int(side) for side in text.strip().lower().split("x")]
    return size_of(tuple(sides)) if len(sides) > 1 else sides[0]


SIZE_TEXT = PrimitiveConstructorSpec(
    nargs=1,
    metavar="SIZE",
    instance_from_str=lambda texts: read_size(texts[0]),
    is_instance=lambda value: value is None or isinstance(value, int | tuple),
    str_from_instance=lambda size: [show_size(size) if isinstance(size, tuple) else str(size)],
)
"""Marks a field of settings that a command line takes as `read_size` does."""
