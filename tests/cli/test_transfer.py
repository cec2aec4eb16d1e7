"""`walmill export` and `walmill import`: what goes out comes back, of every type, in each format; what others export comes in."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.cli.conftest import WALMILL, Command, Server, clean_environment

from walmill.cli.client import Client

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=0, max_size=8)
TAG = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1, max_size=6)
ROW = st.fixed_dictionaries(
    {
        "host": st.none() | TAG,
        "site x": st.none() | TAG,
        "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "u": st.none() | st.integers(0, 2**64 - 1),
        "b": st.none() | st.booleans(),
        's "q"': st.none()
        | TEXT
        | st.sampled_from(["", "a,b", 'say "x"', "two\nlines", " blank ", "\r", "1.5", "true"]),
        "time": st.integers(-(2**62), 2**62),
    }
).filter(lambda row: any(row[name] is not None for name in ("f", "i", "u", "b", 's "q"')))
TAGS = ["host", "site x"]
FIELDS = {"f": "float64", "i": "int64", "u": "uint64", "b": "bool", 's "q"': "string"}


def write(client: Client, database: str, table: str, rows: list[dict[str, Any]]) -> None:
    kinds = {
        "float64": pa.float64(),
        "int64": pa.int64(),
        "uint64": pa.uint64(),
        "bool": pa.bool_(),
        "string": pa.string(),
    }
    columns = {tag: pa.array([row[tag] for row in rows], pa.string()) for tag in TAGS}
    columns |= {name: pa.array([row[name] for row in rows], kinds[kind]) for name, kind in FIELDS.items()}
    columns["time"] = pa.array([row["time"] for row in rows], pa.int64()).cast(pa.timestamp("ns", "UTC"))
    client.write_arrow(database, table, TAGS, pa.RecordBatch.from_pydict(columns))


def read(client: Client, database: str, table: str) -> list[dict[str, Any]]:
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in (*TAGS, *FIELDS))
    sql = f'SELECT {columns}, CAST(time AS BIGINT) AS t FROM "{table}" ORDER BY 8, 1, 2'
    return client.query_rows(database, sql)


@pytest.fixture
def client(server: Server) -> Any:
    with Client(server.url, server.token) as made:
        yield made


counter = iter(range(10**6))


@pytest.mark.parametrize("form", ["parquet", "csv", "lp"])
@settings(
    max_examples=6,
    phases=[
        Phase.explicit,
        Phase.generate,
    ],  # each example runs commands: making a failing one smaller would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(ROW, min_size=20, max_size=40))
def test_what_goes_out_comes_back(
    local: Command, client: Client, tmp_path: Path, form: str, rows: list[dict[str, Any]]
) -> None:
    number = next(counter)
    one, two, directory = f"out{number}", f"in{number}", tmp_path / f"{form}-{number}"
    write(client, one, "a/b ä", rows)
    packed = () if form == "parquet" or number % 2 else ("--gzip",)
    said = local("export", "--database", one, "--format", form, *packed, str(directory))
    assert said.code == 0, said
    (path,) = directory.iterdir()
    # a column that has no value in any row is not in line protocol
    client.create_table(two, "a/b ä", TAGS, FIELDS, None)
    more = ("--types", ",".join(f"{name}:{kind}" for name, kind in FIELDS.items())) if form == "csv" else ()
    said = local("import", "--database", two, *more, str(path))
    assert said.code == 0, said
    assert read(client, two, "a/b ä") == read(client, one, "a/b ä")


def test_only_some_tables_and_times(local: Command, client: Client, tmp_path: Path) -> None:
    client.write("some", b"a v=1 1000000000\na v=2 2000000000\na v=3 3000000000\nb v=1 1", precision="nanosecond")
    where = ("--from", "1970-01-01T00:00:02Z", "--to", "1970-01-01T00:00:03Z")
    said = local("export", "--database", "some", "--table", "a", "--format", "lp", *where, str(tmp_path / "x"))
    assert (said.code, said.out) == (0, "a.lp: 1 rows\n")
    assert (tmp_path / "x" / "a.lp").read_text() == "a v=2.0 2000000000\n"
    again = local("export", "--database", "some", "--format", "lp", str(tmp_path / "x"))
    assert "a.lp is there already" in again.err
    assert (tmp_path / "x" / "b.lp").read_text() == "b v=1.0 1\n"
    said = local("export", "--database", "some", "--table", "a", "--format", "lp", "--overwrite", str(tmp_path / "x"))
    assert len((tmp_path / "x" / "a.lp").read_text().splitlines()) == 3


INFLUX_1 = """# INFLUXDB EXPORT: 1677-09-21T00:12:43Z - 2262-04-11T23:47:16Z
# DDL
CREATE DATABASE NOAA WITH NAME autogen
CREATE DATABASE other WITH NAME week
# DML
# CONTEXT-DATABASE:influx1
# CONTEXT-RETENTION-POLICY:autogen
# writing tsm data
h2o,location=coyote\\ creek level=8.12,text="two
lines" 1566000000000000000
h2o,location=santa level=2.064 1566000000000000001
bad line
# CONTEXT-DATABASE:influx1b
# CONTEXT-RETENTION-POLICY:week
# writing wal data
pond depth=3i 1
"""


@pytest.mark.parametrize("packed", [False, True])
def test_an_export_of_influxdb_1(local: Command, client: Client, tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("dump.txt.gz" if packed else "dump.txt")
    path.write_bytes(gzip.compress(INFLUX_1.encode()) if packed else INFLUX_1.encode())
    said = local("import", str(path))
    assert said.code == 1
    assert said.out == f"{path.name}: 3 rows written, 1 refused\n"
    assert f"{path.name} line 12:" in said.err
    found = client.query_rows("influx1", "SELECT location, level, text FROM h2o ORDER BY time")
    assert found[0] == {"location": "coyote creek", "level": 8.12, "text": "two\nlines"}
    assert client.query_rows("influx1b", "SELECT depth FROM pond") == [{"depth": 3}]
    assert not list(tmp_path.glob("*.walmill-import"))


def test_an_export_of_influxdb_2(local: Command, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "bucket.lp.gz"
    path.write_bytes(
        gzip.compress(b"cpu,host=a usage=1.5 1566000000000000000\ncpu,host=b usage=2i 1566000000000000000\n")
    )
    said = local("import", str(path))
    assert (said.code, "name it with --database" in said.err) == (1, True)
    said = local("import", "--database", "influx2", str(path))
    assert (said.code, "1 refused" in said.out) == (1, True)
    assert client.query_rows("influx2", "SELECT usage FROM cpu") == [{"usage": 1.5}]


def test_csv_of_others(local: Command, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "press.csv"
    path.write_text(
        "when,line,force,ok,note\n"
        "1700000000,3,71.5,true,fine\n"
        "1700000001,3,high,true,\n"
        "1700000002,4,60,false\n"
        "soon,4,61,false,x\n"
        '1700000004,4,62,false,"a, b"\n'
    )
    flags = ("--database", "csv1", "--tags", "line", "--time-column", "when", "--time-unit", "s")
    said = local("import", *flags, "--types", "force:float64", str(path))
    assert said.code == 1
    assert said.out == "press.csv: 2 rows written, 3 refused\n"
    for number, why in ((3, "could not convert string to float"), (4, "4 cells and must have 5"), (5, "soon")):
        assert any(line.startswith(f"press.csv line {number}:") and why in line for line in said.err.splitlines()), (
            said.err
        )
    found = client.query_rows("csv1", "SELECT line, force, ok, note FROM press ORDER BY time")
    assert found == [
        {"line": "3", "force": 71.5, "ok": True, "note": "fine"},
        {"line": "4", "force": 62.0, "ok": False, "note": "a, b"},
    ]
    strict = local("import", *flags, "--types", "force:float64", "--strict", str(path))
    assert (strict.code, "press.csv line" in strict.err) == (1, True)


def test_parquet_of_others(local: Command, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "pump.parquet"
    columns = {
        "site": pa.array(["a", None]).dictionary_encode(),
        "rpm": pa.array([1, 2], pa.int32()),
        "at": pa.array([1_700_000_000_000, 1_700_000_000_001], pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
    said = local("import", "--database", "pq1", "--time-column", "at", "--time-unit", "ms", str(path))
    assert (said.code, said.out) == (0, "pump.parquet: 2 rows written\n")
    found = client.query_rows("pq1", "SELECT site, rpm, CAST(time AS BIGINT) AS t FROM pump ORDER BY time")
    assert found[0] == {"site": "a", "rpm": 1, "t": 1_700_000_000_000_000_000}


def test_an_import_that_is_killed_is_gone_on_with(
    start: Callable[..., Server], walmill: Command, tmp_path: Path
) -> None:
    server = start()
    path = tmp_path / "big.csv"
    rows = 300_000
    path.write_text("time,v\n" + "".join(f"{number},{number}\n" for number in range(rows)))
    note = tmp_path / "big.csv.walmill-import"
    command = [
        *WALMILL,
        "import",
        "--database",
        "d",
        "--tags",
        "",
        str(path),
        "--host",
        server.url,
        "--token",
        server.token,
    ]
    process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not note.exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = json.loads(note.read_text())["done"]
    assert done >= 1
    where = ("--host", server.url, "--token", server.token)
    said = walmill("import", "--database", "d", "--tags", "", str(path), *where)
    assert said.code == 0, said
    assert f"goes on behind {done}" in said.err or "goes on behind" in said.err
    assert not note.exists()
    with Client(server.url, server.token) as client:
        found = client.query_rows("d", "SELECT count(*) AS n, min(v) AS a, max(v) AS b FROM big")
    assert found == [{"n": rows, "a": 0, "b": rows - 1}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "-d", "nothing", "x"), 1, "no database 'nothing'"),
        (("export", "-d", "some2", "--table", "no", "x"), 1, "no table 'no'"),
        (("export", "-d", "some2", "--gzip", "x"), 2, "Parquet is compressed by itself"),
        (("export", "-d", "some2", "--from", "soon", "x"), 2, "--from"),
        (("export", "-d", "some2", "/dev/null/x"), 1, "/dev/null/x"),
        (("import", "-d", "some2", "nothing.csv"), 1, "is not there"),
        (("import", "-d", "some2", "{file}"), 1, "say --format"),
        (("import", "-d", "some2", "--format", "parquet", "{file}"), 1, "no Parquet file"),
        (("import", "-d", "some2", "--format", "csv", "{file}"), 1, "no column 'time'"),
        (("import", "-d", "some2", "--format", "csv", "--types", "a:text", "{file}"), 1, "not NAME:TYPE"),
        (
            ("import", "-d", "some2", "--format", "csv", "--time-column", "a", "--tags", "z", "{file}"),
            1,
            "no column 'z'",
        ),
        (("import", "--format", "csv", "--time-column", "a", "{file}"), 1, "name it with --database"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    local: Command, client: Client, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    client.write("some2", b"a v=1 1")
    file = tmp_path / "file"
    file.write_text("a,b\n1,2\n")
    answer = local(*(one.format(file=file) for one in arguments))
    assert (answer.code, said in answer.err) == (code, True), answer
