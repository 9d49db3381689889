"""A real S3 server on this machine (moto's), and bad weather on the way to it. For benchmarks and tests.

What moto cannot show: S3's own limits on parts and requests, its throttling, its pace, keys that are encrypted, and any
delay until a listing or an object is up to date (AWS has had none since 2020, others may). Bad weather is ours:
latency, connections that break, 503s, bodies cut short.
"""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Trouble = Literal["drop", "503", "truncate", "cut"]
"""The connection ends without an answer; SlowDown; half of the answer's body comes; half of the request's goes on."""

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SECRET = "wJalrXUtnFEMIfictitiousKEYofNobody"


class Weather(ThreadingHTTPServer):
    """Passes requests on to a server, `latency` seconds late, and with whatever trouble `trouble` names for them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.upstream = upstream
        self.latency = 0.0
        self.trouble: Callable[[str, str], Trouble | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        """(method, path with query) of all since it was last cleared."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def clear(self) -> None:
        """Fine again, and forgetful."""
        self.latency = 0.0
        self.trouble = lambda method, path: None
        self.requests.clear()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is its own affair."""


class Passage(BaseHTTPRequestHandler):
    server: Weather
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def relay(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        self.server.requests.append((self.command, self.path))
        time.sleep(self.server.latency)
        trouble = self.server.trouble(self.command, self.path)
        if trouble == "cut":
            self.send_half(body)
        if trouble in ("drop", "cut"):
            self.close_connection = True
            return
        if trouble == "503":
            self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        theirs = ("transfer-encoding", "expect")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in theirs}
        upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        self.answer(response.status, response.getheaders(), data, half=trouble == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        ours = ("content-length", "transfer-encoding", "connection", "date", "server")
        no_body = self.command == "HEAD"
        length = dict(headers).get("Content-Length") if no_body else str(len(data))
        for name, value in [(name, value) for name, value in headers if name.lower() not in ours]:
            self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(b"" if no_body else data[: len(data) // 2] if half else data)
        if half:
            self.close_connection = True

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_half(self, body: bytes) -> None:
        head = f"{self.command} {self.path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in self.headers.items() if name.lower() != "expect"
        )
        with socket.create_connection(("127.0.0.1", self.server.upstream), timeout=5) as upstream:
            upstream.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])

    def log_message(self, *_: object) -> None:
        """Nothing: what was asked for is in `requests`."""


@contextmanager
def s3_server(bucket: str) -> Iterator[Weather]:
    """The way to a server with a bucket. The environment says how to get there, as it would for AWS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    weather = Weather(port)
    variables = {
        "AWS_ENDPOINT_URL": weather.url,
        "AWS_ACCESS_KEY_ID": "AKIAFICTITIOUS7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("PUT", f"/{bucket}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=x/s3/"})
                assert connection.getresponse().status == 200
                connection.close()
                break
            except ConnectionError:
                assert server.poll() is None, "the S3 server ended"
                assert time.monotonic() < until, "the S3 server does not answer"
                time.sleep(0.1)
        yield weather
    finally:
        weather.shutdown()
        weather.server_close()
        server.terminate()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
