"""The page of the explorer on a port of this machine: the standard library's server, and files of this package.

No framework, for what is asked of it is little: no file from elsewhere, and a change that ends the drawing under way,
which here is a connection that closes. Gradio 6 wants Pillow below 13, and has
parts that name other servers.

Nobody else is let in: it listens on 127.0.0.1, or asks for a token elsewhere; what is asked must come from the page
itself, by the names of this machine that the browser was sent to, so that no other page can ask in a browser's name.
"""

import hmac
import http.server
import json
import secrets
import select
import socket
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from unitgain.checkpoint.facts import SnapshotError
from unitgain.explore.answers import Answers, Line
from unitgain.explore.jobs import Abandoned
from unitgain.hub import HubError
from unitgain.text import printable
from unitgain.train.errors import TrainingError
from unitgain.trust import parse_json

LOCAL = ("127.0.0.1", "localhost", "::1")
PORT = 7860
MOST_BODY = 2**16  # bytes of a question
MOST_STREAMS = 16  # answers that take their time, at once
COOKIE = "unitgain-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SCRIPTS = ("ask", "compare", "controls", "explore", "measure", "state", "take", "understand")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/explore.css": ("explore.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}
KNOWN = (
    ValueError,
    OSError,
    ImportError,
    SnapshotError,
    TrainingError,
    HubError,
)  # what is wrong is the user's to mend


class Server(http.server.ThreadingHTTPServer):
    """The page of a session.

    Args:
        answers: what it asks.
        host: address to listen on.
        port: 0 for any that is free.
        token: that whoever asks must know; None for none, on an address of this machine alone.

    Raises:
        ValueError: if others could reach it without a token.
        OSError: if the port is in use.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers: Answers, host: str = LOCAL[0], port: int = PORT, token: str | None = None) -> None:
        if host not in LOCAL and not token:
            raise ValueError(f"{host} can be reached by others: it needs a token (--token), or stay on {LOCAL[0]}")
        self.answers, self.token = answers, token
        self.streams = threading.BoundedSemaphore(MOST_STREAMS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            why = f"port {port} of {host} is in use or not to be had ({error.strerror}): choose another (--port)"
            raise OSError(error.errno, why) from error
        self.host, self.port = host, int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where the page is, with the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = "" if self.token is None else f"?token={urllib.parse.quote(self.token)}"
        return f"http://{host}:{self.port}/{query}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that go away."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = 30.0
    server_version, sys_version = "unitgain", ""

    def do_GET(self) -> None:
        """Files, and questions without anything to say."""
        path = urllib.parse.urlsplit(self.path)
        if not self._may(path):
            return
        if path.path in FILES:
            self._file(path)
            return
        answers = self.server.answers
        questions: dict[str, Callable[[], Line]] = {
            "/api/about": answers.about,
            "/api/live": answers.live,
            "/api/cells": answers.cells,
            "/api/history": answers.history,
        }
        if path.path in questions:
            self._answer(questions[path.path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing of this name")

    def do_POST(self) -> None:
        """Questions about a view."""
        path = urllib.parse.urlsplit(self.path)
        if not self._may(path):
            return
        answers = self.server.answers
        questions: dict[str, Callable[[Any], None]] = {
            "/api/errors": partial(self._answer, answers.errors),
            "/api/take": partial(self._answer, answers.take),
            "/api/profile": partial(self._answer, answers.profile),
            "/api/draw": partial(self._stream, answers.draw),
            "/api/path": partial(self._stream, answers.path),
            "/api/measure": partial(self._stream, answers.measure),
            "/api/grid.png": partial(self._made, answers.grid, "image/png"),
            "/api/path.gif": partial(self._made, answers.gif, "image/gif"),
            "/api/card.zip": partial(self._made, answers.card, "application/zip"),
            "/api/snapshot": partial(self._made, answers.snapshot, "application/octet-stream"),
        }
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "questions are JSON")
            return
        try:
            data = self._body()
        except ValueError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        if path.path in questions:
            questions[path.path](data)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing of this name")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _may(self, path: urllib.parse.SplitResult) -> bool:
        """Whether to answer at all; says why not."""
        server = self.server
        own = {f"{name}:{server.port}" for name in (*LOCAL, "[::1]", server.host)}
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if server.token is None and host not in own:
            self._refuse(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
            return False
        if origin is not None and origin.partition("://")[2] != host:
            self._refuse(HTTPStatus.FORBIDDEN, "another page may not ask")
            return False
        if server.token is None:
            return True
        given = urllib.parse.parse_qs(path.query).get("token", [""])[0] or self._cookie()
        if not hmac.compare_digest(given.encode(), server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is missing or another one: open the address that was printed")
            return False
        return True

    def _cookie(self) -> str:
        parts = (part.strip().partition("=") for part in self.headers.get("Cookie", "").split(";"))
        found = next((value for name, _, value in parts if name == f"{COOKIE}-{self.server.port}"), "")
        return urllib.parse.unquote(found)

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        whole = length.isascii() and length.isdigit() and len(length) < 10
        if not whole or int(length) > MOST_BODY:
            if whole and int(length) < 10**6:
                self.rfile.read(int(length))  # so that the answer arrives
            raise ValueError(f"a question is of at most {MOST_BODY:,} bytes, and says how many")
        return parse_json(self.rfile.read(int(length)), "the question", unique=True)

    def _file(self, path: urllib.parse.SplitResult) -> None:
        name, kind = FILES[path.path]
        self._head(HTTPStatus.OK, kind, cookie=bool(path.query))
        self.wfile.write((Path(__file__).with_name("page") / name).read_bytes())

    def _answer(self, make: Callable[..., Line], *asked: Any) -> None:
        self._bytes(lambda: json.dumps(make(*asked), allow_nan=False).encode(), "application/json")

    def _bytes(self, make: Callable[[], bytes], kind: str) -> None:
        try:
            data = make()
        except Exception as error:
            self._refuse(*_said(error))
            return
        self._head(HTTPStatus.OK, kind)
        self.wfile.write(data)

    def _made(self, make: Callable[[Any], Generator[Any, None, bytes]], kind: str, data: Any) -> None:
        """A file that takes its time, unless the browser goes away before."""
        if not self._room():
            return
        steps = make(data)
        try:
            while not self._gone():
                next(steps)
        except StopIteration as end:
            made = end.value
            self._bytes(lambda: made, kind)
        except Exception as error:
            self._refuse(*_said(error))
        finally:
            steps.close()
            self.server.streams.release()

    def _room(self) -> bool:
        """Whether there is room for one more answer that takes its time; says so if there is none."""
        if self.server.streams.acquire(blocking=False):
            return True
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_STREAMS} drawings are under way: wait for one to end")
        return False

    def _stream(self, make: Callable[[Any], Iterator[Line | None]], data: Any) -> None:
        """Lines of JSON as they come, until there are no more or the browser goes away."""
        if not self._room():
            return
        lines: Any = iter(())
        try:
            self._head(HTTPStatus.OK, "application/x-ndjson")
            lines = make(data)
            for line in lines:
                if self._gone():
                    return
                if line is not None:
                    self._line(line)
        except (BrokenPipeError, ConnectionError, TimeoutError, Abandoned):
            return
        except Exception as error:
            status, why = _said(error)
            self._line({"kind": "error", "status": int(status), "message": why})
        finally:
            getattr(lines, "close", lambda: None)()
            self.server.streams.release()

    def _line(self, line: Line) -> None:
        self.wfile.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def _gone(self) -> bool:
        """Whether the browser has closed the connection."""
        ready, _, _ = select.select([self.connection], [], [], 0)
        return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._head(status, "application/json")
        self.wfile.write(json.dumps({"error": printable(why)[:4000]}).encode())

    def _head(self, status: HTTPStatus, kind: str, cookie: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if cookie and self.server.token is not None:
            value = urllib.parse.quote(self.server.token)
            name = f"{COOKIE}-{self.server.port}"
            self.send_header("Set-Cookie", f"{name}={value}; HttpOnly; SameSite=Strict; Path=/")
        self.end_headers()


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def _said(error: Exception) -> tuple[HTTPStatus, str]:
    """What went wrong, for the page."""
    if isinstance(error, KNOWN):
        return HTTPStatus.BAD_REQUEST, str(error)
    return HTTPStatus.INTERNAL_SERVER_ERROR, f"this was not expected: {type(error).__name__}: {error}"
