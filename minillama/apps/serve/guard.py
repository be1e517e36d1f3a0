"""Who may send requests, and what every answer says about itself.

A page on the loopback address is reachable from every site that the same browser has open. Another
site's name may resolve to 127.0.0.1 (DNS rebinding), so the Host header must be this server's; its
form or script may post here, so a foreign Origin is refused. (Starlette's TrustedHostMiddleware
knows neither addresses in brackets nor "any bare address".)
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "localhost")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_is_ours(header: str, bound: str) -> bool:
    """Whether a Host header names this server, which listens at ``bound``.

    Beyond loopback a bare address is ours too: a machine has many, and none can be rebound.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
        if name in LOOPBACK or name == bound.lower():
            return True
        ipaddress.ip_address(name)
        return not is_loopback(bound)
    except ValueError:
        return False


class Guard:
    """Middleware: refuse foreign hosts and origins, and put ``HEADERS`` on every answer."""

    def __init__(self, app: ASGIApp, bound: str) -> None:
        self.app, self.bound = app, bound

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            reason = self.refusal(Headers(scope=scope))
            if reason:
                app = JSONResponse({"error": reason}, 403)
        await app(scope, receive, send_guarded)

    def refusal(self, headers: Headers) -> str:
        """Why the request is not answered; nothing if it is."""
        host = headers.get("host", "")
        if not host_is_ours(host, self.bound):
            return "This server does not answer to that host name."
        origin = headers.get("origin")  # sent with every POST of a browser
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return "Only this server's own page may ask."
        return ""
