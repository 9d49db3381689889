"""A client that means harm, on a socket of its own: the page answers others all the while, and ends when it is told."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from tests.trainer.conftest import Trained
from tests.trainer.serving.conftest import Client, jpeg, served
from trainer.serving import app, server
from trainer.serving.server import address, listen

ROOT = Path(__file__).resolve().parents[3]


def raw(client: Client, *parts: bytes) -> bytes:
    """What comes back for these bytes until the page hangs up, or has nothing to say for a while."""
    with socket.create_connection((client.host, client.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        try:
            while block := connection.recv(65536):
                answer += block
                if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                    break
        except ConnectionResetError:
            pass
        return answer


def head(client: Client, *lines: str, method: str = "POST", target: str = "/grade?name=x.jpg") -> bytes:
    own = f"{client.host}:{client.port}"
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", f"Host: {own}", f"Origin: http://{own}", *lines, "", ""]
    ).encode()


@pytest.fixture
def still_fine(client: Client, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert client.post("grade", "after.jpg", jpeg()).status == 200
    assert capfd.readouterr() == ("", "")  # nobody can fill the terminal of whoever serves the page


@pytest.mark.usefixtures("still_fine")
def test_a_body_without_end_and_without_length_is_refused(client: Client) -> None:
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    assert raw(client, head(client, "Transfer-Encoding: chunked") + chunk[:100]).startswith(b"HTTP/1.1 411")
    with socket.create_connection((client.host, client.port), timeout=20) as connection:
        connection.sendall(head(client, "Transfer-Encoding: chunked"))
        sent = 0
        with suppress(ConnectionError):  # it hangs up, however much may still come
            while sent < 10_000:
                connection.sendall(chunk)
                sent += 1
    assert sent < 10_000


@pytest.mark.usefixtures("still_fine")
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Transfer-Encoding: chunked"], b"4"),  # and what follows is no chunk
        (["Content-Length: 99999999999999999999"], b"413"),
        (["Content-Length: 137438953472"], b"413"),
        (["Content-Length: -1"], b"400"),
        (["Content-Length: 1e3"], b"400"),
        (["Content-Length: 4", "Content-Length: 5"], b"400"),
        (["Content-Length: 4", "Transfer-Encoding: chunked", "", "0", "", ""], b"411"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"400"),
        (["Transfer-Encoding: xchunked", "Content-Length: 4"], b"400"),
        (["Content-Length : 4"], b"400"),
        (["Host: evil.example"], b"400"),
        (["X: " + "a" * 100_000], b"4"),
        (["Upgrade: websocket", "Connection: Upgrade", "Content-Length: 4"], b"4"),
    ],
)
def test_a_request_that_lies_about_its_length_is_refused_before_its_body(
    client: Client, lines: list[str], status: bytes
) -> None:
    answer = raw(client, head(client, *lines) + b"GET / HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]
    assert b"HTTP/1.1 200" not in answer


@pytest.mark.usefixtures("still_fine")
@pytest.mark.parametrize(
    "target",
    ["/static/../../pyproject.toml", "/..%2f..%2fetc/passwd", "/lightbox.js/../../__init__.py", "//etc/passwd",
     "/%00", "/lightbox.js%00.html", "/server.py", "/..\\..\\x"],
)  # fmt: skip
def test_no_path_leads_to_a_file(client: Client, target: str) -> None:
    assert raw(client, head(client, method="GET", target=target)).startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))


@pytest.mark.usefixtures("still_fine")
@pytest.mark.parametrize("junk", [b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0\x01", b"GET /\r\n\r\n"])
def test_what_is_no_http_is_hung_up_on(client: Client, junk: bytes) -> None:
    assert not raw(client, junk).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("still_fine")
def test_clients_that_take_their_time_are_hung_up_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the header, between two requests, and with the body; others are answered meanwhile."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(app, "ARRIVAL_SECONDS", 0.3)
    length = "Content-Length: 1000"
    beginnings = {
        b"": b"",
        b"GET / HT": b"",
        head(client, length)[:-2]: b"",
        head(client, length) + b"\xff\xd8": b"HTTP/1.1 408",
    }
    with ExitStack() as stack:

        def connect(beginning: bytes) -> socket.socket:
            connection = socket.create_connection((client.host, client.port), timeout=20)
            stack.enter_context(connection).sendall(beginning)
            return connection

        def rest(connection: socket.socket) -> bytes:
            """Ends where the page hangs up."""
            answer = b""
            while block := connection.recv(65536):
                answer += block
            return answer

        slow = [connect(beginning) for beginning in beginnings]
        second = connect(head(client, method="GET", target="/nothing"))
        assert second.recv(65536).startswith(b"HTTP/1.1 404")
        second.sendall(b"POST /gra")
        assert client.get().status == 200
        for connection, expected in zip(slow, beginnings.values(), strict=True):
            answer = rest(connection)
            assert answer.startswith(expected)
            assert bool(answer) == bool(expected)
        assert b"HTTP/1.1" not in rest(second)


@pytest.mark.usefixtures("still_fine")
def test_clients_that_leave_in_the_middle_are_forgotten(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places are free again: there are fewer than they are."""
    monkeypatch.setattr(app, "MOST_WAITING", 3)
    for _ in range(10):
        with socket.create_connection((client.host, client.port), timeout=20) as connection:
            connection.sendall(head(client, "Content-Length: 100000") + b"\xff\xd8\xff")
            time.sleep(0.02)
    deadline = time.monotonic() + 20
    while client.post("grade", "x.jpg", jpeg()).status != 200:
        assert time.monotonic() < deadline


