"""One folder, one process that writes: a lock that the system drops when the process ends, however it ends."""

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unitgain.console import note
from unitgain.files import make_folder
from unitgain.trust import open_own, open_regular

LOCK = ".lock"
LOOK = 0.2  # seconds for which `holder`, which must take the lock to see that it is free, is no one who holds it


class FolderInUseError(Exception):
    """Another process works in the folder."""


@contextmanager
def hold(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder of a run, or of results, for as long as the block lasts.

    The lock is on the open file (flock), not its being there, so a killed process leaves none behind. On network file
    systems it holds between machines where these pass locks on, as NFS 4, Lustre (`-o flock`) and GPFS do.

    Args:
        folder: is made if it is not there.
        wait: until who else holds it is done, and say so.

    Raises:
        FolderInUseError: if another process holds it, unless that is waited for; names the process and its machine.
        OSError: if the folder cannot be written to.
    """
    make_folder(folder)
    path = folder / LOCK
    handle = _take(path, wait)
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(path: Path, wait: bool) -> int:
    """The lock file, open and locked."""
    end = time.monotonic() + LOOK
    while True:
        handle = open_own(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(handle, path):
                return handle
            os.close(handle)  # its holder deleted it between our opening and locking it
        except BlockingIOError as error:
            who = _describe(os.read(handle, 4096))
            os.close(handle)
            if time.monotonic() >= end:
                if not wait:
                    raise FolderInUseError(
                        f"run folder {path.parent} is in use by {who}: wait for it, stop it, or choose another folder"
                    ) from error
                note(f"{path.parent} is in use by {who}: waiting for it")
                end = math.inf
            time.sleep(LOOK / 10)
        except OSError:
            os.close(handle)
            raise


def holder(folder: Path) -> str | None:
    """Who works in a run folder, as `process 123 on HOST since ...`; None for nobody."""
    try:
        file = open_regular(folder / LOCK, below=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        return _holder(file.fileno())


def _holder(handle: int) -> str | None:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _describe(os.read(handle, 4096))
    return None


def _is_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
