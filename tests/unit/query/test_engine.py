"""Queries: results, parameters, errors, limits, streams, and several threads at once."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from walmill.buffer.source import TableSource
from walmill.buffer.table import BIG, TableBuffer
from walmill.errors import InvalidRequest
from walmill.model.schema import TableSchema
from walmill.query import engine as query_engine
from walmill.query.engine import QueryEngine
from walmill.query.errors import NotSupported, QueryStopped, QueryTimeout, QueryTooLarge, TableNotFound
from walmill.query.plan import Made

CPU = TableSchema("cpu", ("host",), {"load": "float64"})
ENDLESS = "SELECT sum(sqrt(value)) AS s FROM generate_series(1, 1000000000000)"


def cpu_rows(start, rows, hosts=10):
    return pa.record_batch(
        {
            "host": pa.array([f"h{row % hosts}" for row in range(rows)]),
            "load": pa.array([float(row) for row in range(rows)]),
            "time": pa.array(range(start, start + rows), pa.timestamp("ns")),
        }
    )


@pytest.fixture(scope="module", params=["quick", "driven"])
def engine(request):
    """One that reads small answers where they are asked for, and one that does not."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "driven":
            patch.setattr(query_engine, "QUICK_ROWS", -1)
        engine = QueryEngine(memory_limit=32 * 2**20)
        engine.query({}, "SELECT * FROM generate_series(1, 1)")  # starts its thread here, not in the first test
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def tables():
    return {
        "cpu": TableSource(TableBuffer.empty(CPU).append(cpu_rows(0, 100), CPU, 1)),
        "big": TableSource(TableBuffer.empty(CPU).append(cpu_rows(0, 50_000), CPU, 1)),
        "Mixed.case": TableSource(TableBuffer.empty(TableSchema("Mixed.case", (), {"v": "int64"}))),
    }


def rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM cpu", [(100,)]),
        ("SELECT host, count(*) FROM public.iox.cpu WHERE host = 'h3' GROUP BY 1", [("h3", 10)]),
        ("SELECT count(*) FROM 'cpu'", [(100,)]),
        ('SELECT count(*) FROM "Mixed.case"', [(0,)]),
        ("SELECT a.load FROM cpu a JOIN cpu b ON a.time = b.time WHERE b.load = 7", [(7.0,)]),
        ("WITH nosuch AS (SELECT 1 AS x) SELECT x FROM nosuch", [(1,)]),
        ("SHOW COLUMNS FROM cpu", None),
        ("DESCRIBE cpu", [("host", "Utf8", "YES"), ("load", "Float64", "YES"), ("time", "Timestamp(ns)", "NO")]),
        (
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'iox'",
            [("Mixed.case", "BASE TABLE"), ("big", "BASE TABLE"), ("cpu", "BASE TABLE")],
        ),
        (
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'cpu'",
            [("host", "Dictionary(Int32, Utf8)"), ("load", "Float64"), ("time", "Timestamp(ns)")],
        ),
        ("SELECT date_bin(INTERVAL '50 nanoseconds', time) AS t FROM cpu GROUP BY 1 HAVING count(*) > 50", []),
    ],
)
def test_results(engine, tables, sql, expected):
    found = engine.query(tables, sql)
    if expected is not None:
        assert sorted(rows(found)) == expected


def test_time_stays_in_nanoseconds_without_zone(engine, tables):
    found = engine.query(tables, "SELECT host, time FROM cpu WHERE load = 3")
    assert found.schema.field("time").type == pa.timestamp("ns")
    assert found.column("time")[0].value == 3
    empty = engine.query(tables, "SELECT host, time FROM cpu WHERE load < 0")
    assert (empty.num_rows, empty.schema.names) == (0, ["host", "time"])


