"""A page on loopback, answered by this process, and how to ask it."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.trainer.conftest import Trained

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from trainer.inference.predictor import Predictor
from trainer.serving.server import Page


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a page, with the Origin that its own script has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self.url, self.host, self.port, self.query = url, parts.hostname, parts.port, parts.query

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())
        finally:
            connection.close()

    def get(self, path: str = "/", **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def post(self, what: str, name: str, body: bytes, **headers: str) -> Answer:
        """`what` is "grade" or "explain"."""
        headers = {"Origin": f"http://{self.host}:{self.port}", **headers}
        return self.ask("POST", f"/{what}?name={quote(name, safe='')}", body, **headers)


@contextmanager
def served(run: Path, least: float = 0.0, host: str | None = None, port: int | None = 0) -> Iterator[Client]:
    page = Page(Predictor(run, "cpu", 1), run, least, host=host, port=port)
    thread = threading.Thread(target=page.run)
    thread.start()
    try:
        yield Client(page.url)
    finally:
        page.stop()
        thread.join()


@pytest.fixture(scope="session")
def client(trained: Trained) -> Iterator[Client]:
    """Of a page of the trained run, on loopback; nobody is left to a human for being unsure."""
    with served(trained.run) as client:
        yield client


def jpeg(seed: int = 0, side: int = 48, red: int = 0) -> bytes:
    """A photograph of noise, which has no disc."""
    picture = np.random.default_rng(seed).integers(0, 200, (side, side, 3), np.uint8)
    picture[..., 0] += np.uint8(red)
    data = BytesIO()
    Image.fromarray(picture).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="session")
def photograph() -> Callable[..., bytes]:
    return jpeg
