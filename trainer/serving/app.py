"""The web application: it sends the page, its script and style, and grades and explains photographs.

A photograph is the body of one request. It is held in memory until it is graded. Nothing is written to disk, and
nothing is kept for another request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import FundusError
from pipeline.grades import GRADES
from trainer.reporting.page import render
from trainer.serving.facts import Facts
from trainer.serving.lightbox import HEADER, Lightbox, out_of_memory

MOST_BYTES: Final = 128 << 20
"""Most bytes of one photograph. A fundus camera's JPEG has 2 to 10 million, a DICOM file of 40 million pixels 120."""
MOST_HELD: Final = 512 << 20
"""Most bytes of all photographs in memory at a time."""
MOST_WAITING: Final = 32
"""Most photographs in memory at a time. Each page sends two at a time."""
ARRIVAL_SECONDS: Final = 60
"""A photograph must arrive completely within this time."""
LONGEST_NAME: Final = 1000
"""Most characters of a photograph's name."""
MOST_SHOWN: Final = 2000
"""Most photographs on a page. Their pictures take 200 MB of the browser's memory."""
FILES: Final = {"lightbox.css": "text/css", "lightbox.js": "text/javascript"}

Work = Callable[[str, bytes], dict[str, Any]]


class Queue:
    """The photographs that wait for the network. One thread runs it, so the page can answer meanwhile. First come,
    first served; requests whose browser has gone are skipped."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._waiting = 0
        self._held = 0

    @asynccontextmanager
    async def reserve(self, nbytes: int) -> AsyncIterator[None]:
        """Reserves memory for one photograph. Raises HTTPException (503) if too many wait."""
        if self._waiting >= MOST_WAITING or self._held + nbytes > MOST_HELD:
            raise _unread(503, "too many photographs wait already; try again in a moment")
        self._waiting += 1
        self._held += nbytes
        try:
            yield
        finally:
            self._waiting -= 1
            self._held -= nbytes

    async def work(self, request: Request, work: Work, name: str, data: bytes) -> dict[str, Any]:
        """The result of `work`. Raises ClientDisconnect if the browser has gone, else what `work` raises."""
        async with self._turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, name, data)


def make_app(lightbox: Lightbox, facts: Facts) -> Starlette:
    """The ASGI application for some weights. It has no access control: wrap it in `Guard`."""
    here, queue = Path(__file__).parent, Queue()
    limits = {"most_bytes": MOST_BYTES, "most_shown": MOST_SHOWN}
    page = render("page.html.j2", {"facts": facts, "header": HEADER, "grades": GRADES, **limits}, here)
    routes = [Route("/", _constant(page, "text/html"))]
    routes += [Route(f"/{name}", _constant((here / name).read_bytes(), kind)) for name, kind in FILES.items()]
    for path, work in (("/grade", lightbox.grade), ("/explain", lightbox.explain)):
        routes.append(Route(path, _working(queue, work), methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _in_words})


def _constant(content: bytes, kind: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _working(queue: Queue, work: Work) -> Callable[[Request], Any]:
    """The endpoint that applies `work` to a photograph: the body of the request, named by `?name=`."""

    async def answer(request: Request) -> Response:
        name, nbytes = _name(request), _nbytes(request)
        async with queue.reserve(nbytes):
            try:
                return JSONResponse(await queue.work(request, work, name, await _body(request)))
            except FundusError as error:  # a PhotoError: refused
                return JSONResponse({"error": error.message}, 422)
            except ClientDisconnect:
                return Response(status_code=499)  # the browser has gone
            except Exception as error:
                if not out_of_memory(error):
                    raise
                return JSONResponse({"error": "too large for the memory of this machine"}, 422)

    return answer


def _name(request: Request) -> str:
    name = request.query_params.get("name", "").replace("\\", "/").lstrip("/")
    if not 0 < len(name) <= LONGEST_NAME:
        raise _unread(400, f"a photograph needs a name of 1 to {LONGEST_NAME} characters: ?name=17_left.jpeg")
    return name


def _nbytes(request: Request) -> int:
    """The length that the request states. The server enforces it, except for chunked bodies, which are refused."""
    said = request.headers.get("content-length")
    if said is None or "transfer-encoding" in request.headers:
        raise _unread(411, "the request does not say how long the photograph is")
    if int(said) > MOST_BYTES:
        raise _unread(413, f"{int(said):,} bytes, more than the {MOST_BYTES:,} allowed")
    return int(said)


async def _body(request: Request) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            async for chunk in request.stream():
                data += chunk
    except TimeoutError as error:
        raise _unread(408, f"did not arrive within {ARRIVAL_SECONDS} seconds") from error
    return bytes(data)


def _unread(status: int, words: str) -> HTTPException:
    """A refusal before the body is read, which therefore has to end the connection."""
    return HTTPException(status, words, {"Connection": "close"})


async def _in_words(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))
