"""TLS: the certificate of the files that the settings name, as they are when a connection comes in."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

from walmill.errors import InvalidRequest
from walmill.observe.log import get_logger

PROTOCOLS = ("http/1.1", "h2")
"""What is offered, best first: who knows both, as browsers do, shall speak HTTP/1.1; gRPC knows h2 only."""
log = get_logger("walmill.tls")


class Certificates:
    """Gives each handshake the certificate that is in the files at that moment, so that a renewed one needs no restart.

    Files that cannot be read, or do not fit each other, as in the middle of a renewal, are logged once; the last good ones
    stay in use. May be used from several threads.

    Args:
        cert: PEM file of the certificate, with those that sign it behind it.
        key: PEM file of its private key, without a password; None if it is in `cert`.

    Attributes:
        context: For the server.

    Raises:
        InvalidRequest: If the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path | None = None) -> None:
        self._cert = cert
        self._key = key
        self._lock = threading.Lock()
        self._seen = self._look()
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:
            raise InvalidRequest(self._said(error)) from None
        self.context = self._load()
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        connection.context = self._newest()

    def _newest(self) -> ssl.SSLContext:
        with self._lock:
            try:
                seen = self._look()
            except OSError:
                return self._current  # between two files; the next connection looks again
            if seen != self._seen:
                self._seen = seen
                try:
                    self._current = self._load()
                    log.info("the certificate is read again", file=str(self._cert))
                except (OSError, ValueError) as error:
                    log.warning("the last certificate stays in use", reason=self._said(error))
            return self._current

    def _look(self) -> list[tuple[int, int, int]]:
        found = []
        for path in (self._cert, self._key):
            if path is not None:
                one = path.stat()
                found.append((one.st_mtime_ns, one.st_size, one.st_ino))
        return found

    def _load(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols(list(PROTOCOLS))
        made.load_cert_chain(self._cert, self._key, password=_no_password)
        return made

    def _said(self, error: Exception) -> str:
        named = f"the certificate {str(self._cert)!r}"
        if self._key is not None:
            named += f" with the key {str(self._key)!r}"
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return f"{named} cannot be used: {reason}; tls_cert and tls_key name PEM files, and the key has no password"


def _no_password() -> str:
    raise ValueError("the key has a password")