def test_a_table_is_looked_up_only_when_it_is_named(engine, tables):
    class Tables(dict):
        asked = ()

        def __getitem__(self, name):
            self.asked += (name,)
            return super().__getitem__(name)

    lazy = Tables(tables)
    engine.query(lazy, "SELECT count(*) FROM cpu")
    assert set(lazy.asked) == {"cpu"}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "Null"),
        (True, "Boolean"),
        (-5, "Int64"),
        (2**63, "UInt64"),
        (1.5, "Float64"),
        ("x' OR 1=1 --", "Utf8"),
        (b"\x00", "Binary"),
        (datetime(2024, 1, 1, tzinfo=UTC), "Timestamp(ns)"),
    ],
)
def test_parameters_are_typed_values(engine, value, kind):
    found = engine.query({}, "SELECT arrow_typeof($v) AS kind, $v AS v", {"v": value})
    assert found.column("kind")[0].as_py() == kind
    if not isinstance(value, datetime):
        assert found.column("v")[0].as_py() == value


def test_a_parameter_is_never_read_as_sql(engine, tables):
    sql = "SELECT count(*) AS c FROM cpu WHERE host = $host"
    assert rows(engine.query(tables, sql, {"host": "h1' OR 'a'='a"})) == [(0,)]
    assert rows(engine.query(tables, sql, {"host": "h1"})) == [(10,)]


def test_a_datetime_is_an_instant(engine):
    value = datetime(1970, 1, 1, 1, 0, 0, 7, tzinfo=timezone(timedelta(hours=1)))
    found = engine.query({}, "SELECT $t AS t", {"t": value})
    assert found.column("t")[0].value == 7000


def test_parameters_in_limits_and_times(engine, tables):
    found = engine.query(
        tables,
        "SELECT load FROM cpu WHERE time >= $from ORDER BY time LIMIT $n",
        {"from": "1970-01-01T00:00:00", "n": 2},
    )
    assert rows(found) == [(0.0,), (1.0,)]


@pytest.mark.parametrize(
    ("sql", "params", "kind", "status", "message"),
    [
        ("SELECT * FROM cpuu", None, TableNotFound, 404, "table 'cpuu' does not exist; did you mean 'cpu'?"),
        ("SELECT * FROM Mixed.Case", None, TableNotFound, 404, "table 'mixed.case' does not exist"),
        ("SELECT * FROM nothing_like_it", None, TableNotFound, 404, "SHOW TABLES lists those that do"),
        ("SELECT * FROM system.x", None, TableNotFound, 404, "table 'system.x' does not exist; SHOW TABLES"),
        ("SELECT nope FROM cpu", None, InvalidRequest, 400, "No field named nope"),
        ("SELEC 1", None, InvalidRequest, 400, "Expected: an SQL statement, found: SELEC at Line: 1, Column: 1"),
        ("", None, InvalidRequest, 400, "No SQL statements"),
        ("SELECT 1/0", None, InvalidRequest, 400, "Divide by zero"),
        ("SELECT sum(host) FROM cpu", None, InvalidRequest, 400, "function 'sum' does not take"),
        ("SELECT 1; SELECT 2", None, NotSupported, 405, "single SQL statement"),
        ("BEGIN", None, NotSupported, 405, "BEGIN"),
        ("SELECT $host", None, InvalidRequest, 400, "No value found for placeholder with name $host"),
        ("SELECT $a, $host", {"a": 1}, InvalidRequest, 400, "No value found for placeholder with name $host"),
        ("SELECT $ab", {"ab": 1, "a": 1}, InvalidRequest, 400, "no placeholder $a, but"),
        ("SELECT $a", {"a": [1]}, InvalidRequest, 400, "parameter $a is a list"),
        ("SELECT $a", {"a": 2**64}, InvalidRequest, 400, "does not fit into 64 bits"),
        ("SELECT $a", {"a": datetime(2024, 1, 1)}, InvalidRequest, 400, "naive datetime 2024-01-01T00:00:00"),
        ("SELECT $a", {"a": datetime(9999, 1, 1, tzinfo=UTC)}, InvalidRequest, 400, "1678 to 2262"),
        ("SELECT 1", {"a b": 1}, InvalidRequest, 400, "parameter name 'a b'"),
        ("CREATE TABLE x AS SELECT 1", None, InvalidRequest, 400, "queries only read"),
        ("DROP TABLE cpu", None, InvalidRequest, 400, "queries only read"),
        ("INSERT INTO cpu SELECT * FROM cpu", None, InvalidRequest, 400, "queries only read"),
        ("EXPLAIN ANALYZE INSERT INTO cpu SELECT * FROM cpu", None, InvalidRequest, 400, "queries only read"),
        ("COPY cpu TO 'x.parquet'", None, InvalidRequest, 400, "queries only read"),
        ("SET datafusion.execution.batch_size = 1", None, InvalidRequest, 400, "queries only read"),
        ("SELECT * FROM '/etc/hostname'", None, TableNotFound, 404, "does not exist"),
    ],
)
def test_errors(engine, tables, sql, params, kind, status, message):
    with pytest.raises(kind) as caught:
        engine.query(tables, sql, params)
    assert message in str(caught.value)
    assert caught.value.status == status
    assert "DataFusion error" not in str(caught.value)


