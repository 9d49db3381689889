"""Only the page's own script is answered: not another site's, not another name's, and from elsewhere not without the
token."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.trainer.conftest import Trained
from tests.trainer.serving.conftest import Client, jpeg, served
from trainer.serving.guard import HEADERS


@pytest.fixture(scope="module")
def open_client(trained: Trained) -> Iterator[Client]:
    """Of a page with --host."""
    with served(trained.run, host="127.0.0.1") as client:
        yield client


def test_every_answer_carries_the_headers(client: Client) -> None:
    answers = [
        *(
            client.get(path)
            for path in ("/", "/lightbox.js", "/lightbox.css", "/nothing", "/grade", "/static/../../etc")
        ),
        client.post("grade", "x.jpg", b""),
        client.ask("DELETE", "/"),
        client.get(Host="evil.example"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 404, 405, 404, 422, 405, 421]
    for answer in answers:
        assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    policy = dict(each.split(" ", 1) for each in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


def test_the_page_has_no_script_and_no_style_of_its_own(client: Client) -> None:
    text = client.get().body.decode()
    assert text.count("<script") == 1
    assert '<script type="module" src="lightbox.js"></script>' in text
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)  # onclick= and the like
    assert not re.findall(r"(?:src|href)=\"(?!lightbox\.|data:,)", text)
    script = client.get("/lightbox.js").body.decode()
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("))
    assert "http" not in script


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", "localhost:a", "",
     "0.0.0.0", "192.168.1.2", "127.0.0.1/", "[::1", "localhost evil.example"],
)  # fmt: skip
def test_another_name_is_refused_as_dns_rebinding_would_bring_it(client: Client, host: str) -> None:
    answer = client.post("grade", "x.jpg", jpeg(), Host=host, Origin=f"http://{host}")
    assert answer.status in (421, 400)  # 400: no header that HTTP allows
    assert b"probabilities" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:9000", "localhost:8000"])
def test_its_own_names_are_taken_whatever_the_port(client: Client, host: str) -> None:
    """`ssh -L 9000:localhost:8000` changes it."""
    assert client.get(Host=host).status == 200
    assert client.post("grade", "x.jpg", jpeg(), Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://localhost:{port}", "http://127.0.0.1", "http://127.0.0.1:1", None],
)
def test_another_sites_page_cannot_post(client: Client, origin: str | None) -> None:
    if origin is None:  # no browser leaves it out
        answer = client.ask("POST", "/grade?name=x.jpg", jpeg())
    else:
        answer = client.post("grade", "x.jpg", jpeg(), Origin=origin.format(port=client.port))
    assert (answer.status, answer.body) == (403, b"asked by another page than this one\n")


def test_a_page_open_to_others_wants_the_token_once(open_client: Client) -> None:
    assert "?token=" in open_client.url
    token = open_client.query.removeprefix("token=")
    assert len(token) >= 40
    for path in ("/", "/lightbox.js", f"/?token={token[:-1]}", "/?token=", f"/lightbox.js?token={token}"):
        refused = open_client.get(path)
        assert (refused.status, b"with its token" in refused.body) == (403, True), path
    assert open_client.post("grade", "x.jpg", jpeg()).status == 403
    assert open_client.ask("POST", f"/?token={token}", b"", Origin=f"http://127.0.0.1:{open_client.port}").status == 403

    entered = open_client.get(f"/?token={token}")
    assert (entered.status, entered.headers["location"]) == (303, "/")
    cookie, *attributes = entered.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert token not in cookie
    assert open_client.get(Cookie=cookie).status == 200
    assert open_client.post("grade", "x.jpg", jpeg(), Cookie=f"other=1; {cookie}").status == 200
    for wrong in (cookie[:-1], f"{cookie}x", f"{cookie.partition('=')[0]}={token}", "=;;=", "\xff"):
        assert open_client.get(Cookie=wrong).status == 403


def test_a_page_open_to_others_goes_by_numbers_and_by_this_machines_name(open_client: Client) -> None:
    for host in ("192.168.1.2:8000", "[fe80::1]:8000", socket.gethostname()):
        assert open_client.get(Host=host).status == 403  # but for the token
    assert open_client.get(Host="evil.example").status == 421


def test_on_loopback_no_token_is_needed(client: Client) -> None:
    assert client.query == ""
    assert "set-cookie" not in client.get().headers
