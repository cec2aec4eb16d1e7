"""One port for HTTP and Flight: what a connection's first bytes may be, and how the server ends beside running calls."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import flight

pytestmark = pytest.mark.may_leave("file", reason="gRPC keeps its poll sets as long as the process lives")

GET = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
SLOW = "SELECT sum(a.value * b.value) FROM generate_series(1, 300000) a CROSS JOIN generate_series(1, 300000) b"


def _answer(server: Any, pieces: list[bytes]) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), 10) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            link.sendall(piece)
        got = b""
        while data := link.recv(65536):
            got += data
        return got


@pytest.mark.parametrize(
    ("pieces", "begins"),
    [
        ([GET], b"HTTP/1.1 200"),
        ([bytes([one]) for one in GET], b"HTTP/1.1 200"),
        (
            [b"P", b"OST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"],
            b"HTTP/1.1 401",
        ),
        ([b"PR", b"OPFIND / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], b"HTTP/1.1 401"),
        ([b"\x16\x03\x01nonsense\r\n\r\n"], b"HTTP/1.1 400"),
    ],
)
def test_what_is_no_http2_is_http1(server: Any, pieces: list[bytes], begins: bytes) -> None:
    assert _answer(server, pieces).startswith(begins)


def test_a_caller_who_says_nothing_or_nonsense_hurts_nobody(server: Any) -> None:
    for said in (
        b"",
        b"P",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    ):
        with socket.create_connection(("127.0.0.1", server.port), 10) as link:
            link.sendall(said)
    assert _answer(server, [GET]).startswith(b"HTTP/1.1 200")
    _flight_answers(server)


@pytest.fixture
def places() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-") as made:
        yield Path(made)


def test_a_stop_ends_calls_that_run(own_server: Any, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(places))
    own_server.stop()
    own_server.start()
    assert not list(places.glob("walmill-flight-*")), "Flight is loaded for those who use it"
    _flight_answers(own_server)
    assert len(list(places.glob("walmill-flight-*"))) == 1
    began, failed = threading.Event(), []

    def ask() -> None:
        with flight.connect(f"grpc://127.0.0.1:{own_server.port}") as client:
            began.set()
            try:
                client.do_get(_ticket(SLOW), _options(own_server)).read_all()
            except flight.FlightError as error:
                failed.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    began.wait(10)
    own_server.stop()
    caller.join(20)
    assert not caller.is_alive()
    assert len(failed) == 1
    assert not list(places.iterdir())


def test_a_long_path_to_temporary_files_is_no_obstacle(
    own_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    own_server.stop()
    own_server.start()
    _flight_answers(own_server)
    own_server.stop()
    assert not list(long.iterdir())


def _flight_answers(server: Any) -> None:
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        assert client.do_get(_ticket("SELECT 1 AS one"), _options(server)).read_all().to_pylist() == [{"one": 1}]


def _ticket(sql: str) -> flight.Ticket:
    return flight.Ticket(f'{{"database": "_internal", "sql_query": "{sql}"}}'.encode())


def _options(server: Any) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {server.token}".encode())])