def test_a_port_that_is_taken(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OutputError, match=f"port {port} of 127.0.0.1 cannot be used .*; choose another --port"):
            listen(None, port)
        monkeypatch.setattr(server, "PORT", port)
        taken, free = listen(None, None)
        with taken:
            assert free not in (0, port)
            assert taken.getsockname() == ("127.0.0.1", free)
    with pytest.raises(
        OutputError, match=r"port 8000 of nowhere\.invalid cannot be used .*; choose another --host or --port"
    ):
        listen("nowhere.invalid", 8000)


@pytest.mark.parametrize(
    ("host", "token", "url"),
    [
        (None, None, "http://127.0.0.1:80/"),
        ("10.0.0.1", "abc", "http://10.0.0.1:80/?token=abc"),
        ("::1", "abc", "http://[::1]:80/?token=abc"),
        ("0.0.0.0", "abc", f"http://{socket.gethostname()}:80/?token=abc"),
    ],
)
def test_the_address_that_is_printed(host: str | None, token: str | None, url: str) -> None:
    assert address(host, 80, token) == url


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_ends_it_in_the_middle_of_a_photograph(trained: Trained, tmp_path: Path) -> None:
    """The network of this process takes ten minutes for one; that it ends at all shows that nobody waits for it."""
    script = (
        "import sys, time\n"
        "from trainer.serving.lightbox import Lightbox\n"
        "Lightbox.grade = lambda *_: (print('at work', flush=True), time.sleep(600))\n"
        "from trainer.__main__ import run\n"
        "run()\n"
    )
    command = [sys.executable, "-c", script, "serve", str(trained.run), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout
            client = Client(process.stdout.readline().split()[1])
            assert process.stdout.readline() == "Ctrl-C ends it\n"
            with socket.create_connection((client.host, client.port)) as connection:
                connection.sendall(head(client, "Content-Length: 2") + b"\xff\xd8")
                assert process.stdout.readline() == "at work\n"
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            assert process.communicate() == ("", "")
        finally:
            process.kill()


def test_two_pages_at_once(trained: Trained, client: Client) -> None:
    with served(trained.run) as other:
        assert other.port != client.port
        assert [each.post("grade", "x.jpg", jpeg()).status for each in (client, other)] == [200, 200]
