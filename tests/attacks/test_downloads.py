"""Servers that do not send what they were asked for: nothing of it is kept, and nothing is waited for without end."""

import contextlib
import io
import json
import os
import socket
import threading
import time

import pytest

from unitgain import transfer
from unitgain.download import download
from unitgain.kinds import PICKLE, ZIP
from unitgain.metrics.weights import fetch
from unitgain.transfer import DownloadError

BODY = b"\x80\x04" + bytes(range(250)) * 40
OK = b"HTTP/1.1 200 OK\r\n"
TAG = b'ETag: "one"\r\n'


def length(body):
    return b"Content-Length: %d\r\n" % len(body)


GOOD = OK + TAG + length(BODY) + b"\r\n" + BODY
HALF = OK + TAG + length(BODY) + b"\r\n" + BODY[:5000]  # and the connection ends


def rest(line=b"HTTP/1.1 206 Partial Content\r\n", tag=TAG, span=None, body=BODY[5000:], more=b""):
    span = b"Content-Range: bytes 5000-%d/%d\r\n" % (len(BODY) - 1, len(BODY)) if span is None else span
    return line + tag + span + more + length(body) + b"\r\n" + body


class Raw:
    """Sends the given bytes, one answer per connection; a function writes to the socket itself."""

    def __init__(self, *answers):
        self.answers, self.asked, self.stop = list(answers), [], threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/file.pkl"
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def serve(self):
        while self.answers:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(65536).decode())
                answer = self.answers.pop(0)
                with contextlib.suppress(OSError):
                    answer(connection) if callable(answer) else connection.sendall(answer)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)

    def forever(self, first, piece, pause=0.0):
        """An answer without an end."""

        def send(connection):
            connection.sendall(first)
            while not self.stop.wait(pause) if pause else not self.stop.is_set():
                connection.sendall(piece)

        return send


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def get(server, path, **options):
    return download(server.url, path, **{"pause": 0.01, "timeout": 2, "attempts": 3, "kind": PICKLE, **options})


PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
        (b"HTTP/1.1 203 Changed\r\n" + length(BODY) + b"\r\n" + BODY, "203"),
        (rest(), "206"),  # nobody asked for a part
        (OK + b"Content-Length: 0\r\n\r\n", "empty file"),
        (OK + length(PAGE) + b"\r\n" + PAGE, "not a pickle: it is an HTML page"),
        (OK + length(POINTER) + b"\r\n" + POINTER, "pointer of Git LFS"),
        (OK + b"Content-Encoding: gzip\r\n" + length(BODY) + b"\r\n" + BODY, "encoded.*gzip"),
        (OK + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n" + length(BODY) + b"\r\n" + BODY, "encoded"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BODY, "encoded.*gzip, chunked"),
        (OK + b"\r\n" + BODY, "how long the file is"),
        (OK + b"Content-Length: -1\r\n\r\n" + BODY, "length of the file as '-1'"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY, "'5, 6'"),
        (OK + b"Content-Length: 99999999999999\r\n\r\n" + BODY, "over the limit"),
        (OK + length(BODY[:9]) + b"\r\nPK\x03\x04-----", "it is a zip archive"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "leads from http to 'ftp'"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "302"),
        (b"HTTP/1.1 302 Found\r\nLocation: data:,x\r\n\r\n", "302"),
    ],
)
def test_answers_that_are_not_the_file(tmp_path, answer, words):
    with Raw(answer) as server, pytest.raises(DownloadError, match=words):
        get(server, tmp_path / "file.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (rest(), False),
        (rest(tag=b""), True),  # must be there, if it was there before
        (rest(tag=b'ETag: "two"\r\n'), True),
        (rest(span=b""), True),
        (rest(span=b"Content-Range: bytes 4999-10001/10002\r\n"), True),
        (rest(span=b"Content-Range: bytes 5000-10000/10002\r\n"), True),
        (rest(span=b"Content-Range: bytes 5000-10001/*\r\n"), True),
        (rest(span=b"Content-Range: bytes 5000-10001/10002, 0-5\r\n"), True),
        (rest(body=BODY[5001:]), True),
        (b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
def test_parts_that_do_not_fit(tmp_path, answer, again):
    """The rest of a file is taken if it is of the same file and the part that was asked for; else all of it again."""
    with Raw(HALF, answer, GOOD) as server:
        get(server, tmp_path / "file.pkl")
        assert "Range: bytes=5000-" in server.asked[1] and 'If-Range: "one"' in server.asked[1]
        assert len(server.asked) == (3 if again else 2)
        assert not again or "Range" not in server.asked[2]
    assert (tmp_path / "file.pkl").read_bytes() == BODY


@pytest.mark.parametrize("answer", [rest(more=b"Content-Encoding: gzip\r\n"), rest(b"HTTP/1.1 207 Multi\r\n")])
def test_parts_that_are_refused_take_what_was_there_with_them(tmp_path, answer):
    with Raw(HALF, answer) as server, pytest.raises(DownloadError, match=r"gzip|207"):
        get(server, tmp_path / "file.pkl")
    assert not list(tmp_path.iterdir())


def test_what_has_no_end(tmp_path):
    path, chunk = tmp_path / "file.pkl", b"10000\r\n" + BODY[:2] * 2**15 + b"\r\n"
    server = Raw()
    server.answers = [server.forever(OK + b"Transfer-Encoding: chunked\r\n\r\n", chunk)]
    with server, pytest.raises(DownloadError, match="over the limit of 300,000"):
        get(server, path, largest=300_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [OK + TAG + length(BODY) + b"\r\n\x80\x04", OK + b"X: ", b"HTTP/1.1 100 C\r\n\r\n"])
def test_what_trickles(tmp_path, first):
    """A byte now and then keeps a socket awake: in the body, in a header, before either."""
    server = Raw()
    piece = b"HTTP/1.1 100 C\r\n\r\n" if first.startswith(b"HTTP/1.1 100") else b"."
    send = server.forever(first, piece, pause=0.05)
    server.answers = [send, send, send]
    began = time.monotonic()
    with server, pytest.raises(DownloadError, match="did not come within 1 seconds"):
        get(server, tmp_path / "file.pkl", timeout=30, longest=1.0)
    assert time.monotonic() - began < 5
    partial = tmp_path / ".file.pkl.part"
    assert not partial.exists() or partial.read_bytes().startswith(b"\x80\x04.")


def test_what_stalls_is_begun_again(tmp_path):
    server = Raw()

    def trickle(connection):
        connection.sendall(OK + TAG + length(BODY) + b"\r\n" + BODY[:100])
        for byte in BODY[100:]:
            if server.stop.wait(0.05):
                return
            connection.sendall(bytes([byte]))

    server.answers = [trickle, GOOD]
    with server:
        get(server, tmp_path / "file.pkl", timeout=0.3)
        assert len(server.asked) == 2
    assert (tmp_path / "file.pkl").read_bytes() == BODY


def test_a_redirect_without_an_end_is_not_read(tmp_path):
    server = Raw()
    first = b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"
    server.answers = [server.forever(first, b"x" * 65536), GOOD]
    with server:
        get(server, tmp_path / "file.pkl", longest=20)
    assert (tmp_path / "file.pkl").read_bytes() == BODY


def test_https_stays_https():
    request = transfer.urllib.request.Request("https://a/file.pkl")
    redirect, body = transfer._Redirect(), io.BytesIO()
    for address in ("http://a/file.pkl", "ftp://a/", "file:///etc/passwd"):
        with pytest.raises(DownloadError, match="leads from https to"):
            redirect.redirect_request(request, body, 302, "", {}, address)
    assert redirect.redirect_request(request, body, 302, "", {}, "https://b/x").full_url == "https://b/x"


@pytest.mark.parametrize("how", ["link", "hard link", "pipe"])
def test_partial_files_that_are_something_else(tmp_path, how):
    victim, partial = tmp_path / "victim", tmp_path / "cache" / ".file.pkl.part"
    partial.parent.mkdir()
    victim.write_text("mine")
    {"link": partial.symlink_to, "hard link": partial.hardlink_to, "pipe": lambda _: os.mkfifo(partial)}[how](victim)
    with Raw(GOOD) as server, pytest.raises(DownloadError, match=r"is a link|no ordinary file"):
        get(server, tmp_path / "cache" / "file.pkl")
    assert victim.read_text() == "mine" and os.path.lexists(partial)


@pytest.mark.parametrize(
    "note",
    [
        {"validator": '"one"\r\nX-Evil: 1'},
        {"validator": 7},
        {"validator": '"' + "a" * 1000},
        {"validator": "\u2028"},
        {"url": None},
        [],
        None,
    ],
)
def test_hostile_notes_beside_a_part(tmp_path, note):
    path = tmp_path / "file.pkl"
    with Raw(GOOD) as server:
        note = {"url": server.url, **note} if isinstance(note, dict) else note
        (tmp_path / ".file.pkl.part").write_bytes(b"x" * 5000)
        (tmp_path / ".file.pkl.part.json").write_text(json.dumps(note) if note is not None else "[" * 100_000)
        get(server, path)
        assert "Range" not in server.asked[0] and "Evil" not in server.asked[0]
    assert path.read_bytes() == BODY


def test_a_part_of_something_else_is_found_out(tmp_path):
    """A note may lie about what is there; the first bytes tell, and what is whole is checked before it has its name."""
    path = tmp_path / "file.pkl"
    (tmp_path / ".file.pkl.part").write_bytes(b"x" * 5000)
    with Raw(rest()) as server:
        (tmp_path / ".file.pkl.part.json").write_text(json.dumps({"url": server.url, "validator": '"one"'}))
        with pytest.raises(DownloadError, match="not a pickle: it is text"):
            get(server, path)
    assert not list(tmp_path.iterdir())
    os.mkfifo(tmp_path / ".file.pkl.part.json")
    with Raw(GOOD) as server:
        get(server, path)
    for record in ('{"url": 1, "size": 2, "sha256": []}', "[" * 100_000, '{"x": 1}', "7"):
        (tmp_path / "file.pkl.json").write_text(record)
        with pytest.raises(DownloadError, match="is damaged"):
            download("http://x/", path)


def test_what_is_not_accepted_is_not_kept(tmp_path):
    def refuse(path):
        assert path.read_bytes() == BODY
        raise ValueError("no")

    with Raw(GOOD) as server, pytest.raises(ValueError, match="no"):
        get(server, tmp_path / "file.pkl", accept=refuse)
    assert not list(tmp_path.iterdir())


def test_detectors_are_torchscript(tmp_path, monkeypatch):
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path))
    zipped = b"PK\x03\x04" + bytes(100)
    for body, words in ((PAGE, "not a zip archive: it is an HTML page"), (zipped, "no whole zip archive")):
        with Raw(OK + length(body) + b"\r\n" + body) as server, pytest.raises(DownloadError, match=words):
            fetch(server.url)
        assert not list(tmp_path.iterdir())
    assert ZIP.fits(zipped)


def test_passwords_are_not_shown(tmp_path, monkeypatch):
    path = tmp_path / "file.pkl"
    for proxy in (
        "http://jane:hunter2@127.0.0.1:9",
        "http://jane:hunter2@127.0.0.1:bad",
        "http://jane:hun/hunter2@127.0.0.1",
        "socks5://jane:hunter2@127.0.0.1:9",
        "http://jane:hunter2@[127",
    ):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(DownloadError) as error:
            download("http://nowhere.invalid/x", path, attempts=1, timeout=1)
        assert "hunter2" not in str(error.value), proxy
    monkeypatch.delenv("http_proxy")
    for url in ("http://jane:hunter2@127.0.0.1:9/x", "ftp://jane:hunter2@a/x", "http://jane:hunter2@a:b/x"):
        with pytest.raises(DownloadError) as error:
            download(url, path, attempts=1, timeout=1)
        assert "hunter2" not in str(error.value), url
    for url in ("http://\x00/", "http://[/x", "http:///x", "http://\ud800/", "http://a b/", "http://" + "a" * 70000):
        with pytest.raises(DownloadError):
            download(url, path, attempts=1, timeout=1)