def test_a_name_in_other_letter_case_gets_the_hint_about_quotes(engine):
    named = {"CPU": TableSource(TableBuffer.empty(TableSchema("CPU", (), {"v": "int64"})))}
    with pytest.raises(TableNotFound, match='write "CPU" in double quotes') as caught:
        engine.query(named, "SELECT * FROM CPU")
    assert (caught.value.table, caught.value.near) == ("cpu", ("CPU",))
    with pytest.raises(TableNotFound, match="the database has no tables yet"):
        engine.query({}, "SELECT * FROM cpu")


def test_a_query_has_a_limit_of_memory(engine, tables):
    with pytest.raises(QueryTooLarge, match="more than the 32 MB of memory"):
        engine.query(tables, "SELECT a.load + b.load AS s FROM big a, big b ORDER BY 1")
    with pytest.raises(InvalidRequest, match="give at least 1048576"):
        QueryEngine(memory_limit=1000)


@pytest.mark.parametrize("way", ["query", "stream"])
def test_a_timeout_stops_the_work(engine, way):
    started = time.monotonic()
    with pytest.raises(QueryTimeout, match=r"stopped after 0\.1 s"):
        getattr(engine, way)({}, ENDLESS, timeout=0.1)
    assert time.monotonic() - started < 5
    # once DataFusion has dropped it, no thread of the process works on
    for _ in range(50):
        before = time.process_time()
        threading.Event().wait(0.1)
        if time.process_time() - before < 0.05:
            return
    pytest.fail("the query goes on after its timeout")


def test_a_stream_hands_out_batches_as_they_come(engine):
    with engine.stream({}, "SELECT value FROM generate_series(1, 1000000000000)") as stream:
        first = next(stream)
        assert first.schema == stream.schema
        assert next(stream).num_rows > 0
    assert list(stream) == []


def test_a_stream_gives_the_same_as_a_query(engine, tables):
    sql = "SELECT * FROM big ORDER BY time"
    assert engine.stream(tables, sql).read_all().equals(engine.query(tables, sql))
    assert engine.stream(tables, sql).to_reader().read_all().equals(engine.query(tables, sql))
    empty = engine.stream(tables, "SELECT host FROM big WHERE load < 0")
    assert (empty.schema.names, list(empty)) == (["host"], [])


def test_errors_before_the_first_batch_come_from_the_call(engine, tables):
    with pytest.raises(InvalidRequest, match="Divide by zero"):
        engine.stream(tables, "SELECT 1 / (load - load)::int FROM cpu")
    with pytest.raises(TableNotFound):
        engine.stream(tables, "SELECT * FROM nosuch")


