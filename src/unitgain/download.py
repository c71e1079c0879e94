"""Large files over HTTP into a cache: resumed where they stopped, whole or not there, checked when used again."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unitgain import files
from unitgain.files import sync_folder, write_text
from unitgain.kinds import HEAD, Kind, kind_of
from unitgain.serial import from_dict, to_dict
from unitgain.transfer import SCHEMES, Answer, Deadline, DownloadError, Interrupted, Restart, public, request, valid
from unitgain.trust import Limits, open_own, parse_json, read_regular

LARGEST = 20_000_000_000  # bytes of one file, by default: the largest official network has 3 GB
LONGEST = 86_400.0  # seconds for one file, by default
NOTES = Limits(max_item_bytes=100_000)  # bytes of the notes beside a file
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Record:
    """What is known of a fetched file; kept beside it as JSON.

    Attributes:
        url: where it came from, without a password; empty for a file that was put there by hand.
        size: in bytes.
        sha256: of its contents, taken when it was first seen here.
    """

    url: str
    size: int
    sha256: str


def is_offline() -> bool:
    """Whether the environment forbids the network: `HF_HUB_OFFLINE`, as the Hugging Face libraries read it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def download(
    url: str,
    path: Path,
    *,
    kind: Kind | None = None,
    accept: Callable[[Path], object] | None = None,
    sha256: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
    largest: int = LARGEST,
    longest: float = LONGEST,
) -> Record:
    """Make `path` a copy of what is at `url`, if it is not there yet; proxies are those of the environment.

    What an interrupted call has fetched is kept beside it and gone on from, if the server still has the same file. A
    file that is there is checked against the SHA-256 that was taken when it was fetched; one that was put there by hand
    is taken as it is. What is refused is not kept.

    Args:
        url: http or https; https stays https.
        path: the file.
        kind: what its first bytes must be.
        accept: called with the whole file before it gets its name; what it raises is raised, and the file not kept.
        sha256: what its SHA-256 must be, if known.
        offline: never use the network.
        on_progress: called with (bytes done, in all).
        attempts: how often to begin, or go on, after an interruption.
        timeout: seconds without an answer, or with fewer than a thousand bytes each, that count as one.
        pause: seconds before the second attempt; doubles each time.
        largest: bytes that it may have.
        longest: seconds that all of it may take.

    Raises:
        DownloadError: if it cannot be fetched, saying why and what to do; or if what is there, or came, is not what was
            fetched before.
    """
    kept = _record(path)
    if path.is_file():
        record = _checked(path, kept)
        check_sha256(str(path), record.sha256, sha256)
        return record
    if offline or is_offline():
        raise DownloadError(
            f"{path.name} is not in {path.parent}, and the network is not to be used; {_by_hand(url, path)}"
        )
    if not url.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise DownloadError(f"{public(url)} is no address that begins with http:// or https://")
    path.parent.mkdir(parents=True, exist_ok=True)
    fetching = _Fetching(url, path, kind, on_progress, timeout, largest, Deadline(longest))
    with _partial(path) as file:
        fetching.all_of_it(file, attempts, pause)
        return _settle(url, file, path, kept, sha256, accept)


def check_sha256(where: str, found: str, expected: str | None, remedy: str = "has to be deleted") -> None:
    """Raise `DownloadError` unless the file `where` has the SHA-256 that it must have, if it is known."""
    if expected is not None and found != expected.lower():
        raise DownloadError(
            f"{where} has the SHA-256 {found}, expected was {expected}: it is damaged or another file, and {remedy}"
        )


class _StoppedError(DownloadError):
    """What has come is right as far as it goes."""


