"""Access control of the page: host names, origins, the token, and security headers."""

import hmac
import secrets
import socket
import traceback
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Only the package's own scripts run, nothing is loaded from elsewhere, no other page may frame this one, no cache
keeps it."""
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """Passes a request to the page, or refuses it with a sentence.

    * Host must be a name of this page, against DNS rebinding, by which another site's name leads to this machine. On
      loopback only the names of loopback are allowed. Elsewhere the given host, the machine's name and IP addresses are
      allowed too; no site owns an IP address as its name.
    * Origin must be this page if it is sent, and every POST must have it, against cross-site request forgery. Any port
      is allowed, because `ssh -L` changes it.
    * If there is a token, a browser needs a cookie. It gets the cookie when it sends the token once.
    """

    def __init__(self, app: ASGIApp, host: str | None, port: int) -> None:
        """host: the address that the page is bound to; None: loopback, which needs no token."""
        self._app = app
        self._names = LOOPBACK if host is None else LOOPBACK | {host.lower(), socket.gethostname().lower()}
        self._by_number = host is not None
        self.token = secrets.token_urlsafe(32) if host is not None else None
        """Part of the address that is printed once; None on loopback."""
        self._pass = secrets.token_urlsafe(32)  # the cookie's value: the token itself stays out of the browser's store
        self._cookie = f"fundus_{port}"  # cookies do not know ports: two pages on a machine need two names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope) or self._entrance(scope)
        try:
            await (answer or self._app)(scope, receive, send_with_headers)
        except h11.LocalProtocolError:
            pass  # the client's body was not valid HTTP; uvicorn has answered it already
        except Exception:
            traceback.print_exc()  # a fault of ours; uvicorn's own log is off, because clients could fill it
            raise

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return _refuse(421, f"{host[:100]!r} is no name of this page; open the address that was printed")
        if (origin is None and scope["method"] == "POST") or (origin is not None and origin != f"http://{host}"):
            return _refuse(403, "asked by another page than this one")
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname, parts.port  # the port is checked: it may be no number
        except ValueError:
            return False
        if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
            return False
        return name in self._names or (self._by_number and _is_number(name))

    def _entrance(self, scope: Scope) -> Response | None:
        """If there is a token: a redirect for a browser that sends it, a refusal for one that has no cookie either."""
        if self.token is None:
            return None
        if _same(_cookies(scope).get(self._cookie, ""), self._pass):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] != "GET" or scope["path"] != "/" or not _same(given, self.token):
            return _refuse(403, "open the address that was printed, with its token")
        answer = RedirectResponse("/", 303)  # out of the address bar and the history
        answer.set_cookie(self._cookie, self._pass, httponly=True, samesite="strict", path="/")
        return answer


def _refuse(status: int, words: str) -> Response:
    return PlainTextResponse(f"{words}\n", status, {"Connection": "close"})  # its body, if any, is not read


def _same(given: str, wanted: str) -> bool:
    """Compares in a time that does not depend on how much is equal."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _cookies(scope: Scope) -> Mapping[str, str]:
    try:
        return {name: each.value for name, each in SimpleCookie(Headers(scope=scope).get("cookie", "")).items()}
    except CookieError:
        return {}


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
