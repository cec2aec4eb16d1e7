"""A real `walmill serve` for real clients."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from attrs import define, field

DEADLINE = 60.0
COMMAND = str(Path(sys.executable).parent / "walmill")


@define(eq=False)
class Server:
    """A server process that can be stopped and started again at the same address.

    Attributes:
        home: Where its data and its log are.
        port: Its port.
        process: The process; None when it is stopped.
    """

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _http: httpx2.Client = field(init=False)

    def __attrs_post_init__(self) -> None:
        # no connection is kept: one that a test made would look like the test's own
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.Client(base_url=self.url, trust_env=False, timeout=DEADLINE, limits=limits)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The token that its first start made."""
        return (self.home / "data" / "operator-token").read_text().strip()

    def start(self) -> None:
        """Starts it, and waits until it is ready."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", "--data-dir", str(self.home / "data"), "--http-bind", f"127.0.0.1:{self.port}"],
                cwd=self.home,
                env=environ,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.home / "log").read_text()
            with contextlib.suppress(httpx2.TransportError):
                if self._http.get("/ready").status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not ready within {DEADLINE} s\n{(self.home / 'log').read_text()}")

    def stop(self) -> None:
        """Stops it in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE) == 0, (self.home / "log").read_text()
        self.process = None

    def kill(self) -> None:
        """Ends it anyhow."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)
        self._http.close()

    def rows(self, database: str, sql: str) -> list[dict[str, Any]]:
        """What a query answers; nothing if there is no such database or table."""
        answer = self._http.post(
            "/api/v3/query_sql",
            json={"db": database, "q": sql},
            headers={"authorization": f"Bearer {self.token}"},
        )
        if answer.status_code != 200:
            assert answer.status_code in (400, 404), answer.text
            assert "not found" in answer.text or "no database" in answer.text, answer.text
            return []
        found: list[dict[str, Any]] = answer.json()
        return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests; each uses a database of its own name."""
    made = Server(tmp_path_factory.mktemp("server"), _free_port())
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that a test may stop."""
    made = Server(tmp_path, _free_port())
    try:
        made.start()
        yield made
    finally:
        made.kill()
