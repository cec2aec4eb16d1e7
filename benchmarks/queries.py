"""Queries over TSBS-like data: Walmill beside bare DataFusion and DuckDB on the same Parquet files, and its caches.

    uv run python benchmarks/queries.py [dashboards|small|caches|beside|peers]

1,000 hosts, 12 hours at 10 s in files, 10 minutes more in memory; 2 tags, 5 fields. Rounds go through the systems in turn.
`peers` asks the same over HTTP, beside VictoriaMetrics and InfluxDB 1.x (Debian's packages `victoria-metrics` and `influxdb`).
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import engine, percentile, table
from datafusion import SessionConfig, SessionContext
from ingest import influx, victoria

from walmill.engine import Engine
from walmill.http.server import serving
from walmill.ingest.arrow import from_arrow
from walmill.store.submission import RowsWrite
from walmill.values.manage import NewCache

HOSTS, STEP, HOUR = 1_000, 10, 3_600
HOURS = 12
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
END = START + HOURS * HOUR
FIELDS = ("usage_user", "usage_system", "usage_idle", "usage_nice", "usage_iowait")
DATABASE = "bench"


def rows(first: int, last: int, seed: int) -> pa.Table:
    """Rows of all hosts from one second to another, by time."""
    times = np.repeat(np.arange(first, last, STEP, dtype=np.int64) * 10**9, HOSTS)
    count = len(times)
    random = np.random.default_rng(seed)
    hosts = np.tile(np.arange(HOSTS, dtype=np.int32), count // HOSTS)
    names = pa.array([f"host_{number}" for number in range(HOSTS)])
    regions = pa.array(["eu", "us", "ap"])
    return pa.table(
        {
            "time": pa.array(times).cast(pa.timestamp("ns")),
            "hostname": pa.DictionaryArray.from_arrays(pa.array(hosts), names),
            "region": pa.DictionaryArray.from_arrays(pa.array(hosts % 3), regions),
            **{name: np.round(random.uniform(0, 100, count), 2) for name in FIELDS},
        }
    )


def write(mill: Engine, data: pa.Table, name: str = "cpu") -> None:
    """Writes rows in commits of 60,000."""
    for start in range(0, data.num_rows, 60_000):
        part = data.slice(start, 60_000)
        catalog = mill.view().catalog
        known = catalog.find_table(catalog.find_database(DATABASE), name)
        schema = None if known is None else known.schema
        made = from_arrow(part, name, schema, ["hostname", "region"], default_time=0)
        mill.submit(RowsWrite([(DATABASE, made)])).result()


def filled(mill: Engine) -> None:
    """Twelve hours in files, ten minutes in memory."""
    for hour in range(HOURS):
        write(mill, rows(START + hour * HOUR, START + (hour + 1) * HOUR, hour))
    mill.snapshot(600.0)
    write(mill, rows(END, END + 600, 99))


def at(second: int) -> str:
    """A literal of a time."""
    return f"TIMESTAMP '{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}'"


def measured(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """ns of each call; one warms up, then rounds in turn."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter_ns()
            call()
            found[name].append(time.perf_counter_ns() - began)
    return found


def milli(values: Sequence[float]) -> str:
    """Median and p99 in ms."""
    return f"{statistics.median(values) / 1e6:,.2f} / {percentile(values, 0.99) / 1e6:,.2f}"


