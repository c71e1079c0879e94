"""A server of files on this machine, which can be told to answer wrongly."""

import http.server
import threading

import pytest

BODY = bytes(range(256)) * 2000


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `faults` are done to the next answers, one each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.tag = {"/file.pkl": BODY}, [], [], '"one"'
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        fault = server.faults.pop(0) if server.faults else None
        wanted, server.asked = self.headers.get("Range"), [*server.asked, self.headers.get("Range")]
        body = server.files.get(self.path)
        if isinstance(fault, int) or body is None:
            self.send_error(fault or 404)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == server.tag and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            shift = 1 if fault == "wrong range" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        if fault in ("chunked", "cut chunked"):  # a length that is not said beforehand, and an end that is
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(rest), rest) + (b"0\r\n\r\n" if fault == "chunked" else b""))
            return
        if fault != "no length":
            self.send_header("Content-Length", str(len(rest) + (10**15 if fault == "huge" else 0)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if fault == "cut" else rest)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
