"""A TCP proxy that a test can cut: a network that goes away and comes back, between a client and a real server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on to a server as long as it is not cut.

    Args:
        server: Host and port of the server.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._cut = False
        self._lose_answers = False
        self._start(self._accept)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Breaks all connections, and takes none."""
        with self._guard:
            self._cut = True
            self._close_all()

    def lose_answers(self) -> None:
        """Lets requests through to the server, and breaks the connection when it answers."""
        with self._guard:
            self._lose_answers = True

    def mend(self) -> None:
        """Goes on."""
        with self._guard:
            self._cut = self._lose_answers = False

    def close(self) -> None:
        """Ends it."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _close_all(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                if self._cut:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self._lose_answers:
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._guard:
            if source in self._open:
                self._open.discard(source)
                source.close()


@contextlib.contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server with a URL."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    made = Proxy((parts.hostname, parts.port))
    try:
        yield made
    finally:
        made.close()