def questions() -> list[tuple[str, int, Callable[[str], str]]]:
    """Name, rounds, and the text for DataFusion or DuckDB."""
    minute = {"df": "date_bin(INTERVAL '1 minute', time)", "duck": "time_bucket(INTERVAL '1 minute', time)"}
    hour = {"df": "date_bin(INTERVAL '1 hour', time)", "duck": "time_bucket(INTERVAL '1 hour', time)"}
    newest = {"df": "last_value(usage_user ORDER BY time)", "duck": "arg_max(usage_user, time)"}
    inside = f"time >= {at(START)} AND time < {at(END)}"
    hour_8 = f"time >= {at(START + 8 * HOUR)} AND time < {at(START + 9 * HOUR)}"
    one = "hostname = 'host_7'"
    return [
        (
            "single-groupby-1-1-1",
            30,
            lambda d: (
                f"SELECT {minute[d]} AS m, max(usage_user) FROM cpu WHERE {one} AND {hour_8} GROUP BY m ORDER BY m"
            ),
        ),
        (
            "double-groupby-1",
            5,
            lambda d: f"SELECT {hour[d]} AS h, hostname, avg(usage_user) FROM cpu WHERE {inside} GROUP BY h, hostname",
        ),
        ("high-cpu-1", 20, lambda d: f"SELECT * FROM cpu WHERE usage_user > 90 AND {one} AND {inside}"),
        (
            "groupby-orderby-limit",
            5,
            lambda d: (
                f"SELECT {minute[d]} AS m, max(usage_user) FROM cpu WHERE time < {at(END)} GROUP BY m ORDER BY m DESC LIMIT 5"
            ),
        ),
        (
            "lastpoint",
            3,
            lambda d: f"SELECT hostname, max(time) AS t, {newest[d]} AS v FROM cpu WHERE {inside} GROUP BY hostname",
        ),
    ]


def dashboards(mill: Engine) -> None:
    """What dashboards ask, over what is in files (all systems), and over files and memory (Walmill)."""
    files = [str(path) for path in Path(mill.options.data_dir or ".").rglob("*.parquet")]
    bare = SessionContext(SessionConfig().with_target_partitions(2))
    bare.register_parquet("cpu", str(Path(files[0]).parents[1]))
    duck = duckdb.connect()
    duck.execute(f"SET threads=2; CREATE VIEW cpu AS SELECT * FROM read_parquet({files!r}, hive_partitioning=false)")
    shown = []
    for name, rounds, ask in questions():
        found = measured(
            {
                "walmill": lambda ask=ask: mill.query(ask("df"), database=DATABASE),
                "datafusion": lambda ask=ask: bare.sql(ask("df")).to_arrow_table(),
                "duckdb": lambda ask=ask: duck.execute(ask("duck")).to_arrow_table(),
            },
            rounds,
        )
        ratio = statistics.median(found["walmill"]) / statistics.median(found["datafusion"])
        shown.append([name, *(milli(found[one]) for one in ("walmill", "datafusion", "duckdb")), f"{ratio:.2f}"])
    table(
        f"{HOSTS * HOURS * HOUR // STEP:,} rows in files, ms median / p99",
        ("query", "walmill", "bare DataFusion", "DuckDB", "walmill to DataFusion"),
        shown,
    )


def small(mill: Engine) -> None:
    """Short questions, in process and over HTTP."""
    recent = f"SELECT time, usage_user FROM cpu WHERE hostname = 'host_7' AND time >= {at(END + 300)} AND time < {at(END + 600)}"
    with serving(mill, without_auth=True) as url, httpx2.Client(trust_env=False) as client:

        def http(sql: str) -> object:
            answer = client.post(f"{url}/api/v3/query_sql", json={"db": DATABASE, "q": sql, "format": "json"})
            assert answer.status_code == 200, answer.text
            return answer

        found = measured(
            {
                "trivial query": lambda: mill.query("SELECT 1", database=DATABASE),
                "trivial query over HTTP": lambda: http("SELECT 1"),
                "five minutes of one tag": lambda: mill.query(recent, database=DATABASE),
                "five minutes of one tag over HTTP": lambda: http(recent),
            },
            200,
        )
    table("Short questions, ms median / p99", ("what", "ms"), [[name, milli(one)] for name, one in found.items()])


