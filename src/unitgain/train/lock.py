"""One run folder, one run: a lock that the system drops when the process ends, however it ends."""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from unitgain.files import make_folder
from unitgain.trust import open_own, open_regular

LOCK = ".lock"
LOOK = 0.2  # seconds for which `holder`, which must take the lock to see that it is free, is no one who holds it


class FolderInUseError(Exception):
    """Another process works in the run folder."""


class FolderLock:
    """Context manager that holds a run folder.

    The lock is on the open file (flock), not its being there, so a killed process leaves none behind. On network file
    systems it holds between machines where these pass locks on, as NFS 4, Lustre (`-o flock`) and GPFS do.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        FolderInUseError: on entry, if another process holds it; names the process and its machine.
        OSError: on entry, if the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._handle: int | None = None

    def __enter__(self) -> "FolderLock":
        make_folder(self.path.parent)
        end = time.monotonic() + LOOK
        while self._handle is None:
            handle = open_own(self.path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                who = _describe(os.read(handle, 4096))
                os.close(handle)
                if time.monotonic() < end:
                    time.sleep(LOOK / 10)
                    continue
                raise FolderInUseError(
                    f"run folder {self.path.parent} is in use by {who}: wait for it, stop it, or choose another folder"
                ) from error
            except OSError:
                os.close(handle)
                raise
            if _is_there(handle, self.path):
                self._handle = handle
            else:  # its holder deleted it between our opening and locking it
                os.close(handle)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(me).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            with suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = None


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
