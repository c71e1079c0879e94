"""Large files over HTTP into a cache: resumed where they stopped, whole or not there, checked when used again."""

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unitgain.files import sync_folder, write_text

CHUNK = 2**20
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
Progress = Callable[[int, int], None]


class DownloadError(Exception):
    """A file cannot be fetched, or is not what it was."""


class _Interrupted(Exception):
    """Worth another attempt."""


@dataclass(frozen=True)
class Record:
    """What is known of a fetched file; kept beside it as JSON.

    Attributes:
        url: where it came from; empty for a file that was put there by hand.
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
    sha256: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Record:
    """Make `path` a copy of what is at `url`, if it is not there yet; proxies are those of the environment.

    What an interrupted call has fetched is kept beside it and gone on from, if the server still has the same file. A
    file that is there is checked against the SHA-256 that was taken when it was fetched; one that was put there by hand
    is taken as it is.

    Args:
        url: http or https.
        path: the file.
        sha256: what its SHA-256 must be, if known.
        offline: never use the network.
        on_progress: called with (bytes done, in all).
        attempts: how often to begin, or go on, after an interruption.
        timeout: seconds without an answer that count as one.
        pause: seconds before the second attempt; doubles each time.

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
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is no address that begins with http:// or https://")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.part")) as file:
        for attempt in range(1, attempts + 1):
            try:
                _fetch(url, file, path, on_progress, timeout)
                break
            except _Interrupted as error:
                if attempt == attempts:
                    raise DownloadError(
                        f"{url} could not be fetched: {error}. What has come is kept: run the command again to go on. "
                        f"Without a network, {_by_hand(url, path)}"
                    ) from None
                time.sleep(pause * 2 ** (attempt - 1))
        return _settle(url, file, path, kept, sha256)


def check_sha256(where: str, found: str, expected: str | None) -> None:
    """Raise `DownloadError` unless the file `where` has the SHA-256 that it must have, if it is known."""
    if expected is not None and found != expected.lower():
        raise DownloadError(
            f"{where} has the SHA-256 {found}, expected was {expected}: it is damaged or another file; delete it"
        )


def _by_hand(url: str, path: Path) -> str:
    return f"fetch {url} elsewhere and put it at {path}"


def _fetch(url: str, file: BinaryIO, path: Path, on_progress: Progress | None, timeout: float) -> None:
    """Bring the partial file to its full length, or raise `_Interrupted`."""
    have, state = file.seek(0, os.SEEK_END), _state(path)
    headers = {"User-Agent": "unitgain", "Accept-Encoding": "identity"}
    if have and state.get("url") == url and state.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
    else:
        have = file.truncate(0)
    try:
        opener = (
            urllib.request.build_opener()
        )  # a new one each time: it reads the environment's proxies when it is made
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            have, total = _begin(url, file, path, have, answer)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if on_progress is not None:
                    on_progress(have, total if total is not None else have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is here than there
            file.truncate(0)
            raise _Interrupted("the server has another file than before") from None
        if error.code in TRANSIENT:
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from None
        remedy = "the file is not there any more, or was never public" if error.code in (404, 410) else "it is refused"
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}: {remedy}") from None
    except urllib.error.URLError as error:
        raise _Interrupted(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(f"the connection broke ({type(error).__name__})") from None
    file.flush()
    if total is not None and have != total:
        if have > total:
            file.truncate(0)
        raise _Interrupted(f"{have:,} of {total:,} bytes came")


def _begin(url: str, file: BinaryIO, path: Path, have: int, answer: Any) -> tuple[int, int | None]:
    """Take in the headers of an answer; returns where the body goes and the length of the whole."""
    length = answer.headers.get("Content-Length")
    rest = int(length) if length is not None and length.isdigit() else None
    if have and answer.status == 206:
        unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
        start, _, whole = span.partition("-")[0], None, span.rpartition("/")[2]
        if unit != "bytes" or start != str(have) or not whole.isdigit():
            file.truncate(0)
            raise _Interrupted("the server answers with another part than was asked for")
        total = int(whole)
    else:  # all of it: from the beginning
        have, total = file.truncate(0), rest
    file.seek(have)
    free = shutil.disk_usage(path.parent).free
    if total is not None and total - have > free:
        raise DownloadError(f"{url} needs {total - have:,} bytes, but {path.parent} has {free:,} free")
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    if validator.startswith("W/"):
        validator = ""  # says that two files are alike, not that their bytes are
    write_text(_state_path(path), json.dumps({"url": url, "validator": validator, "total": total}))
    return have, total


def _settle(url: str, file: BinaryIO, path: Path, kept: Record | None, sha256: str | None) -> Record:
    """Give the whole file its name and write down what it is."""
    os.fsync(file.fileno())
    file.seek(0)
    record = Record(url, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]
    partial = path.with_name(f".{path.name}.part")
    if kept is not None and kept.sha256 != record.sha256:
        file.truncate(0)
        raise DownloadError(
            f"{url} has the SHA-256 {record.sha256}, but had {kept.sha256} when it was fetched before; if it was "
            f"changed on purpose, delete {_record_path(path)} and fetch it again"
        )
    if sha256 is not None and record.sha256 != sha256.lower():
        file.truncate(0)
        raise DownloadError(
            f"{url} has the SHA-256 {record.sha256}, expected was {sha256}: it is another file, and is not kept"
        )
    write_text(_record_path(path), json.dumps(asdict(record), indent=1) + "\n")
    os.replace(partial, path)
    sync_folder(path.parent)
    _state_path(path).unlink(missing_ok=True)
    return record


def _checked(path: Path, kept: Record | None) -> Record:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if kept is None:
        kept = Record("", path.stat().st_size, found)
        write_text(_record_path(path), json.dumps(asdict(kept), indent=1) + "\n")
    if kept.sha256 != found:
        raise DownloadError(
            f"{path} is damaged: its SHA-256 is not the one it was fetched with; delete it and fetch again"
        )
    return kept


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _state_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.json")


def _record(path: Path) -> Record | None:
    try:
        return Record(**json.loads(_record_path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DownloadError(f"{_record_path(path)} is damaged ({error}): delete it and {path.name}") from None


def _state(path: Path) -> Mapping[str, Any]:
    try:
        state = json.loads(_state_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


@contextmanager
def _locked(partial: Path) -> Generator[BinaryIO, None, None]:
    """The partial file, for this process alone."""
    with open(partial, "a+b") as appending:
        try:
            fcntl.flock(appending, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadError(f"another process is fetching {partial.name[1:-5]}: wait for it to end") from None
        with open(partial, "r+b") as file:  # not appending: the whole may have to begin anew
            yield file
