"""What Telegraf's outputs `influxdb` and `influxdb_v2` send, byte for byte, over one connection each as it keeps it.

The bytes are written after Telegraf's source (`plugins/outputs/influxdb/http.go`, `plugins/outputs/influxdb_v2/http.go`,
`internal/internal.go` for the product token) and after what Go's `net/http` makes of it: the order of the headers, and
chunked transfer, because Telegraf gives it a reader of unknown length. Its defaults are gzip and `CREATE DATABASE` first.
What it does with an answer is in the same files: 204 is success, any other 4xx drops the batch, 503 waits for `Retry-After`,
and for `influxdb` a body that is not JSON would be sent again for ever.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from attrs import define

AGENT = "Telegraf/1.36.4 Go/1.25.3"
METRICS = (
    b"cpu,cpu=cpu0,host=edge-1 usage_idle=98.4,usage_user=1.2 1769851800000000000\n"
    b"cpu,cpu=cpu1,host=edge-1 usage_idle=97.1,usage_user=2.2 1769851800000000000\n"
    b'system,host=edge-1 uptime=8273i,uptime_format=" 2:17" 1769851800000000000\n'
)
CONFLICT = b'cpu,cpu=cpu0,host=edge-1 usage_idle="98.4" 1769851810000000000\n'


@define
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


@define
class Connection:
    """One connection that is kept."""

    socket: socket.socket
    host: str

    def send(self, request: bytes) -> Answer:
        """Sends a request, and reads its answer to the end."""
        self.socket.sendall(request)
        answer = HTTPResponse(self.socket, method="POST")
        answer.begin()
        assert not answer.will_close
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def create_database(self, name: str, basic: str) -> bytes:
        """`influxdb`: makeQueryRequest."""
        form = f"q=CREATE+DATABASE+%22{name}%22".encode()
        headers = [
            f"Content-Length: {len(form)}",
            f"Authorization: Basic {basic}",
            "Content-Type: application/x-www-form-urlencoded",
        ]
        return self._head("/query", headers) + form

    def write_v1(self, query: str, basic: str, lines: bytes, *, packed: bool = True) -> bytes:
        """`influxdb`: makeWriteRequest."""
        return self._write(f"/write?{query}", f"Basic {basic}", lines, packed)

    def write_v2(self, query: str, token: str, lines: bytes, *, packed: bool = True) -> bytes:
        """`influxdb_v2`: writeBatch."""
        return self._write(f"/api/v2/write?{query}", f"Token {token}", lines, packed)

    def _write(self, target: str, authorization: str, lines: bytes, packed: bool) -> bytes:
        headers = [
            "Transfer-Encoding: chunked",
            f"Authorization: {authorization}",
            *(["Content-Encoding: gzip"] if packed else []),
            "Content-Type: text/plain; charset=utf-8",
        ]
        return self._head(target, headers) + chunked(gzip.compress(lines) if packed else lines)

    def _head(self, target: str, headers: list[str]) -> bytes:
        first = [f"POST {target} HTTP/1.1", f"Host: {self.host}", f"User-Agent: {AGENT}"]
        return "\r\n".join([*first, *headers, "Accept-Encoding: gzip", "", ""]).encode()


def chunked(body: bytes) -> bytes:
    """A body as Go's chunked writer sends it: the compressor's header comes as a piece of its own."""
    pieces = [body[:10], *(body[place : place + 32 * 1024] for place in range(10, len(body), 32 * 1024))]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


@pytest.fixture
def connection(server: Any) -> Iterator[Connection]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as made:
        yield Connection(made, f"127.0.0.1:{server.port}")


@pytest.fixture
def basic(server: Any) -> str:
    """`username = "telegraf"`, `password` the token."""
    return base64.b64encode(f"telegraf:{server.token}".encode()).decode()


def _count(server: Any, database: str, table: str) -> int:
    rows = server.rows(database, f"SELECT count(*) AS n FROM {table}")
    return int(rows[0]["n"]) if rows else 0


@pytest.mark.parametrize("packed", [True, False])
def test_output_influxdb(server: Any, connection: Connection, basic: str, packed: bool) -> None:
    database = f"telegraf_{packed}"
    created = connection.send(connection.create_database(database, basic))
    assert created.status == 200
    told = json.loads(created.body)
    assert not any(result.get("error") for result in told["results"])
    for _ in range(3):
        answer = connection.send(connection.write_v1(f"db={database}", basic, METRICS, packed=packed))
        assert (answer.status, answer.body) == (204, b"")
    assert _count(server, database, "cpu") == 2, "the same points again are the same points"
    assert _count(server, database, "system") == 1


def test_output_influxdb_with_a_retention_policy_and_consistency(
    server: Any, connection: Connection, basic: str
) -> None:
    query = "consistency=any&db=telegraf_rp&rp=autogen"
    assert connection.send(connection.write_v1(query, basic, METRICS)).status == 204
    assert connection.send(connection.write_v1("db=telegraf_rp&rp=two_weeks", basic, METRICS)).status == 204
    assert _count(server, "telegraf_rp", "cpu") == 2
    assert _count(server, "telegraf_rp/two_weeks", "cpu") == 2


def test_output_influxdb_drops_what_can_never_be_accepted(server: Any, connection: Connection, basic: str) -> None:
    assert connection.send(connection.write_v1("db=telegraf_bad", basic, METRICS)).status == 204
    answer = connection.send(
        connection.write_v1("db=telegraf_bad", basic, CONFLICT + METRICS.replace(b"180000", b"182000"))
    )
    assert answer.status == 400
    error = json.loads(answer.body)["error"]
    assert "unable to parse" in error, "older versions look for this before they drop a batch"
    assert "usage_idle" in error
    assert "database not found" not in error, "for this it would create the database, and send again"
    assert _count(server, "telegraf_bad", "cpu") == 2
    assert connection.send(connection.write_v1("db=telegraf_bad", basic, METRICS)).status == 204


def test_output_influxdb_with_a_wrong_password(connection: Connection) -> None:
    wrong = base64.b64encode(b"telegraf:wrong").decode()
    for request in (
        connection.create_database("telegraf_wrong", wrong),
        connection.write_v1("db=telegraf_wrong", wrong, METRICS),
    ):
        answer = connection.send(request)
        assert (answer.status, json.loads(answer.body)) == (401, {"error": "the request was not authenticated"})


@pytest.mark.parametrize("packed", [True, False])
def test_output_influxdb_v2(server: Any, connection: Connection, packed: bool) -> None:
    bucket = f"telegraf_v2_{packed}"
    uints = METRICS + b"disk,host=edge-1 free=7u 1769851800000000000\n"
    for _ in range(3):
        request = connection.write_v2(f"bucket={bucket}&org=any", server.token, uints, packed=packed)
        answer = connection.send(request)
        assert (answer.status, answer.body) == (204, b"")
    assert _count(server, bucket, "cpu") == 2
    assert server.rows(bucket, "SELECT free FROM disk") == [{"free": 7}]


def test_output_influxdb_v2_drops_what_can_never_be_accepted(server: Any, connection: Connection) -> None:
    query = "bucket=telegraf_v2_bad&org=any"
    assert connection.send(connection.write_v2(query, server.token, METRICS)).status == 204
    answer = connection.send(connection.write_v2(query, server.token, CONFLICT))
    assert answer.status == 400
    told = json.loads(answer.body)
    assert told["code"] == "invalid"
    assert "usage_idle" in told["message"]


def test_output_influxdb_v2_splits_what_is_too_large(server: Any, connection: Connection) -> None:
    """413 is what it looks for; the connection stays, although the body was over the limit."""
    line = b"cpu,cpu=cpu0,host=edge-1 usage_idle=98.4 %d\n"
    lines = b"".join(line % number for number in range(260_000))
    assert len(lines) > 10 * 2**20
    query = "bucket=telegraf_v2_large&org=any"
    assert connection.send(connection.write_v2(query, server.token, lines)).status == 413
    assert connection.send(connection.write_v2(query, server.token, METRICS)).status == 204


def test_output_influxdb_v2_with_a_wrong_token(connection: Connection) -> None:
    answer = connection.send(connection.write_v2("bucket=telegraf_v2_wrong&org=any", "wrong", METRICS))
    assert answer.status == 401
    assert isinstance(json.loads(answer.body), dict)
