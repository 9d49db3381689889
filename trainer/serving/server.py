"""The server of `trainer serve`: it listens at one address, drops slow clients, and ends at once on Ctrl-C."""

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
"""A request's header must arrive completely within this time."""
MOST_CONNECTIONS: Final = 100


class TimedProtocol(H11Protocol):
    """Closes the connection if a request's header does not arrive in time. uvicorn itself waits for ever."""

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
        if self.conn.their_state is not h11.IDLE:  # the header has arrived
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listen(host: str | None, port: int | None) -> tuple[socket.socket, int]:
    """A listening socket and its port. host: None for loopback. port: None for PORT, or any free one if that is in use.

    Raises OutputError if the address cannot be used.
    """
    address = host or "127.0.0.1"
    try:
        family, _, _, _, found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            taken = socket.create_server((found[0], PORT if port is None else port), family=family)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            taken = socket.create_server((found[0], 0), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError for a name that is too long
        where = f"port {PORT if port is None else port} of {address[:100]}"
        why = (isinstance(error, OSError) and error.strerror) or error
        advice = "--port" if host is None else "--host or --port"
        raise OutputError(f"{where} cannot be used ({why}); choose another {advice}") from error
    return taken, int(taken.getsockname()[1])


class Page:
    """The page of some weights. It listens as soon as it is made and answers in `run`."""

    def __init__(self, predictor: Predictor, run: Path, share: float, *, host: str | None, port: int | None) -> None:
        """share: see `Lightbox`. host, port: see `listen`. With a host the page asks for a token.

        Raises OutputError if the address cannot be used, RunError if the run cannot be read.
        """
        facts = collect_facts(run, predictor.metadata)
        self._socket, self.port = listen(host, port)
        guard = Guard(make_app(Lightbox(predictor, share), facts), host, self.port)
        self.url: Final = address(host, self.port, guard.token)
        """The address to open, with the token if there is one."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                guard,
                http=TimedProtocol,
                ws="none",
                lifespan="off",
                log_level="critical",  # else any client could fill the terminal; see Guard
                access_log=False,  # it would print the token
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=0,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )

    def run(self) -> None:
        """Answers until Ctrl-C or `stop`. The thread that grades may still be busy with a photograph then."""
        with self._socket, suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has ended
            self._server.run([self._socket])

    def stop(self) -> None:
        """Ends `run`. Another thread calls it."""
        self._server.should_exit = True


def address(host: str | None, port: int, token: str | None) -> str:
    """The page's URL. If the page is bound to all addresses of this machine, it has the machine's name."""
    name = host or "127.0.0.1"
    if name in ("0.0.0.0", "::"):
        name = socket.gethostname()
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return f"{url}?token={token}" if token else url
