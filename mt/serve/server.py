"""The server process: a socket, and uvicorn with the application, until a signal ends it."""

import ipaddress
import logging
import signal
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 500
# How often a connection is checked: it is closed if no request has begun since the last check. So a
# client has HEADER_SECONDS to twice that time to send the header of a request.
HEADER_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 300  # after a signal, to answer the accepted requests


class BoundedProtocol(H11Protocol):
    """HTTP on a connection that is closed when no request begins.

    Uvicorn waits for the header of a request without a limit. So a few clients that never complete
    a header could occupy all connections.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to watch the connection."""
        super().connection_made(transport)
        self._last_cycle = self.cycle
        self._watch = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        """Close the connection if no request is running and none began since the last check."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and self.cycle is self._last_cycle:
            self.transport.close()
            return
        self._last_cycle = self.cycle
        self._watch = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, but not listening yet. Raises OSError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise OSError(
            f"mt serve: cannot listen on {host}, port {port} ({error.strerror}); "
            "choose others by --host and --port"
        ) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Return whether only programs on this machine can connect to a socket."""
    host = listener.getsockname()[0]
    return ipaddress.ip_address(host).is_loopback


def url_of(listener: socket.socket) -> str:
    """Return the address of a socket, for a browser."""
    host, port = listener.getsockname()[:2]
    shown_host = f"[{host}]" if ":" in host else host
    return f"http://{shown_host}:{port}/"


def run_server(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT; requests that were accepted are answered first.

    A second SIGINT ends the server at once.
    """
    server = make_server(app)
    # When uvicorn ends, it raises the signals that it received once more. With this handler,
    # SIGTERM raises KeyboardInterrupt, as SIGINT does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for the application, with limits for its connections."""
    # Uvicorn logs each unreadable request as a warning.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
