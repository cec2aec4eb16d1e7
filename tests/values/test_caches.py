"""Last-value and distinct-value caches: InfluxDB's cases (its `last_cache/tests.rs` and `distinct_cache/tests.rs`), and more."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, NotFound
from walmill.model.schema import TableSchema, arrow_schema
from walmill.model.valuecache import ValueCache
from walmill.options import EngineOptions
from walmill.testing.clock import ManualClock
from walmill.units import HOUR, SECOND
from walmill.values.content import fold_distinct, fold_last
from walmill.values.manage import NewCache
from walmill_hookspecs import QueryError, hookimpl

START = 1_700_000_000 * SECOND


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def engine(clock: ManualClock) -> Iterator[Engine]:
    with Engine.open(EngineOptions(discover_plugins=False, clock=clock)) as made:
        yield weakref.proxy(made)


def last(engine: Engine, table: str = "cpu", **more: Any) -> str:
    return engine.create_cache(NewCache(kind="last", database="d", table=table, **more)).name


def distinct(engine: Engine, *columns: str, table: str = "cpu", **more: Any) -> str:
    return engine.create_cache(NewCache(kind="distinct", database="d", table=table, columns=columns, **more)).name


def rows(engine: Engine, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
    found = engine.query(sql, params, database="d")
    if "time" in found.column_names:
        place = found.column_names.index("time")
        found = found.set_column(place, "time", found.column("time").cast(pa.int64()))
    return sorted((tuple(row.values()) for row in found.to_pylist()), key=repr)


def test_the_latest_write_is_picked_up(engine: Engine) -> None:
    engine.write("cpu,region=us,host=a usage=120 1000", database="d")
    last(engine, columns=["host"], ttl=None)
    sql = "SELECT * FROM last_cache('cpu')"
    assert rows(engine, sql) == [("a", "us", 120.0, 1000)]
    engine.write("cpu,region=us,host=a usage=99 2000", database="d")
    assert rows(engine, sql) == [("a", "us", 99.0, 2000)]
    engine.write("cpu,region=us,host=b usage=1 1500", database="d")
    assert rows(engine, sql) == [("a", "us", 99.0, 2000), ("b", "us", 1.0, 1500)]


def test_late_rows_count_by_their_times(engine: Engine) -> None:
    engine.write("cpu,host=a usage=5 5000", database="d")
    last(engine, count=2, ttl=None)
    sql = "SELECT usage, time FROM last_cache('cpu')"
    engine.write("cpu,host=a usage=3 3000", database="d")
    assert rows(engine, sql) == [(3.0, 3000), (5.0, 5000)]
    engine.write("cpu,host=a usage=1 1000", database="d")  # older than both
    assert rows(engine, sql) == [(3.0, 3000), (5.0, 5000)]
    engine.write("cpu,host=a usage=4 4000", database="d")
    assert rows(engine, sql) == [(4.0, 4000), (5.0, 5000)]
    engine.write("cpu,host=a usage=6,idle=1 5000", database="d")  # the same row again: it is one row
    assert rows(engine, sql) == [(4.0, 4000), (6.0, 5000)]


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("region = 'us'", 3),
        ("region = 'us' AND host = 'c'", 1),
        ("host = 'a'", 1),
        ("region IN ('us', 'eu')", 5),
        ("region NOT IN ('us', 'eu')", 1),
        ("region = 'us' OR host = 'f'", 4),
        ("region = 'mars'", 0),
        ("host = 'c' AND region = 'eu'", 0),
    ],
)
def test_predicates_on_the_key(engine: Engine, condition: str, count: int) -> None:
    lines = [f"cpu,region={region},host={host} usage={n} 1000" for n, (region, host) in enumerate(
        [("us", "a"), ("us", "b"), ("us", "c"), ("eu", "d"), ("eu", "e"), ("cn", "f")]
    )]  # fmt: skip
    engine.write("\n".join(lines), database="d")
    last(engine, columns=["region", "host"], ttl=None)
    assert len(rows(engine, f"SELECT * FROM last_cache('cpu') WHERE {condition}")) == count


def test_several_rows_for_each_key(engine: Engine) -> None:
    for number in range(12):
        engine.write(
            f"cpu,region=us,host=a usage={number} {number}\ncpu,region=us,host=b usage={number} {number}", database="d"
        )
    last(engine, columns=["region", "host"], count=10, ttl=None)
    found = rows(engine, "SELECT host, usage FROM last_cache('cpu')")
    assert found == sorted(((host, float(n)) for host in "ab" for n in range(2, 12)), key=repr)


def test_rows_end_so_long_after_they_were_written(engine: Engine, clock: ManualClock) -> None:
    engine.write("cpu,host=a usage=0 1", database="d")
    last(engine, ttl=10 * SECOND)
    sql = "SELECT host FROM last_cache('cpu')"
    engine.write("cpu,host=a usage=1 1000\ncpu,host=b usage=1 1000", database="d")
    assert rows(engine, sql) == [("a",), ("b",)]
    clock.advance(8 * SECOND)
    engine.write("cpu,host=b usage=2 2000", database="d")
    assert rows(engine, sql) == [("a",), ("b",)]
    clock.advance(4 * SECOND)
    assert rows(engine, sql) == [("b",)]
    clock.advance(10 * SECOND)
    assert rows(engine, sql) == []


def test_fields_as_keys(engine: Engine) -> None:
    engine.write('temp,id=1000,component=a active=true,type="camera",loc="port",reading=150 1000', database="d")
    engine.write('temp,id=1001,component=a active=false,type="camera",loc="ship",reading=10 1000', database="d")
    last(engine, "temp", columns=["component", "active", "type", "loc"], values=["id", "reading"], ttl=None)
    assert rows(engine, "SELECT * FROM last_cache('temp') WHERE active") == [
        ("a", True, "camera", "port", "1000", 150.0, 1000)
    ]
    assert len(rows(engine, "SELECT * FROM last_cache('temp') WHERE component = 'a' AND type = 'camera'")) == 2


def test_the_series_is_the_default_key(engine: Engine) -> None:
    engine.write(
        "temp,id=1000,component=a,loc=x reading=1 1000\ntemp,id=1001,component=a,loc=x reading=2 1000", database="d"
    )
    name = last(engine, "temp", ttl=None)
    assert name in {"temp_component_id_loc_last_cache", "temp_id_component_loc_last_cache"}
    assert len(rows(engine, "SELECT * FROM last_cache('temp')")) == 2


def test_nulls_among_the_values(engine: Engine) -> None:
    engine.write("w,province=on,city=a temp=15,hum=65 1000", database="d")
    last(engine, "w", columns=["province", "city"], ttl=None)
    engine.write("w,province=on,city=a temp=16 2000\nw,province=qc,city=b wind=3 2000", database="d")
    found = rows(engine, "SELECT city, temp, hum, wind FROM last_cache('w')")
    assert found == [("a", 16.0, None, None), ("b", None, None, 3.0)]


def test_rows_without_a_key_are_left_out(engine: Engine) -> None:
    engine.write("cpu,host=a usage=1 1000\ncpu usage=2 2000", database="d")
    last(engine, columns=["host"], ttl=None)
    assert rows(engine, "SELECT host, usage FROM last_cache('cpu')") == [("a", 1.0)]


def test_new_fields_are_in_a_cache_of_all_columns_only(engine: Engine) -> None:
    engine.write("cpu,host=a usage=1 1000", database="d")
    last(engine, columns=["host"], ttl=None)
    last(engine, columns=["host"], values=["usage", "time"], ttl=None, name="narrow")
    engine.write("cpu,host=a usage=2,cores=8i 2000", database="d")
    assert rows(engine, "SELECT * FROM last_cache('cpu')") == [("a", 2.0, 8, 2000)]
    assert rows(engine, "SELECT * FROM last_cache('cpu', 'narrow') x WHERE x.usage > 1") == [("a", 2.0, 2000)]
    assert engine.query("SELECT * FROM last_cache('cpu')", database="d").column_names == [
        "host",
        "usage",
        "cores",
        "time",
    ]


def test_a_new_tag(engine: Engine) -> None:
    engine.write("cpu,host=a usage=1 1000", database="d")
    last(engine, ttl=None)
    engine.write("cpu,host=a,rack=r1 usage=2 2000", database="d")
    assert rows(engine, "SELECT host, rack, usage FROM last_cache('cpu')") == [("a", "r1", 2.0)]


def test_definitions_and_contents_survive(tmp_path: Path) -> None:
    now = time.time_ns()
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.write(f"cpu,host=a usage=1 {now - HOUR}\ncpu,host=b usage=2 {now - 2 * HOUR}", database="d")
        last(engine, columns=["host"], ttl=4 * HOUR)
        distinct(engine, "host", ttl=24 * HOUR)
        engine.snapshot()
        engine.write(f"cpu,host=a usage=3 {now - HOUR // 2}\ncpu,host=c usage=9 {now - 5 * HOUR}", database="d")
        wanted = [("a", 3.0), ("b", 2.0), ("c", 9.0)]  # that of c was written just now
        assert rows(engine, "SELECT host, usage FROM last_cache('cpu')") == wanted
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        # from files as well as from the log; what is older than the cache keeps rows is not looked for
        assert rows(engine, "SELECT host, usage FROM last_cache('cpu')") == [("a", 3.0), ("b", 2.0)]
        assert rows(engine, "SELECT * FROM distinct_cache('cpu')") == [("a",), ("b",), ("c",)]
        engine.write(f"cpu,host=b usage=4 {now}", database="d")
        engine.snapshot()
        engine.write(f"cpu,host=d usage=5 {now}", database="d")
        assert rows(engine, "SELECT host, usage FROM last_cache('cpu')") == [("a", 3.0), ("b", 4.0), ("d", 5.0)]
        engine.delete_rows("d", "cpu", "host = 'a'")
        assert rows(engine, "SELECT host, usage FROM last_cache('cpu')") == [("b", 4.0), ("d", 5.0)]
        engine.delete_cache("last", "d", "cpu", "cpu_host_last_cache")
        with pytest.raises(NotFound, match="could not find cache for the given arguments"):
            rows(engine, "SELECT * FROM last_cache('cpu')")


def test_combinations_and_their_nulls(engine: Engine) -> None:
    engine.write(
        "cpu,region=us,host=a v=1 1000\ncpu,region=us,host=b v=1 1000\ncpu,region=eu v=1 1000\ncpu,host=z v=1 1000\ncpu v=1 1000",
        database="d",
    )
    distinct(engine, "region", "host", ttl=None)
    engine.write("cpu,region=us,host=a v=2 2000", database="d")
    everything = [("eu", None), ("us", "a"), ("us", "b"), (None, "z"), (None, None)]
    assert rows(engine, "SELECT * FROM distinct_cache('cpu')") == sorted(everything, key=repr)
    assert rows(engine, "SELECT region FROM distinct_cache('cpu') WHERE host NOT IN ('a')") == [("us",), (None,)]
    assert rows(engine, "SELECT * FROM distinct_cache('cpu') WHERE region = 'us' AND host IN ('b', 'z')") == [
        ("us", "b")
    ]
    assert rows(engine, "SELECT DISTINCT region FROM distinct_cache('cpu')") == [("eu",), ("us",), (None,)]
    assert len(rows(engine, "SELECT * FROM distinct_cache('cpu') LIMIT 2")) == 2
    ordered = engine.query("SELECT * FROM distinct_cache('cpu')", database="d").column("region").to_pylist()
    assert ordered == [None, None, "eu", "us", "us"]


def test_combinations_are_bounded_by_age_and_number(engine: Engine, clock: ManualClock) -> None:
    engine.write(f"cpu,host=x v=1 {START}", database="d")
    distinct(engine, "host", ttl=100, most=10)
    for number in range(20):
        engine.write(f"cpu,host=h{number:02} v=1 {START + number}", database="d")
    found = rows(engine, "SELECT host FROM distinct_cache('cpu')")
    assert found == [(f"h{number}",) for number in range(10, 20)]
    clock.advance(101 + 9)  # the first of them is too old now
    assert rows(engine, "SELECT host FROM distinct_cache('cpu')") == [(f"h{number}",) for number in range(10, 20)]
    clock.advance(1)
    assert len(rows(engine, "SELECT host FROM distinct_cache('cpu')")) == 9


def test_a_full_cache_lets_the_oldest_rows_go(caplog: pytest.LogCaptureFixture) -> None:
    with Engine.open(discover_plugins=False, value_cache=2**20) as engine:
        engine.create_database("d")
        for kind in ("last", "distinct"):
            engine.write("cpu,host=first v=1 1", database="d")
            engine.create_cache(NewCache(kind=kind, database="d", table="cpu", columns=["host"], ttl=None))
        for part in range(4):
            engine.write(
                "\n".join(f"cpu,host={'h' * 50}{row} v=1 {row}" for row in range(part * 5000 + 2, part * 5000 + 5002)),
                database="d",
            )
            last = engine.query("SELECT host, time FROM last_cache('cpu') ORDER BY time", database="d")
            assert last.nbytes < 2**20
            assert last["host"].to_pylist()[-1] == f"{'h' * 50}{part * 5000 + 5001}"
        assert 3000 < last.num_rows < 20_000
        times = last["time"].cast(pa.int64()).to_pylist()
        assert times == list(range(20_002 - len(times), 20_002))
        distinct = engine.query("SELECT host FROM distinct_cache('cpu')", database="d")
        assert 3000 < distinct.num_rows < 20_000
    assert caplog.text.count("a cache of values is full") == 2


def test_retention_holds_in_caches(engine: Engine, clock: ManualClock) -> None:
    engine.create_database("d", retention=HOUR)
    engine.write(f"cpu,host=a v=1 {START}", database="d")
    last(engine, ttl=None)
    distinct(engine, "host", ttl=None)
    assert (
        len(rows(engine, "SELECT * FROM last_cache('cpu')"))
        == len(rows(engine, "SELECT * FROM distinct_cache('cpu')"))
        == 1
    )
    clock.advance(HOUR + 1)
    assert rows(engine, "SELECT * FROM last_cache('cpu')") == rows(engine, "SELECT * FROM distinct_cache('cpu')") == []


def test_in_python_and_in_joins(engine: Engine) -> None:
    engine.write("cpu,region=us,host=a v=1 1000\ncpu,region=eu,host=b v=2 1000", database="d")
    last(engine, ttl=None)
    distinct(engine, "region", "host", ttl=None)
    assert engine.last_values("cpu", database="d", keys={"host": "b"}).column("v").to_pylist() == [2.0]
    assert engine.last_values("cpu", database="d", keys={"host": None}).num_rows == 0
    assert engine.distinct_values("cpu", "region", database="d").column("region").to_pylist() == ["eu", "us"]
    assert engine.distinct_values("cpu", database="d", keys={"region": "eu"}).to_pylist() == [
        {"region": "eu", "host": "b"}
    ]
    sql = "SELECT a.v, b.region FROM last_cache('cpu') a JOIN distinct_cache('cpu') b ON a.host = b.host WHERE a.v > $v"
    assert rows(engine, sql, {"v": 1}) == [(2.0, "eu")]
    with pytest.raises(InvalidRequest, match="the cache has no column 'rack'; it has region, host"):
        engine.distinct_values("cpu", "rack", database="d")
    with pytest.raises(InvalidRequest, match="host=1: the column is string"):
        engine.last_values("cpu", database="d", keys={"host": 1})
    with pytest.raises(NotFound, match=r"could not find cache for the given arguments: last_cache\('mem'\)"):
        engine.last_values("mem", database="d")


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"table": "nix"}, NotFound, "there is no table 'nix'"),
        ({"database": "nix"}, NotFound, "there is no database 'nix'"),
        ({"columns": ["hots"]}, InvalidRequest, "no column 'hots'; did you mean 'host'"),
        (
            {"columns": ["v"]},
            InvalidRequest,
            "'v' is float64; a key is a tag or a field of type string, int64, uint64, bool",
        ),
        ({"columns": ["host", "host"]}, InvalidRequest, "named twice"),
        ({"count": 0}, InvalidRequest, "count=0 must be at least 1"),
        ({"ttl": 0}, InvalidRequest, "at least a nanosecond"),
        ({"kind": "distinct"}, InvalidRequest, "name the columns"),
        ({"kind": "distinct", "columns": ["i"]}, InvalidRequest, "what is distinct is a tag or a field of type string"),
        ({"kind": "distinct", "columns": ["host"], "most": 0}, InvalidRequest, "max_cardinality=0"),
        ({"name": "taken"}, Conflict, "has a last value cache 'taken' already"),
        ({"name": "a\nb"}, InvalidRequest, "the name of the cache"),
    ],
)
def test_what_cannot_be(engine: Engine, more: dict[str, Any], error: type[Exception], text: str) -> None:
    engine.write("cpu,host=a v=1,i=1i 1000", database="d")
    last(engine, name="taken")
    with pytest.raises(error, match=text):
        engine.create_cache(NewCache(**{"kind": "last", "database": "d", "table": "cpu", **more}))
    with pytest.raises(InvalidRequest, match=r"last_cache takes the name of a table"):
        engine.query("SELECT * FROM last_cache(cpu)", database="d")
    with pytest.raises(NotFound, match="last value cache 'none'"):
        engine.delete_cache("last", "d", "cpu", "none")


def test_caches_go_with_their_tables(engine: Engine) -> None:
    engine.write("cpu,host=a v=1 1000\nmem,host=a v=1 1000", database="d")
    last(engine)
    last(engine, "mem")
    engine.delete_table("d", "cpu")
    assert [one["table"] for one in engine.caches("d")] == ["mem"]
    with pytest.raises(NotFound):
        engine.last_values("cpu", database="d")
    assert rows(engine, 'SELECT "table", count FROM system.last_caches') == [("mem", 1)]
    engine.restore_table("d", "cpu")
    assert [one["table"] for one in engine.caches("d")] == ["cpu", "mem"]


class Looks:
    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        found = ctx.last_values("cpu", keys={"host": "a"}).column("v").to_pylist()
        ctx.log.info("%s %s", found, ctx.distinct_values("cpu", "host").column("host").to_pylist())
        try:
            ctx.last_values("nothing")
        except QueryError as error:
            ctx.log.info(str(error))


class LooksAsync:
    @hookimpl
    async def on_write(self, batch: Any, ctx: Any) -> None:
        found = (await ctx.last_values("cpu", keys={"host": "a"})).column("v").to_pylist()
        ctx.log.info("%s %s", found, (await ctx.distinct_values("cpu", "host")).column("host").to_pylist())


def _lines(engine: Engine, count: int) -> list[str]:
    sql = "SELECT log_text FROM system.processing_engine_logs"
    end = time.monotonic() + 60
    while len(found := engine.query(sql, database="d").column(0).to_pylist()) < count:
        assert time.monotonic() < end
        time.sleep(0.01)
    return sorted(found)


@pytest.mark.parametrize("plugin", [Looks, LooksAsync])
def test_plugins_ask_them(plugin: type) -> None:
    with Engine.open(discover_plugins=False) as engine:
        engine.write("cpu,host=a v=1 1000", database="d")
        last(engine, ttl=None)
        distinct(engine, "host", ttl=None)
        engine.register(plugin, name="looks")
        engine.create_trigger(database="d", name="t", plugin="looks", spec="table:cpu")
        engine.write("cpu,host=a v=2 2000", database="d")
        lines = _lines(engine, 1 if plugin is LooksAsync else 2)
        assert "[2.0] ['a']" in lines
        assert plugin is LooksAsync or any("could not find cache" in line for line in lines)


ISOLATED = """
from walmill_hookspecs import hookimpl

