"""The server: one address of this machine, time limits for slow clients, an immediate end at Ctrl-C."""

import asyncio
import errno
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import OutputError
from trainer.inference.predictor import Predictor
from trainer.serving.app import make_app
from trainer.serving.facts import collect_facts
from trainer.serving.guard import Guard
from trainer.serving.lightbox import Lightbox

PORT: Final = 8000
HEADER_SECONDS: Final = 10
"""In which a request's header has to arrive whole."""
MOST_CONNECTIONS: Final = 100


class Impatient(H11Protocol):
    """Hangs up on a client that takes its time with a request's header, for uvicorn waits for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # the header is there
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listen(host: str | None, port: int | None) -> tuple[socket.socket, int]:
    """A socket of this machine and its port; host None: loopback; port None: PORT, or where that is taken any free one.

    Raises OutputError where it cannot be had.
    """
    address = host or "127.0.0.1"
    try:
        family, _, _, _, place = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            taken = socket.create_server((place[0], PORT if port is None else port), family=family)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            taken = socket.create_server((place[0], 0), family=family)
    except (OSError, UnicodeError) as error:  # the latter of a name that is too long
        where = f"port {PORT if port is None else port} of {address[:100]}"
        why = (isinstance(error, OSError) and error.strerror) or error
        advice = "--port" if host is None else "--host or --port"
        raise OutputError(f"{where} cannot be used ({why}); choose another {advice}") from error
    return taken, int(taken.getsockname()[1])


class Page:
    """The page of some weights at an address of this machine, which is taken from the start and answers in `run`."""

    def __init__(self, predictor: Predictor, run: Path, least: float, *, host: str | None, port: int | None) -> None:
        """least: see `Lightbox`. host, port: see `listen`; with a host the page asks for a token.

        Raises OutputError where the address cannot be had, RunError where the run cannot be read.
        """
        facts = collect_facts(run, predictor.metadata)
        self._socket, self.port = listen(host, port)
        guard = Guard(make_app(Lightbox(predictor, least), facts), host, self.port)
        self.url: Final = address(host, self.port, guard.token)
        """With the token, where there is one."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                guard,
                http=Impatient,
                ws="none",
                lifespan="off",
                log_level="critical",  # or any client could fill the terminal; see Guard
                access_log=False,  # it would print the token
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=0,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )

    def run(self) -> None:
        """Answers until Ctrl-C or `stop`. A thread may still be at work on a photograph then."""
        with self._socket, suppress(KeyboardInterrupt):  # uvicorn raises the signal again, once it has ended
            self._server.run([self._socket])

    def stop(self) -> None:
        """Ends `run`; for another thread."""
        self._server.should_exit = True


def address(host: str | None, port: int, token: str | None) -> str:
    """The page's URL; of a page bound to every address of this machine, by the machine's name."""
    name = host or "127.0.0.1"
    if name in ("0.0.0.0", "::"):
        name = socket.gethostname()
    place = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return f"{place}?token={token}" if token else place
