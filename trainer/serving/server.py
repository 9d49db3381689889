"""The server: one address of this machine, unhurried clients hung up on, Ctrl-C obeyed at once."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import OutputError
from trainer.inference.predictor import Predictor
from trainer.serving.app import Desk, make_app
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


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # that a photograph is dropped is no error
        await super().shutdown(sockets)


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
    except OSError as error:
        where = f"port {PORT if port is None else port} of {address}"
        raise OutputError(f"{where} cannot be used ({error.strerror or error}); choose another --port") from error
    return taken, int(taken.getsockname()[1])


def serve(
    predictor: Predictor,
    run: Path,
    least: float,
    *,
    host: str | None,
    port: int | None,
    say: Callable[[int, str], Any],
) -> bool:
    """Serves the page until Ctrl-C, and returns whether a thread is still at work on a photograph.

    host, port: see `listen`; with a host the page asks for a token. least: see `Lightbox`. say(port, address): called
    once the page answers.
    """
    desk, facts = Desk(), collect_facts(run, predictor.about)
    taken, port = listen(host, port)
    guard = Guard(make_app(Lightbox(predictor, least), facts, desk), host, port)
    config = uvicorn.Config(
        guard,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,  # it would print the token
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=0,
        limit_concurrency=MOST_CONNECTIONS,
    )
    say(port, address(host, port, guard.token))
    with taken, suppress(KeyboardInterrupt):  # uvicorn raises the signal again, once it has ended
        _Server(config).run([taken])
    return desk.busy


def address(host: str | None, port: int, token: str | None) -> str:
    """The page's URL; of a page bound to every address of this machine, by the machine's name."""
    name = host or "127.0.0.1"
    if name in ("0.0.0.0", "::"):
        name = socket.gethostname()
    place = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return f"{place}?token={token}" if token else place
