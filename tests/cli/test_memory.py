"""A server whose memory the system limits: it replays a large log, puts writers off, refuses queries, and never dies of it."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from tests.cli.conftest import DEADLINE, Server, serve
from tests.seaweed import BUCKET, seaweed
from tests.stores.proxy import Proxy, proxied

from walmill.engine import Engine
from walmill.snapshot.due import Limits

pytestmark = pytest.mark.slow

MIB = 2**20
NEVER = Limits(buffer_bytes=2**50, log_bytes=2**50, age=2**62, memory_bytes=2**60)
FIELDS = tuple(f"f{number}" for number in range(10))
# one arena for all threads: what each reserves for itself counts as well
FRUGAL = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def data_of(server: Server) -> int:
    """Bytes of private memory that a process may write: what RLIMIT_DATA limits."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def limit(server: Server, more: int) -> None:
    """Allows a running server so many bytes more than it has."""
    most = data_of(server) + more
    resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (most, most))


@pytest.fixture
def ended() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for one in started:
        one.process.kill()
        one.process.wait(DEADLINE)


def rows(start: int, count: int) -> pa.Table:
    chance = np.random.default_rng(start)
    columns = {name: pa.array(chance.random(count)) for name in FIELDS}
    return pa.table({**columns, "time": pa.array(np.arange(start, start + count)).cast(pa.timestamp("ns"))})


def count(server: Server, table: str = "t") -> int:
    answer = httpx2.get(
        f"{server.url}/api/v3/query_sql",
        params={"db": "d", "q": f"SELECT count(*) AS n FROM {table}"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()[0]["n"])


def test_replay_takes_little_memory(tmp_path: Path, ended: list[Server]) -> None:
    data = tmp_path / "data"
    with Engine.open(data_dir=data, discover_plugins=False, snapshots=NEVER) as engine:
        for number in range(60):
            engine.write(rows(number * 100_000, 100_000), database="d", table="t", tags=())
    size = sum(one.stat().st_size for one in (data / "wal").glob("*.seg"))
    assert size > 450 * MIB
    flags = ("--without-auth", "--snapshot-size", "4GiB", "--snapshot-interval", "1h", "--buffer-memory-limit", "8GiB")
    (tmp_path / "empty").mkdir()
    ended.append(serve(tmp_path / "empty", *flags, **FRUGAL))
    most = data_of(ended[0]) + 150 * MIB  # a third of the log
    held = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, held[1]))  # for the child: this process has what it needs
    try:
        ended.append(serve(tmp_path, *flags, "--data-dir", str(data), **FRUGAL))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, held)
    assert count(ended[1]) == 6_000_000


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, dict[str, str]]]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as found, proxied(found.endpoint) as proxy:
        yield proxy, {**found.environment, "AWS_ENDPOINT_URL": proxy.url}


def test_writers_wait_as_long_as_rows_cannot_go_into_files(
    tmp_path: Path, ended: list[Server], network: tuple[Proxy, dict[str, str]]
) -> None:
    proxy, environment = network
    flags = ("--without-auth", "--object-store", f"s3://{BUCKET}/memory", "--buffer-memory-limit", "32MiB")
    ended.append(serve(tmp_path, *flags, "--snapshot-size", "8MiB", "--segment-size", "4MiB", **environment, **FRUGAL))
    server = ended[0]
    url = f"{server.url}/api/v3/write_lp?db=d&precision=nanosecond"
    kept = 0
    guard = threading.Lock()
    seen: set[int] = set()
    stop = threading.Event()

    def body(number: int) -> str:
        return "\n".join(f"t,host=h{n % 50} a={n}.25,b={n}i {number * 5000 + n}" for n in range(5000))

    def send(sender: int) -> None:
        nonlocal kept
        number = sender
        with httpx2.Client(trust_env=False, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(url, content=body(number))
                with guard:
                    seen.add(answer.status_code)
                if answer.status_code == 204:
                    number += 8
                    with guard:
                        kept += 5000
                else:
                    assert answer.status_code == 503, answer.text
                    assert answer.headers["retry-after"].isdigit()
                    stop.wait(0.05)

    assert httpx2.post(url, content="warm v=1 1", trust_env=False).status_code == 204
    limit(server, 250 * MIB)
    proxy.cut()
    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + DEADLINE
    while 503 not in seen:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(2)  # they go on asking
    before = kept
    proxy.mend()
    until = time.monotonic() + 2 * DEADLINE
    while kept < before + 100_000:
        assert time.monotonic() < until, "it does not go on by itself"
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen == {204, 503}
    assert server.process.poll() is None
    assert count(server) == kept


QUERIES = [
    "SELECT * FROM t ORDER BY f1, f2, f3",
    "SELECT f1, f2, count(*) FROM t GROUP BY f1, f2",
    "SELECT count(*) FROM t a JOIN t b ON a.f1 > b.f2",
    "SELECT array_agg(f1), array_agg(f2), array_agg(f3) FROM t",
    "SELECT count(DISTINCT f1), count(DISTINCT f2), count(DISTINCT f3) FROM t",
]


def test_a_query_over_its_limit_is_refused_and_the_server_goes_on(tmp_path: Path, start: Callable[..., Server]) -> None:
    data = tmp_path / "data"
    with Engine.open(data_dir=data, discover_plugins=False, snapshots=NEVER) as engine:
        for number in range(10):
            engine.write(rows(number * 100_000, 100_000), database="d", table="t", tags=())
    server = start("--without-auth", "--data-dir", str(data), "--query-memory-limit", "16MiB", **FRUGAL)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=120) as client:
        params = {"db": "d", "format": "parquet"}
        refused = []
        for sql in QUERIES:
            answer = client.get("/api/v3/query_sql", params={**params, "q": f"SELECT count(*) FROM ({sql}) AS x"})
            assert answer.status_code in (200, 422, 503), (sql, answer.text[:300])
            if answer.status_code != 200:
                refused.append(sql)
                assert "query_memory_limit" in answer.json()["error"]
        assert refused
        assert client.get("/health").status_code == 200
        assert client.post("/api/v3/write_lp", params={"db": "d"}, content="u v=1").status_code == 204
    assert count(server) == 1_000_000
