"""What is believed of files, servers and names from elsewhere: nothing. The one place for that policy.

Nothing from a file is executed; what a file declares of itself is compared with the file, and with `Limits`, before
memory is taken; a name from a file is a plain name or no name; and what is shown of it holds no control characters.
"""

import dataclasses
import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one item and one source may take, whatever they declare of themselves. Generous, and all can be raised.

    Args:
        item: bytes of one item, unpacked or decoded: a member of an archive, a cell of a table, the pixels of a
            picture, an array.
        ratio: bytes that all items of a packed source may take together, as a multiple of its own size.

    Raises:
        ValueError: if one is not positive.
    """

    item: int = 500_000_000
    ratio: int = 500

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"Limits.{field.name} = {getattr(self, field.name)}: must be at least 1")


class LimitError(ValueError):
    """An item takes more than it is allowed to."""


def check_size(what: str, nbytes: int, limit: int, option: str) -> None:
    """Refuse what takes more than its limit, before the memory is taken.

    Raises:
        LimitError: naming what it is, what it takes, and the option that raises the limit.
    """
    if nbytes > limit:
        raise LimitError(
            f"{what} takes {nbytes:,} bytes, over the limit of {limit:,}: if that is right, raise {option}"
        )


def plain_name(name: object, what: str = "name") -> str:
    """A name that a file gives for another file beside it, if it is nothing but a name.

    Raises:
        ValueError: if it is a path, empty, hidden behind control characters, or no text.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or len(name) > 255
        or any(character in "/\\:" or not character.isprintable() for character in name)
    ):
        raise ValueError(f"{what} {printable(repr(name))[:200]} is not the plain name of a file")
    return name


def open_regular(path: Path, *, below: Path | None = None) -> BinaryIO:
    """Open a file for reading if it is an ordinary one: no pipe, device or folder, which could block or never end.

    Args:
        path: the file; links are followed.
        below: a folder that it must lie in, links resolved.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is something else than an ordinary file, or lies elsewhere.
    """
    if below is not None and not path.resolve().is_relative_to(below.resolve()):
        raise OSError(f"{printable(path)} leads out of {printable(below)}")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{printable(path)} is not an ordinary file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def printable(value: object) -> str:
    r"""Text that may be shown: control characters, marks of direction, lone surrogates and the like as `\x1b`.

    Line feeds and tabs stay, so that messages of several lines do.
    """
    return "".join(
        character if character in _SHOWN or unicodedata.category(character) not in _HIDDEN else _escaped(character)
        for character in str(value)
    )


def csv_cell(value: object) -> object:
    """A value for a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) else text


_SHOWN = frozenset("\n\t\u200c\u200d")  # the joiners belong to the spelling of words and of emoji
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_FORMULA = re.compile(r"[=+\-@\t\r]")


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
