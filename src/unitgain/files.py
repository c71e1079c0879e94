"""Files that are either whole or not there."""

import difflib
import hashlib
import os
import platform
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from unitgain.text import one_line
from unitgain.trust import open_regular

LOOKED_AT = 1000  # names of a folder, for one that is like another


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path; it becomes `path` when the block ends well and is removed when it does not.

    The data is flushed to the disk before the rename, and the rename too, so that a crash leaves the old file or the
    new one. The folder of `path` is made if it is not there.

    Raises:
        OSError: if the disk is full, the folder is read-only and so on; `path` is then as it was.
    """
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        with naming(path):
            temporary.unlink(missing_ok=True)  # what somebody may have put there to be written through
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # what the umask gives; some writers make private files of their own
            yield temporary
            os.chmod(temporary, mode)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system in the block say what could not be written, where they name no file themselves."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def cache_folder() -> Path:
    """Where unitgain keeps what it can fetch or make again: `$UNITGAIN_CACHE`, or `unitgain` in `$XDG_CACHE_HOME` or
    `~/.cache`; an `$XDG_CACHE_HOME` that is no absolute path is none, as its specification says.

    Raises:
        FileNotFoundError: if this user has no home, as in some containers, and none of these is set.
    """
    if folder := os.environ.get("UNITGAIN_CACHE"):
        return Path(folder)
    if os.path.isabs(folder := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(folder) / "unitgain"
    try:
        return Path.home() / ".cache" / "unitgain"
    except RuntimeError as error:
        raise FileNotFoundError(
            "this user has no home to keep a cache in: choose a place with UNITGAIN_CACHE"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        OSError: if it cannot be made; says where, and what is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        there = next((above for above in (path, *path.parents) if os.path.lexists(above)), path)
        why = f"{there} is no folder" if not there.is_dir() else error.strerror or str(error)
        raise type(error)(error.errno, f"cannot make this folder ({why}): choose another place", str(path)) from error


def check_file(path: Path, example: str) -> None:
    """Raise `ValueError` if a folder is at `path`, or a file where a folder above it would be.

    Args:
        path: of the file.
        example: a name for it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file, such as {path / example}")
    above = next(one for one in path.absolute().parents if os.path.lexists(one))
    if not above.is_dir():
        raise ValueError(f"{path}: {above} is no folder, so nothing can be written in it: choose another place")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(path: Path, size: int, digest: str, *, below: Path | None = None) -> str:
    """What is wrong with a file that should be of this size and SHA-256, in words that follow its name; else nothing.

    A link out of the folder `below` is, too.
    """
    try:
        with open_regular(path, below=below) as file:
            if (found := os.fstat(file.fileno()).st_size) != size:
                return f"has {found} bytes instead of {size}"
            return "" if hashlib.file_digest(file, "sha256").hexdigest() == digest else "does not match its checksum"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"


def sweep(folder: Path) -> None:
    """Remove what `atomic` and `staged` could not: temporary files of killed processes of this machine."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        name, _, process = path.stem.rpartition(".")
        ours = name.endswith(f".{_machine()}") and re.fullmatch("[0-9]{1,9}", process)
        if ours and not _alive(int(process)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.tmp")


def _machine() -> str:
    return platform.node().replace(".", "-") or "local"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user, but there
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to the disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `folder` when the block ends well and is deleted when it does not.

    Raises:
        FileExistsError: if `folder` is a file or has anything in it.
        OSError: if the disk is full and so on; there is then no `folder`, or the empty one that was there.
    """
    require_empty(folder)
    partial = _temporary(folder)
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had this number
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_empty(folder: Path, remedy: str = "choose another folder or empty this one") -> None:
    """Check that results may be written to `folder` without mixing with what is there.

    Raises:
        FileExistsError: if it is a file, or a folder with anything in it; `remedy` ends the message.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise FileExistsError(f"output folder {folder} {what}: {remedy}")


def near(path: Path) -> str:
    """What was meant by a path where nothing is, in words that follow; empty if nothing there has a name like it."""
    with suppress(OSError, ValueError):
        missing = next(one for one in (path, *path.parents) if one.parent.exists())
        names = [one.name for one in islice(missing.parent.iterdir(), LOOKED_AT)]
        for name in difflib.get_close_matches(missing.name, names):
            meant = missing.with_name(name) / path.relative_to(missing)
            if meant.exists() and meant != path:
                return f"; did you mean {shlex.quote(one_line(meant))}?"
    return ""
