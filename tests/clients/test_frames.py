"""pandas, polars and DuckDB over the answers of a server, and over the Parquet files that it leaves."""

from __future__ import annotations

import io
from typing import Any

import duckdb
import httpx2
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from influxdb_client_3 import InfluxDBClient3

pytestmark = pytest.mark.may_leave("file", reason="gRPC and polars keep their poll sets as long as the process lives")

DATABASE = "frames"
START = 1_700_000_000_000_000_000
ROWS = "\n".join(
    f"cpu,host=h{n % 3} v={n}.5,n={n}i,u={n}u,ok={'true' if n % 2 else 'false'} {START + n * 10**9 + n}"
    for n in range(100)
)
SQL = "SELECT host, v, n, u, ok, time FROM cpu ORDER BY time"


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    headers = {"authorization": f"Bearer {server.token}"}
    with httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=30) as client:
        sent = client.post(f"/api/v3/write_lp?db={DATABASE}", content=ROWS.encode())
        assert sent.status_code == 204, sent.text
        client.post("/api/v3/snapshot").raise_for_status()
        yield client


def answer(http: Any, form: str) -> io.BytesIO:
    found = http.get("/api/v3/query_sql", params={"db": DATABASE, "q": SQL, "format": form})
    assert found.status_code == 200, found.text
    return io.BytesIO(found.content)


def check(frame: pd.DataFrame) -> None:
    """Whether a frame of pandas has the rows."""
    assert list(frame.columns) == ["host", "v", "n", "u", "ok", "time"]
    assert frame["v"].sum() == sum(range(100)) + 50
    assert frame["n"].tolist() == frame["u"].tolist() == list(range(100))
    assert frame["host"].tolist()[:4] == ["h0", "h1", "h2", "h0"]
    assert frame["ok"].tolist()[:3] == [False, True, False]
    # texts of times have as many digits as each of them needs
    times = pd.to_datetime(frame["time"], format="ISO8601").astype("datetime64[ns]")
    assert times.astype("int64").tolist() == [START + n * 10**9 + n for n in range(100)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow"])
def test_pandas_reads_answers(http: Any, form: str) -> None:
    body = answer(http, form)
    if form == "csv":
        check(pd.read_csv(body))
    elif form == "jsonl":
        check(pd.read_json(body, lines=True, dtype=False))
    elif form == "parquet":
        check(pd.read_parquet(body))
    else:
        check(pa.ipc.open_stream(body).read_pandas())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow"])
def test_polars_reads_answers(http: Any, form: str) -> None:
    read: dict[str, Any] = {
        "csv": lambda body: pl.read_csv(body, try_parse_dates=False),
        "jsonl": pl.read_ndjson,
        "parquet": pl.read_parquet,
        "arrow": pl.read_ipc_stream,
    }
    frame = read[form](answer(http, form))
    assert frame.columns == ["host", "v", "n", "u", "ok", "time"]
    assert frame["n"].to_list() == frame["u"].to_list() == list(range(100))
    assert frame["v"].sum() == sum(range(100)) + 50
    texts = frame["time"].dtype == pl.String
    times = frame["time"].str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ns") if texts else frame["time"]
    assert times.dt.timestamp("ns").to_list() == [START + n * 10**9 + n for n in range(100)]


def test_influxdb3_python_gives_a_frame(server: Any, http: Any) -> None:
    with InfluxDBClient3(host=server.url, token=server.token, database=DATABASE) as client:
        check(client.query(SQL, mode="pandas"))


def test_duckdb_reads_the_files_of_a_running_server(server: Any, http: Any) -> None:
    files = [
        str(one) for one in (server.home / "data" / "objects" / "tables").rglob("*.parquet") if DATABASE in str(one)
    ]
    assert files
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT host, count(*), sum(n)::BIGINT, max(epoch_ns(time)) FROM read_parquet(?) GROUP BY host ORDER BY host",
            [files],
        ).fetchall()
    sql = "SELECT host, count(*) AS c, sum(n) AS n, max(time) AS t FROM cpu GROUP BY host ORDER BY host"
    ours = pa.ipc.open_stream(
        http.get("/api/v3/query_sql", params={"db": DATABASE, "q": sql, "format": "arrow"}).content
    ).read_all()
    times = ours["t"].cast(pa.int64()).to_pylist()
    assert found == list(zip(*(ours[name].to_pylist() for name in ("host", "c", "n")), times, strict=True))