@dataclass(frozen=True)
class _Fetching:
    """A file on its way."""

    url: str
    path: Path
    kind: Kind | None
    on_progress: Progress | None
    timeout: float
    largest: int
    deadline: Deadline

    def all_of_it(self, file: BinaryIO, attempts: int, pause: float) -> None:
        """Bring the partial file to its full length."""
        shown = public(self.url)
        for attempt in range(1, attempts + 1):
            try:
                self.attempt(file)
                return
            except Interrupted as error:
                if isinstance(error, Restart):
                    file.truncate(0)
                if not self.deadline.left:
                    raise _StoppedError(
                        f"{shown} did not come within {self.deadline.seconds:,.0f} seconds. What has come is kept: run "
                        "the command again to go on"
                    ) from None
                if attempt == attempts:
                    raise _StoppedError(
                        f"{shown} could not be fetched: {error}. What has come is kept: run the command again to go "
                        f"on. Without a network, {_by_hand(self.url, self.path)}"
                    ) from None
                time.sleep(min(pause * 2 ** (attempt - 1), self.deadline.left))

    def attempt(self, file: BinaryIO) -> None:
        """Go on from what is there, or begin; raises `Interrupted` where that ends too early."""
        have, validator = file.seek(0, os.SEEK_END), _validator(self.path, self.url)
        if not validator or have > self.largest:
            have = file.truncate(0)
        with request(self.url, have, validator, self.timeout, self.deadline) as (answer, read):
            self.begin(file, answer)
            have, known = answer.start, False
            while chunk := read():
                have += len(chunk)
                self.check_size(have)
                file.write(chunk)
                if have >= HEAD and not known:
                    self.check_kind(file)
                    known = True
                if self.on_progress is not None:
                    self.on_progress(have, have if answer.total is None else answer.total)
        file.flush()
        if answer.total is not None and have != answer.total:
            raise (Interrupted if have < answer.total else Restart)(f"{have:,} of {answer.total:,} bytes came")
        if not have:
            raise DownloadError(f"{public(self.url)}: the server sends an empty file")
        self.check_kind(file)

    def begin(self, file: BinaryIO, answer: Answer) -> None:
        """Make ready for a body: its place, the room for it, and a note of what it is a part of."""
        file.truncate(answer.start)
        file.seek(answer.start)
        if answer.total is not None:
            self.check_size(answer.total)
            missing, free = answer.total - answer.start, shutil.disk_usage(self.path.parent).free
            if missing > free:
                raise _StoppedError(
                    f"{public(self.url)} needs {missing:,} bytes, but {self.path.parent} has {free:,} free"
                )
        note = {"url": public(self.url), "validator": answer.validator}
        write_text(_state_path(self.path), json.dumps(note))

    def check_size(self, size: int) -> None:
        """Refuse what is too large."""
        if size > self.largest:
            raise DownloadError(
                f"{public(self.url)} has {size:,} bytes or more, over the limit of {self.largest:,}: it is not what it "
                "should be, or too large to be fetched so"
            )

    def check_kind(self, file: BinaryIO) -> None:
        """Look at the first bytes."""
        file.flush()
        head = os.pread(file.fileno(), HEAD, 0)
        if self.kind is not None and not self.kind.fits(head):
            raise DownloadError(
                f"{public(self.url)} is not {self.kind.name}: it is {kind_of(head)}. It is not kept; "
                f"{_by_hand(self.url, self.path)}"
            )


def _by_hand(url: str, path: Path) -> str:
    return f"fetch {public(url)} elsewhere and put it at {path}"


def _settle(
    url: str,
    file: BinaryIO,
    path: Path,
    kept: Record | None,
    sha256: str | None,
    accept: Callable[[Path], object] | None,
) -> Record:
    """Give the whole file its name and write down what it is."""
    os.fsync(file.fileno())
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    record = Record(public(url), os.fstat(file.fileno()).st_size, found)
    if kept is not None and kept.sha256 != record.sha256:
        raise DownloadError(
            f"{record.url} has the SHA-256 {record.sha256}, but had {kept.sha256} when it was fetched before; if it "
            f"was changed on purpose, delete {_record_path(path)} and fetch it again"
        )
    check_sha256(record.url, found, sha256, "is not kept")
    if accept is not None:
        accept(_part_path(path))
    write_text(_record_path(path), json.dumps(to_dict(record), indent=1) + "\n")
    os.replace(_part_path(path), path)
    sync_folder(path.parent)
    _state_path(path).unlink(missing_ok=True)
    return record


def _checked(path: Path, kept: Record | None) -> Record:
    found = files.sha256(path)
    if kept is None:
        kept = Record("", path.stat().st_size, found)
        write_text(_record_path(path), json.dumps(to_dict(kept), indent=1) + "\n")
    if kept.sha256 != found:
        raise DownloadError(
            f"{path} is damaged: its SHA-256 is not the one it was fetched with; delete it and fetch again"
        )
    return kept


def _part_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _state_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.json")


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path) -> Record | None:
    where = _record_path(path)
    try:
        return from_dict(Record, parse_json(read_regular(where, NOTES), "it"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DownloadError(f"{where} is damaged ({error}): delete it and {path.name}") from None


def _validator(path: Path, url: str) -> str:
    """What tells the version of the file that a part is of; empty if there is none, or no sense in the note of it."""
    try:
        note = parse_json(read_regular(_state_path(path), NOTES), "it")
    except (OSError, ValueError):
        return ""
    return valid(note.get("validator")) if isinstance(note, dict) and note.get("url") == public(url) else ""


@contextmanager
def _partial(path: Path) -> Generator[BinaryIO, None, None]:
    """The partial file, for this process alone: an ordinary one of one name, made if it is missing.

    What was interrupted is kept; what was refused, or is nothing, is not.
    """
    partial = _part_path(path)
    try:
        handle = open_own(partial)
    except OSError as error:
        if error.errno is not None:
            raise
        raise DownloadError(str(error)) from None
    with os.fdopen(handle, "r+b") as file:
        there, mine = os.fstat(handle), False
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have had it, and given it its name, since it was opened.
            mine = os.path.samestat(partial.lstat(), there)
        if not mine:
            raise DownloadError(f"another process is fetching {path.name}: wait for it to end")
        try:
            yield file
        except BaseException as error:
            if not isinstance(error, _StoppedError | KeyboardInterrupt) or not os.fstat(handle).st_size:
                partial.unlink(missing_ok=True)
                _state_path(path).unlink(missing_ok=True)
            raise
