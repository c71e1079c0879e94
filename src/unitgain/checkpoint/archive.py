"""Files of `torch.save` in its format of today: a zip archive of one pickle, `data.pkl`, and the bytes of tensors.

The pickle goes through the reader of `pickles`; members are stored as they are, so that none has more bytes than the
file, and each is checked against its checksum.
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from unitgain.checkpoint.pickles import SMALL, read
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.storage import NAMES, PLAIN, STORAGES, Reader
from unitgain.kinds import ZIP, kind_of, read_head
from unitgain.text import printable
from unitgain.trust import open_regular

# Storages of counters and states of generators, which may be named and are not read.
COUNTERS = frozenset(f"torch.{kind}Storage" for kind in ("Long", "Int", "Short", "Byte", "Bool"))
LOCAL = struct.Struct("<4s22xHH")  # before each member: signature, lengths of its name and of what else is said
RATIO = 8  # bytes of objects that the pickle may describe, to one of its own


@contextmanager
def open_archive(path: Path) -> Generator[tuple[object, Reader], None, None]:
    """What the pickle of an archive describes, as `pickles.read` gives it, and a reader of its tensors.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no archive of plain containers and tensors, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    head = read_head(path)
    if not ZIP.fits(head):
        raise Refused(f"{path} is no archive of torch.save: it is {kind_of(head)}")
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            members = _members(archive)
            member = cache(lambda name: _bytes(pages, members, name))
            if "byteorder" in members and bytes(member("byteorder")) != b"little":
                raise Refused("it was not written in little-endian order")
            data = member("data.pkl")
            budget = max(RATIO * len(data), SMALL)
            root, end = read(data, NAMES | STORAGES.keys() | COUNTERS | PLAIN, persistent=True, budget=budget)
            if end != len(data):
                raise Refused(f"{len(data) - end:,} bytes follow the end of its pickle")
            yield root, Reader(2 * len(pages), lambda key: member(f"data/{key}"))
    except (ValueError, zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:  # zipfile: of other versions
        raise Refused(f"{path}: {printable(error)}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, without the folder that all of them are in."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in stored_members(archive):
        name = info.filename.partition("/")[2]
        if name in members:
            raise Refused(f"it has two members {name[:100]!a}")
        members[name] = info
    return members


def stored_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of an archive as `torch.save` writes them: none has more bytes than it takes in the file.

    Raises:
        Refused: if one is packed or encrypted.
    """
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            name = info.filename.partition("/")[2]
            raise Refused(f"member {name[:100]!a} is packed or encrypted, which torch.save does not do")
    return archive.infolist()


def _bytes(pages: memoryview, members: dict[str, zipfile.ZipInfo], name: str) -> memoryview:
    if name not in members:
        raise Refused(f"it has no member {name[:100]!a}")
    info = members[name]
    header = pages[info.header_offset : info.header_offset + LOCAL.size]
    signature, *lengths = LOCAL.unpack(header) if len(header) == LOCAL.size else (b"", 0, 0)
    start = info.header_offset + LOCAL.size + sum(lengths)
    data = pages[start : start + info.file_size]
    if signature != ZIP.begins[0] or len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise Refused(f"member {name[:100]!a} is damaged: it does not match its checksum, or was cut short")
    return data
