"""One request over HTTP, whose answer is believed no further than it can be checked.

The status, the encoding, the length, the part of the file and its ETag must be those that were asked for; `https`
stays `https` through redirects, and no other scheme is followed. An answer ends: by its length, a limit and a time.
"""

import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

CHUNK = 2**20
SLOWEST = 1000  # bytes a second; what comes slower has stalled
SCHEMES = ("http", "https")
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_VALIDATOR = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,255}")


class DownloadError(Exception):
    """A file cannot be fetched, or is not what it was."""


class Interrupted(Exception):
    """Worth another attempt."""


class Restart(Interrupted):
    """Worth another attempt, from the beginning."""


@dataclass(frozen=True)
class Answer:
    """What the headers of an answer say, checked.

    Attributes:
        start: where in the file its body begins.
        total: length of the file; None if the server does not say it, but marks its end.
        validator: what tells this version of the file from others; empty if nothing does.
    """

    start: int
    total: int | None
    validator: str


class Deadline:
    """A moment after which nothing is waited for.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []

    @property
    def left(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(self._end - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise `Interrupted` when it has passed."""
        if not self.left:
            raise Interrupted(f"it did not come within {self.seconds:,.0f} seconds")

    @contextmanager
    def watch(self) -> Generator[None, None, None]:
        """Cut the connections that the block opens when the moment comes, however slowly they still trickle."""
        timer = threading.Timer(self.left, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._sockets.clear()

    def holds(self, connection: socket.socket) -> None:
        """Take note of a connection that was made."""
        self._sockets.append(connection)

    def _cut(self) -> None:
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def public(text: object) -> str:
    """Text without the names and passwords of addresses in it, those of the environment's proxies too."""
    shown = re.sub(r"//[^/\s@]*@", "//***@", str(text))
    for proxy in urllib.request.getproxies().values():
        user, _, _ = proxy.rpartition("@")
        for secret in re.split(r"[/:]+", user)[1:]:
            if len(secret) > 2:
                shown = shown.replace(secret, "***").replace(urllib.parse.unquote(secret), "***")
    return shown


@contextmanager
def request(
    url: str, have: int, validator: str, timeout: float, deadline: Deadline
) -> Generator[tuple[Answer, Callable[[], bytes]], None, None]:
    """Ask for a file, or the rest of it; gives the checked headers, and a function that reads on until b"".

    Args:
        url: http or https.
        have: bytes that are here already; 0 for none.
        validator: of the version that they are of; not empty unless `have` is 0.
        timeout: seconds without an answer, or with almost none, that count as an interruption.
        deadline: of all.

    Raises:
        Interrupted: if the connection breaks, stalls, or the server is busy.
        DownloadError: if another attempt would bring nothing else.
    """
    headers = {"User-Agent": "unitgain", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    shown = public(url)
    with deadline.watch():
        try:
            try:
                answer = _opener(deadline).open(urllib.request.Request(url, headers=headers), timeout=timeout)
            except (ValueError, http.client.InvalidURL) as error:  # their texts may hold passwords
                what = f"{shown}, or that of a proxy, is no address that can be asked"
                raise DownloadError(f"{what} ({type(error).__name__})") from None
            with answer:
                deadline.check()  # headers that were cut look whole
                found = _check(shown, answer, have, validator)
                yield found, _Body(answer, timeout, deadline).read
        except urllib.error.HTTPError as error:
            error.close()
            raise _refusal(shown, error) from None
        except urllib.error.URLError as error:
            raise Interrupted(f"no connection ({public(error.reason)})") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:  # before the answer
            raise Interrupted(f"the connection broke ({type(error).__name__})") from None


class _Body:
    """What is left of an answer; reading it does not wait for more than what has come."""

    def __init__(self, answer: Any, timeout: float, deadline: Deadline) -> None:
        self._answer, self._timeout, self._deadline = answer, timeout, deadline
        self._since, self._bytes = time.monotonic(), 0

    def read(self) -> bytes:
        try:
            chunk = self._answer.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(f"the connection broke ({type(error).__name__})") from None
        self._deadline.check()
        self._bytes += len(chunk)
        seconds = time.monotonic() - self._since
        if chunk and seconds > self._timeout:
            if self._bytes < SLOWEST * seconds:
                raise Interrupted(f"only {self._bytes:,} bytes came in {seconds:.0f} seconds")
            self._since, self._bytes = time.monotonic(), 0
        return chunk


def _refusal(shown: str, error: urllib.error.HTTPError) -> Exception:
    said = f"the server answers {error.code} {str(error.reason)[:80]!a}"
    if error.code == 416:  # more is here than there
        return Restart("the server has another file than before")
    if error.code in TRANSIENT:
        return Interrupted(said)
    remedy = "the file is not there any more, or was never public" if error.code in (404, 410) else "it is refused"
    return DownloadError(f"{shown}: {said}: {remedy}")


def _check(shown: str, answer: Any, have: int, validator: str) -> Answer:
    """What an answer says of its body, if that is what was asked for."""
    headers = answer.headers
    if answer.status not in ((200, 206) if have else (200,)):
        raise DownloadError(f"{shown}: the server answers {answer.status} {answer.reason!a} instead of the file")
    coding, transfer = (
        ", ".join(headers.get_all(name) or []).strip().lower() for name in ("Content-Encoding", "Transfer-Encoding")
    )
    if coding not in ("", "identity") or transfer not in ("", "chunked"):
        raise DownloadError(
            f"{shown}: the server sends the file encoded ({(coding or transfer)[:40]!a}), though it was asked for it "
            "as it is: a proxy on the way may do that"
        )
    length = _length(shown, headers.get_all("Content-Length") or [], chunked=transfer == "chunked")
    tag = headers.get("ETag", "")
    if answer.status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        start, end, total = map(int, match.groups()) if match else (0, 0, 0)
        if start != have or end != total - 1 or length not in (None, total - have):
            raise Restart("the server answers with another part than was asked for")
        other = tag if validator.startswith('"') else headers.get("Last-Modified", validator)
        if other != validator:
            raise Restart("the server answers with a part of another file than before")
        return Answer(have, total, validator)
    strong = "" if tag.startswith("W/") else tag  # weak: two files are alike, not that their bytes are
    return Answer(0, length, valid(strong or ("" if tag else headers.get("Last-Modified", ""))))


def valid(validator: object) -> str:
    """A validator as servers give them, fit for a header; else an empty one."""
    return validator if isinstance(validator, str) and _VALIDATOR.fullmatch(validator) else ""


def _length(shown: str, given: list[str], *, chunked: bool) -> int | None:
    if chunked:
        return None
    if not given:
        raise DownloadError(
            f"{shown}: the server does not say how long the file is, so that nobody can tell whether it came whole"
        )
    if len(set(given)) > 1 or not re.fullmatch(r"\d{1,18}", given[0].strip(), re.ASCII):
        raise DownloadError(f"{shown}: the server gives the length of the file as {', '.join(given)[:80]!a}")
    return int(given[0])


class _Http(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(_made, http.client.HTTPConnection, self.deadline), req)  # type: ignore[arg-type]

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(_made, http.client.HTTPSConnection, self.deadline), req)  # type: ignore[arg-type]


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # its body is of no use, and may have no end
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme != "https"):
            raise DownloadError(
                f"{public(req.full_url)} leads from {req.type} to {scheme[:20]!a}: it is not followed, because what "
                "comes from there could be anybody's"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _made(kind: Callable[..., Any], deadline: Deadline, host: str, **options: Any) -> Any:
    connection = kind(host, **options)
    connect = connection.connect

    def noted() -> None:
        connect()
        deadline.holds(connection.sock)

    connection.connect = noted
    return connection


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    # A new one each time: it reads the environment's proxies when it is made. Nothing that opens files, FTP or data.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirect(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
