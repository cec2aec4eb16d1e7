"""pandas, polars and DuckDB over the answers of a server, and over the Parquet files that it leaves."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import polars as pl
import pyarrow as pa
import pytest

pytestmark = pytest.mark.may_leave("file", reason="polars keeps its poll sets as long as the process lives")

ROOT = Path(__file__).parents[2]
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


def test_pandas_reads_answers(server: Any, http: Any, tmp_path: Path) -> None:
    """Installed beside our environment: with it in there, all that uses pyarrow would load it, the servers of tests as well."""
    del http
    tool = shutil.which("uv")
    install = [tool, "pip", "install", "--python", sys.executable] if tool else [sys.executable, "-m", "pip", "install"]
    done = subprocess.run(
        [*install, "--quiet", "--no-deps", "--target", str(tmp_path), "-c", "constraints.txt", "pandas"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    given = {
        "url": server.url,
        "token": server.token,
        "database": DATABASE,
        "sql": SQL,
        "times": [START + n * 10**9 + n for n in range(100)],
    }
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("pandas_child.py")), json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout.split() == ["csv", "jsonl", "parquet", "arrow", "influxdb3-python"], child.stderr


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