def test_closing_a_stream_wakes_the_thread_that_reads_it(engine):
    # one batch, then an endless search for the next
    stream = engine.stream({}, f"SELECT 1.0 AS s UNION ALL {ENDLESS}")
    next(stream)
    reading = threading.Event()

    def read():
        reading.set()
        return next(stream)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read)
        reading.wait()
        threading.Event().wait(0.05)
        stream.close()
        with pytest.raises((QueryStopped, StopIteration)):
            waiting.result(10)


def test_closing_the_engine_stops_queries():
    engine = QueryEngine()
    with ThreadPoolExecutor(1) as pool:
        stream = engine.stream({}, "SELECT value FROM generate_series(1, 1000000000000)")
        waiting = pool.submit(engine.query, {}, ENDLESS)
        threading.Event().wait(0.2)
        engine.close()
        engine.close()
        with pytest.raises(QueryStopped):
            waiting.result(10)
    with pytest.raises(QueryStopped, match="closing"):
        engine.query({}, "SELECT 1")
    next(stream)
    with pytest.raises(QueryStopped):
        next(stream)


def test_extra_schemas(engine, tables):
    schema = pa.schema({"id": pa.int64()})
    runs = Made(lambda: schema, lambda: pa.table({"id": [1, 2]}))
    extra = {"system": {"runs": runs, "broken": Made(lambda: schema, lambda: {}["x"])}}
    assert rows(engine.query(tables, "SELECT max(id) FROM system.runs", extra=extra)) == [(2,)]
    shown = engine.query(tables, "SHOW TABLES", extra=extra)
    assert ("public", "system", "runs", "BASE TABLE") in rows(shown)
    with pytest.raises(TableNotFound, match=r"did you mean 'system\.runs'"):
        engine.query(tables, "SELECT * FROM system.run", extra=extra)
    with pytest.raises(KeyError):
        engine.query(tables, "SELECT * FROM system.broken", extra=extra)


def test_every_snapshot_answers_for_itself(engine):
    buffer = TableBuffer.empty(CPU)
    snapshots = []
    for sequence in range(60):
        rows_now = BIG if sequence % 3 else 1
        buffer = buffer.append(cpu_rows(buffer.num_rows, rows_now), CPU, sequence)
        snapshots.append((buffer, buffer.num_rows))
    for snapshot, count in [*snapshots[::7], *snapshots[::-11]]:
        for _ in range(2):
            assert rows(engine.query({"cpu": TableSource(snapshot)}, "SELECT count(*) FROM cpu")) == [(count,)]
    plan = engine.query({"cpu": TableSource(buffer)}, "EXPLAIN SELECT host FROM cpu WHERE host = 'h1'").to_pylist()[1][
        "plan"
    ]
    assert plan.count("DataSourceExec") <= 5  # few branches, however many batches


def test_several_threads_query_while_rows_are_written(engine):
    buffer = TableBuffer.empty(CPU)
    published = [buffer]
    stop = threading.Event()

    def read():
        while not stop.is_set():
            snapshot = published[0]
            found = rows(engine.query({"cpu": TableSource(snapshot)}, "SELECT count(*), count(DISTINCT time) FROM cpu"))
            assert found == [(snapshot.num_rows, snapshot.num_rows)]

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for sequence in range(400):
            buffer = buffer.append(cpu_rows(buffer.num_rows, 1 if sequence % 20 else 5000), CPU, sequence)
            published[0] = buffer
            time.sleep(0)
        stop.set()
        for reader in readers:
            reader.result(30)


@pytest.mark.parametrize(
    "work", ["engine.query({}, 'SELECT 1')", "stream = engine.stream({}, ENDLESS_ROWS); next(stream)"]
)
def test_the_interpreter_ends_cleanly(work):
    program = (
        "import sys\nfrom walmill.query.engine import QueryEngine\n"
        "assert 'datafusion' not in sys.modules\nengine = QueryEngine()\n"
        "ENDLESS_ROWS = 'SELECT value FROM generate_series(1, 1000000000000)'\n"
        f"{work}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
