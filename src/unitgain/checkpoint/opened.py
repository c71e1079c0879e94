"""Official pickles, open: their contents as records, and what a file is that is none."""

import mmap
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unitgain.checkpoint import official
from unitgain.checkpoint.pickles import read
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.storage import Reader
from unitgain.kinds import PICKLE, TEXT, UNKNOWN, ZIP, kind_of, read_head


@contextmanager
def opened(path: Path) -> Generator[tuple[Mapping[Any, object], Reader, Callable[[], None]], None, None]:
    """The contents of a pickle, a reader of its tensors, and a function that lets go of what was read of the file.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no official file; says what it is, if that is known.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    size, head = path.stat().st_size, read_head(path)
    kind = kind_of(head)
    if not PICKLE.fits(head) and kind not in (TEXT, UNKNOWN):  # of those two the reader knows more to say
        raise Refused(f"{path} is not a pickle, as official files are: it is {kind}{_advice(head)}")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        root, end = read(memoryview(pages), official.NAMES, on_call=official.check_call)
        if end != size:
            raise Refused(f"byte {end:,}: {size - end:,} bytes follow the end of the pickle")
        if type(root) is not dict:
            raise Refused(f"it holds a {type(root).__name__.lower()}, not the dict of an official file")
        yield root, Reader(size), lambda: pages.madvise(mmap.MADV_DONTNEED)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None


def _advice(head: bytes) -> str:
    if ZIP.fits(head):
        return (
            ". Of a training state of the official loop `unitgain convert STATE.pt RUN` makes a run, of checkpoints of "
            "other projects `unitgain ema convert FOLDER OUT` snapshots"
        )
    return ""