def caches(mill: Engine) -> None:
    """Caches of values: 1,000 hosts and 10,000 series."""
    mill.create_cache(NewCache(kind="last", database=DATABASE, table="cpu", columns=["hostname"], ttl=None))
    mill.create_cache(
        NewCache(kind="distinct", database=DATABASE, table="cpu", columns=["region", "hostname"], ttl=None)
    )
    times = np.full(10_000, (END + 600) * 10**9, dtype=np.int64)
    for second in range(20):
        data = pa.table(
            {
                "time": pa.array(times + second * 10**9).cast(pa.timestamp("ns")),
                "hostname": pa.array([f"s{number}" for number in range(10_000)]),
                "region": pa.array(["eu"] * 10_000),
                "v": np.random.default_rng(second).uniform(0, 1, 10_000),
            }
        )
        write(mill, data, "many")
    mill.create_cache(NewCache(kind="last", database=DATABASE, table="many", columns=["hostname"], ttl=None))
    found = measured(
        {
            "lastpoint of 1,000 hosts, SQL": lambda: mill.query("SELECT * FROM last_cache('cpu')", database=DATABASE),
            "last value of one of 10,000 series": lambda: mill.last_values(
                "many", database=DATABASE, keys={"hostname": "s77"}
            ),
            "the same through SQL": lambda: mill.query(
                "SELECT * FROM last_cache('many') WHERE hostname = 's77'", database=DATABASE
            ),
            "distinct values, SQL": lambda: mill.query(
                "SELECT DISTINCT region FROM distinct_cache('cpu')", database=DATABASE
            ),
        },
        100,
    )
    table("Caches, ms median / p99", ("what", "ms"), [[name, milli(one)] for name, one in found.items()])


def beside(mill: Engine) -> None:
    """One-line writes, alone and while four long queries run."""
    long = (
        "SELECT count(*) FROM cpu a JOIN cpu b ON a.region = b.region "
        f"WHERE a.time < {at(START + 3000)} AND b.time < {at(START + 3000)} AND a.usage_user + b.usage_user > 100"
    )

    def one_line() -> list[float]:
        found = []
        for number in range(300):
            began = time.perf_counter_ns()
            mill.write(f"writes v={number} {number}", database=DATABASE)
            found.append(time.perf_counter_ns() - began)
            time.sleep(0.01)
        return found

    alone = one_line()
    asked = [mill.ask(DATABASE, long) for _ in range(4)]

    def run(one: Any) -> None:
        try:
            with mill.stream(long, database=DATABASE, asked=one) as stream:
                stream.read_all()
        except Exception:  # noqa: BLE001 - it is stopped
            pass

    threads = [threading.Thread(target=run, args=(one,)) for one in asked]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    loaded = one_line()
    running = sum(one.phase == "running" for one in asked)
    began = time.perf_counter()
    for one in asked:
        one.cancel()
    for thread in threads:
        thread.join()
    stopped = time.perf_counter() - began
    busy, began = 1.0, time.perf_counter()
    while busy > 0.05 and time.perf_counter() - began < 30:
        before = time.process_time()
        time.sleep(0.05)
        busy = (time.process_time() - before) / 0.05
    idle = time.perf_counter() - began
    table(
        f"One-line writes beside {running} long queries, ms median / p99",
        ("alone", "beside", "all have stopped after, s", "and use no processor after, s"),
        [[milli(alone), milli(loaded), f"{stopped:.3f}", f"{idle:.2f}"]],
    )


def lines(data: pa.Table) -> bytes:
    """Rows as line protocol."""
    texts = {
        name: pc.cast(pc.cast(data[name], pa.string()), pa.string()) for name in data.column_names if name != "time"
    }
    fields = [pc.binary_join_element_wise(pa.scalar(f"{name}="), texts[name], "") for name in FIELDS]
    joined = pc.binary_join_element_wise(
        pc.binary_join_element_wise("cpu,hostname=", texts["hostname"], ",region=", texts["region"], ""),
        pc.binary_join_element_wise(*fields, ","),
        pc.cast(pc.cast(data["time"], pa.int64()), pa.string()),
        " ",
    )
    return "\n".join(joined.to_pylist()).encode()