class Sync:
    @hookimpl
    def on_write(self, batch, ctx):
        print(ctx.last_values("cpu", keys={"host": "a"}).column("v").to_pylist(), ctx.distinct_values("cpu", "host").to_pylist())

class Async:
    pass
"""


def test_workers_ask_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from walmill.plugins.places import find_plugin

    file = tmp_path / "asks.py"
    file.write_text(ISOLATED)
    with Engine.open(discover_plugins=False) as engine:
        place = find_plugin(str(file))
        engine.registry.add(place.name, place.value)
        engine.write("cpu,host=a v=1 1000", database="d")
        last(engine, ttl=None)
        distinct(engine, "host", ttl=None)
        engine.create_trigger(database="d", name="t", plugin="asks", spec="table:cpu", executor="process")
        engine.write("cpu,host=a v=2 2000", database="d")
        assert _lines(engine, 1) == ["[2.0] [{'host': 'a'}]"]


def test_writers_and_readers_at_once() -> None:
    with Engine.open(discover_plugins=False) as engine:
        engine.write("cpu,host=h0 v=0i 0", database="d")
        last(engine, ttl=None)
        stop = threading.Event()

        def write(host: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                engine.write(f"cpu,host={host} v={number}i {number}", database="d")

        writers = [threading.Thread(target=write, args=(f"h{n}",)) for n in range(3)]
        for one in writers:
            one.start()
        seen = 0
        for _ in range(50):
            view = engine.view()
            wanted = engine._query(view, "d", "SELECT host, max(v) AS v FROM cpu GROUP BY host", None)
            have = dict(
                zip(*engine.last_values("cpu", database="d").select(["host", "v"]).to_pydict().values(), strict=True)
            )
            for row in wanted.to_pylist():
                assert have[row["host"]] >= row["v"]
            seen = max(seen, *have.values())
        stop.set()
        for one in writers:
            one.join()
        final = engine.query("SELECT host, max(v) AS v FROM cpu GROUP BY host", database="d").to_pylist()
        assert sorted(engine.last_values("cpu", database="d").column("v").to_pylist()) == sorted(
            row["v"] for row in final
        )


TEXTS = {name: st.sampled_from([*name, None]) for name in ("ab", "xy")}
ROWS = st.lists(
    st.tuples(TEXTS["ab"], TEXTS["xy"], st.integers(0, 9), st.one_of(st.none(), st.integers(0, 99))), max_size=40
)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 40), max_size=5), count=st.integers(1, 4), both=st.booleans())
def test_folding_equals_looking_at_everything(rows: list[Any], cuts: list[int], count: int, both: bool) -> None:
    """However the rows come in pieces, a cache holds what a look at all of them finds."""
    schema = TableSchema("t", ("p", "q"), {"v": "int64", "w": "int64"})
    keys = ("p", "q") if both else ("p",)
    cache = ValueCache(id=1, table_id=1, kind="last", name="c", columns=keys, count=count)
    combined = ValueCache(id=2, table_id=1, kind="distinct", name="d", columns=keys, most=1000)

    def batch(some: list[Any]) -> pa.RecordBatch:
        return pa.RecordBatch.from_pydict(
            {
                "p": pa.array([row[0] for row in some], pa.string()),
                "q": pa.array([row[1] for row in some], pa.string()),
                "v": pa.array([row[3] for row in some], pa.int64()),
                "w": pa.array(range(len(some)), pa.int64()),
                "time": pa.array([row[2] for row in some], pa.int64()).cast(pa.timestamp("ns")),
            },
            schema=arrow_schema(schema),
        )

    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    held = seen = None
    for first, end in pairwise(edges):
        held = fold_last(held, batch(rows[first:end]), 7, cache, schema)
        seen = fold_distinct(seen, batch(rows[first:end]), combined, schema)
    merged: dict[Any, Any] = {}
    for p, q, at, value in rows:
        known = merged.get((p, q, at))
        merged[p, q, at] = value if value is not None else known
    wanted = []
    for key in {row[:2] if both else row[:1] for row in rows}:
        if None in key:
            continue
        of_key = sorted((at for (p, q, at) in merged if ((p, q) if both else (p,)) == key), reverse=True)[:count]
        wanted += [(*key, at) for at in of_key]
    assert held is not None
    names = [*keys, "time"]
    found = held.select(names).set_column(len(keys), "time", held.column("time").cast(pa.int64())).to_pylist()
    assert sorted(tuple(row.values()) for row in found) == sorted(wanted)
    if both:
        places = zip(
            *(held.column(name).to_pylist() for name in keys),
            held.column("time").cast(pa.int64()).to_pylist(),
            strict=True,
        )
        assert all(merged[key] == value for key, value in zip(places, held.column("v").to_pylist(), strict=True))
    assert seen is not None
    combos = list(zip(*(seen.column(name).to_pylist() for name in keys), strict=True))
    assert sorted(combos, key=repr) == sorted({row[:2] if both else row[:1] for row in rows}, key=repr)


KEYS = st.fixed_dictionaries({"host": st.sampled_from(["a", "b", "c"]), "n": st.integers(0, 2)})


@settings(max_examples=20)
@given(
    st.lists(st.tuples(KEYS, st.integers(0, 9)), min_size=1, max_size=8),
    st.lists(KEYS, min_size=3, max_size=4),
    st.sampled_from([1, 2]),
)
def test_a_key_is_found_by_an_index_as_by_a_look_at_all(
    written: list[tuple[dict[str, Any], int]], asked: list[dict[str, Any]], count: int
) -> None:
    clock = ManualClock(START)
    with Engine.open(EngineOptions(discover_plugins=False, clock=clock)) as engine:
        name = last(engine_with(engine), columns=["host", "n"], count=count, ttl=HOUR)
        for number, (key, at) in enumerate(written):
            engine.write(f"cpu,host={key['host']} n={key['n']}i,v={number} {START + at}", database="d")
            every = engine.last_values("cpu", database="d", cache=name)
            for wanted in asked:  # the first question is answered without an index, those that follow by it
                mask = [row["host"] == wanted["host"] and row["n"] == wanted["n"] for row in every.to_pylist()]
                found = engine.last_values("cpu", database="d", cache=name, keys=wanted)
                assert found.equals(every.filter(pa.array(mask, pa.bool_())))
        clock.advance(2 * HOUR)
        for wanted in asked:
            assert engine.last_values("cpu", database="d", keys=wanted).num_rows == 0


def engine_with(engine: Engine) -> Engine:
    """An engine that has the table, with a row that is too old."""
    engine.write("cpu,host=old n=7i,v=0 1", database="d")
    return engine


def test_keys_of_other_types_are_compared_as_before(engine: Engine) -> None:
    engine.write("cpu,host=a n=1i,v=1 1\ncpu,host=b n=0i,v=2 2", database="d")
    last(engine, columns=["n"], ttl=None)
    for _ in range(3):
        assert engine.last_values("cpu", database="d", keys={"n": 1}).column("host").to_pylist() == ["a"]
        assert engine.last_values("cpu", database="d", keys={"n": 1.0}).column("host").to_pylist() == ["a"]
        assert engine.last_values("cpu", database="d", keys={"n": 5}).num_rows == 0
        assert engine.last_values("cpu", database="d", keys={"host": "b"}).column("host").to_pylist() == ["b"]
        with pytest.raises(InvalidRequest, match="cannot be compared"):
            engine.last_values("cpu", database="d", keys={"n": "x"})
        with pytest.raises(InvalidRequest, match="has no column 'nope'"):
            engine.last_values("cpu", database="d", keys={"nope": "x"})
