"""How what is shown of values, files and names from elsewhere is written: some of many, in few words, as plain text."""

import re
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
BRIEF = 300  # characters of a value in an error
_UNITS = (("years", 365 * 86400, "d", 86400), ("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
_SHOWN = frozenset("\n\t\u200c\u200d")  # the joiners belong to the spelling of words and of emoji
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_FORMULA = re.compile(r"[=+\-@\t\r]")


def brief(value: object) -> str:
    """A value of any size in a few words, for an error."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxlong, short.maxother = 3, 200, 200, 200
    try:
        text = short.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a long {type(value).__name__}"
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."


def printable(value: object) -> str:
    r"""Text that may be shown: control characters, marks of direction, lone surrogates and the like as `\x1b`.

    Line feeds and tabs stay, so that messages of several lines do.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in _SHOWN or unicodedata.category(character) not in _HIDDEN else _escaped(character)
        for character in text
    )


def one_line(value: object) -> str:
    """Text that may be shown as a part of a line: as `printable`, without line feeds and tabs."""
    return "".join(_escaped(character) if character in "\n\t" else character for character in printable(value))


def span(seconds: float) -> str:
    """A time in words: `42 s`, `3 min 20 s`, `5 h`, `2 d 3 h`, `12 years 30 d`."""
    for unit, size, inner, small in _UNITS:
        if seconds >= size:
            rest = int(seconds % size // small)
            return f"{int(seconds // size):,} {unit}" + (f" {rest} {inner}" if rest else "")
    return f"{seconds:.0f} s"


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of them at even distances, the first and the last among them; the last where it is to be one."""
    if count == 1:
        return list(items[-1:])
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def plot_label(value: object) -> str:
    """Text for a figure of matplotlib, which takes what stands between dollars for mathematics."""
    return printable(value).replace("$", r"\$")


def csv_cell(value: object) -> object:
    """A value for a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in their order, those that follow each other by both ends: `0-63,100,7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