def peers(mill: Engine) -> None:
    """The same questions over HTTP; each system has the twelve hours, and Walmill ten minutes more in memory."""
    minute_s, hour_s = 60, HOUR
    one, whole = "hostname = 'host_7'", f"time >= {START}s AND time < {END}s"
    eighth = f"time >= {START + 8 * HOUR}s AND time < {START + 9 * HOUR}s"
    influxql = {
        "single-groupby-1-1-1": f"SELECT max(usage_user) FROM cpu WHERE {one} AND {eighth} GROUP BY time(1m)",
        "double-groupby-1": f"SELECT mean(usage_user) FROM cpu WHERE {whole} GROUP BY time(1h), hostname",
        "high-cpu-1": f"SELECT * FROM cpu WHERE usage_user > 90 AND {one} AND {whole}",
        "groupby-orderby-limit": (
            f"SELECT max(usage_user) FROM cpu WHERE {whole} GROUP BY time(1m) ORDER BY time DESC LIMIT 5"
        ),
        "lastpoint": "SELECT last(usage_user) FROM cpu GROUP BY hostname",
    }
    ranges: dict[str, dict[str, object]] = {
        "single-groupby-1-1-1": {
            "query": 'max_over_time(cpu_usage_user{hostname="host_7"}[1m])',
            "start": START + 8 * HOUR,
            "end": START + 9 * HOUR,
            "step": minute_s,
        },
        "double-groupby-1": {"query": "avg_over_time(cpu_usage_user[1h])", "start": START, "end": END, "step": hour_s},
        "high-cpu-1": {"query": 'cpu_usage_user{hostname="host_7"} > 90', "start": START, "end": END, "step": STEP},
    }
    mill.create_cache(NewCache(kind="last", database=DATABASE, table="cpu", columns=["hostname"], ttl=None))
    with (
        victoria() as (victoria_port, _),
        influx() as (influx_port, _),
        serving(mill, without_auth=True) as url,
        httpx2.Client(trust_env=False, timeout=120.0) as client,
    ):
        for hour in range(HOURS):
            data = rows(START + hour * HOUR, START + (hour + 1) * HOUR, hour)
            for start in range(0, data.num_rows, 60_000):
                body = lines(data.slice(start, 60_000))
                for port in (victoria_port, influx_port):
                    answer = client.post(f"http://127.0.0.1:{port}/write?db=bench&precision=ns", content=body)
                    assert answer.status_code == 204, answer.text
        client.get(f"http://127.0.0.1:{victoria_port}/internal/force_flush")

        def good(answer: httpx2.Response, said: str) -> None:
            assert answer.status_code == 200, answer.text
            assert said in answer.text, answer.text[:500]

        def walmill(sql: str) -> None:
            sent = {"db": DATABASE, "q": sql, "format": "json"}
            good(client.post(f"{url}/api/v3/query_sql", json=sent), "{")

        def old(text: str) -> None:
            sent = {"db": "bench", "q": text, "epoch": "ns"}
            good(client.get(f"http://127.0.0.1:{influx_port}/query", params=sent), "values")

        def metrics(name: str) -> None:
            at_end = {"query": "last_over_time(cpu_usage_user[12h])", "time": END - STEP, "nocache": 1}
            asked, path = (ranges[name], "query_range") if name in ranges else (at_end, "query")
            sent = {**asked, "nocache": 1}
            good(client.get(f"http://127.0.0.1:{victoria_port}/api/v1/{path}", params=sent), "value")

        shown = []
        for name, rounds, ask in questions():
            calls: dict[str, Callable[[], object]] = {
                "walmill": lambda ask=ask: walmill(ask("df")),  # type: ignore[misc]
                "influx": lambda name=name: old(influxql[name]),  # type: ignore[misc]
            }
            if name in ranges or name == "lastpoint":
                calls["victoria"] = lambda name=name: metrics(name)  # type: ignore[misc]
            if name == "lastpoint":
                calls["cache"] = lambda: walmill("SELECT * FROM last_cache('cpu')")
            found = measured(calls, rounds)
            shown.append(
                [name, *(milli(found[who]) if who in found else "" for who in ("walmill", "influx", "victoria"))]
            )
            if "cache" in found:
                shown.append(["lastpoint from the cache", milli(found["cache"]), "", ""])
    table("The same over HTTP, ms median / p99", ("query", "walmill", "InfluxDB 1.x", "VictoriaMetrics"), shown)


def main() -> None:
    """Prints the tables."""
    parts = {"dashboards": dashboards, "small": small, "caches": caches, "beside": beside, "peers": peers}
    chosen = sys.argv[1:] or [one for one in parts if one != "peers"]
    if unknown := [one for one in chosen if one not in parts]:
        sys.exit(f"unknown part {unknown[0]!r}; parts are {', '.join(parts)}")
    with engine() as mill:
        filled(mill)
        for one in chosen:
            parts[one](mill)


if __name__ == "__main__":
    main()
