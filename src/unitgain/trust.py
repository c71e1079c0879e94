"""What is believed of files, servers and names from elsewhere: nothing. The one place for that policy.

Nothing from a file is executed; what a file declares of itself is compared with the file, and with `Limits`, before
memory is taken; a name from a file is a plain name or no name; and what is shown of it holds no control characters
(`unitgain.text`).
"""

import bz2
import copy
import dataclasses
import io
import json
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from unitgain.text import printable


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one item and one source may take, whatever they declare of themselves. Generous, and all can be raised.

    Args:
        max_item_bytes: that one item may take, unpacked or decoded: a member of an archive, a cell of a table, the
            pixels of a picture, an array; a larger one cannot be used.
        max_ratio: how many times its own size an archive may take, unpacked.

    Raises:
        ValueError: if one is not positive.
    """

    max_item_bytes: int = 500_000_000
    max_ratio: int = 500

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} = {getattr(self, field.name)}: must be at least 1")

    def check_item(self, what: str, nbytes: int) -> None:
        """Refuse an item that takes more than `max_item_bytes`, before it does.

        Raises:
            LimitError: naming it, what it takes, and what raises the limit.
        """
        check_size(what, nbytes, self.max_item_bytes, "--max-item-bytes (Limits.max_item_bytes)")

    def check_source(self, what: str, nbytes: int, packed: int) -> None:
        """Refuse a source of `packed` bytes whose items take more than `max_ratio` times that, and more than one may.

        Raises:
            LimitError: as in `check_item`.
        """
        check_size(what, nbytes, max(self.max_ratio * packed, self.max_item_bytes), "--max-ratio (Limits.max_ratio)")


DEFAULT_LIMITS = Limits()


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


def leads_out(path: Path, below: Path) -> bool:
    """Whether a path, links resolved, is of something outside of a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(below))


def open_regular(path: Path, *, below: Path | None = None) -> BufferedReader:
    """Open a file for reading if it is an ordinary one: no pipe, device or folder, which could block or never end.

    Args:
        path: the file; links are followed.
        below: a folder that it must lie in, links resolved.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is something else than an ordinary file, or lies elsewhere.
    """
    if below is not None and leads_out(path, below):
        raise OSError(f"{printable(path)} leads out of {printable(below)}")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{printable(path)} is not an ordinary file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_own(path: Path) -> int:
    """Open a file to write to, made if it is missing: an ordinary one that has this name alone.

    What a link, of either kind, leads to is somebody else's.

    Returns:
        A handle for reading and writing, at the beginning of the file.

    Raises:
        OSError: if it is something else, or cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise OSError(f"{printable(path)} is a link, which is not followed: delete it")
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
            raise OSError(f"{printable(path)} is no ordinary file of one name: delete it")
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of one JSON value per line, without lines that are cut short, or something else.

    Raises:
        FileNotFoundError: if there is no file.
        LimitError: if it is longer than `ROWS`.
        OSError: if it is no ordinary file, or a link out of its folder.
    """
    with open_regular(path, below=path.parent) as file:
        check_size(printable(path), os.fstat(file.fileno()).st_size, ROWS, "trust.ROWS")
        while line := file.readline(LINE):
            try:
                row = parse_json(line, "the line")
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def read_regular(path: Path, limits: Limits, *, below: Path | None = None) -> bytes:
    """All of an ordinary file.

    Raises:
        FileNotFoundError: if there is none.
        LimitError: if it is longer than one item may be.
        OSError: as in `open_regular`.
    """
    name, parts, total = printable(path), list[bytes](), 0
    with open_regular(path, below=below) as file:
        size = os.fstat(file.fileno()).st_size
        limits.check_item(name, size)
        while part := file.read(max(size - total, 2**16)):  # some files of the system say that they are empty
            parts.append(part)
            total += len(part)
            limits.check_item(name, total)
    return b"".join(parts)


def read_member(archive: zipfile.ZipFile, name: str, limits: Limits) -> bytes:
    """A member of a zip archive, checked against its checksum; never more than it says, which may be a lie.

    Raises:
        KeyError: if there is none of that name.
        LimitError: if it is larger than one item may be.
        zipfile.BadZipFile: if it is damaged; and whatever else the decompressors raise.
    """
    info = archive.getinfo(name)
    limits.check_item(printable(name), max(info.file_size, info.compress_size))
    if info.compress_type == zipfile.ZIP_BZIP2:  # zipfile would unpack all that follows from a few bytes
        return _bzip2_member(archive, info)
    parts = io.BytesIO()
    with archive.open(info) as file:
        while part := file.read(CHUNKS.get(info.compress_type, 4096)):
            parts.write(part)
    if parts.tell() != info.file_size:
        raise zipfile.BadZipFile(f"{printable(name)} has {parts.tell()} bytes instead of {info.file_size}")
    return parts.getvalue()


def is_number(value: object) -> bool:
    """Whether it is a number that may be added, multiplied and drawn: not True, not infinite, within `LARGEST`."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST  # type: ignore[operator]


def parse_json(data: str | bytes, what: str, *, unique: bool = False) -> Any:
    """What JSON says.

    Args:
        data: the text.
        what: it is, for the error.
        unique: refuse a name that an object has twice, which readers take differently.

    Raises:
        ValueError: naming `what`, if it is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON that can be read: {error}") from error


def parse_yaml(data: bytes, what: str) -> Any:
    """What YAML says, or JSON, which is a part of it: plain values, none of which stands for another by an alias.

    A few lines of aliases of aliases would be gigabytes.

    Args:
        data: the text.
        what: it is, for the error.

    Raises:
        ValueError: naming `what`, if it is neither, no UTF-8, has an alias, or is nested too deeply.
    """
    import yaml

    try:
        text = data.decode("utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases (*name) are not read: write out what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")
        return yaml.safe_load(text)
    except Exception as error:  # of whatever the constructors of its types make of what they are given
        why = str(error) if isinstance(error, yaml.YAMLError | ValueError | RecursionError) else repr(error)
        raise ValueError(f"{what} is neither YAML nor JSON that can be read: {why}") from error


# Bytes at a time, by method: what is unpacked at once is bounded by them. LZMA packs up to 7,000 times.
CHUNKS = {zipfile.ZIP_STORED: 2**20, zipfile.ZIP_DEFLATED: 2**20}
LARGEST = 1e100
DEEPEST = 32  # in YAML, whose parser takes time by the square of it
ROWS, LINE = 2**30, 2**24  # bytes of a file of rows, and of one of them; those written here have some kilobytes


def _bzip2_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC  # it is of the unpacked bytes
    with archive.open(stored) as file:
        packed = file.read()
    data = bz2.BZ2Decompressor().decompress(packed, info.file_size + 1)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{printable(info.filename)} is damaged: its length or checksum differs")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {printable(repr(twice))[:100]} twice")
    return found
