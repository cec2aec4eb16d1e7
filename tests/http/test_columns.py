"""`/api/v3/write_rows` and `/api/v3/write_arrow`: rows that are columns already, or nearly."""

from __future__ import annotations

import gzip
import io
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.store.submission import RowsWrite

ROWS = "/api/v3/write_rows?db=d&table=t"
ARROW = "/api/v3/write_arrow?db=d&table=t"


def stream(table: pa.Table, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return sink.getvalue()


def _read(engine: Engine, columns: str = 'host, v, CAST("time" AS BIGINT) AS t') -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.query(f'SELECT {columns} FROM t ORDER BY "time"', database="d").to_pylist()
    return found


@pytest.mark.parametrize(
    "body",
    [
        b'[{"host":"a","v":1.5,"time":1},{"host":null,"v":2,"time":"1970-01-01T00:00:00.000000002Z"}]',
        b'{"host":"a","v":1.5,"time":1}\n\n{"v":2,"time":"2"}\n',
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_are_written(client: TestClient, engine: Engine, body: bytes, packed: bool) -> None:
    answer = client.post(
        f"{ROWS}&tags=host",
        content=gzip.compress(body) if packed else body,
        headers={"content-encoding": "gzip"} if packed else {},
    )
    # in a new column an int is an int: the second row is refused, and so is all
    assert answer.status_code == 400
    assert engine.databases() == []
    engine.write("t,host=z v=0.5 0", database="d")
    answer = client.post(
        ROWS,
        content=gzip.compress(body) if packed else body,
        headers={"content-encoding": "gzip"} if packed else {},
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert _read(engine)[1:] == [{"host": "a", "v": 1.5, "t": 1}, {"host": None, "v": 2.0, "t": 2}]


BAD_ROWS = (
    b'[{"host":"a","v":1,"time":1},{"host":5,"v":1,"time":2},7,{"host":"b","time":4},{"host":"c","v":"x","new":1,"time":5},'
    b'{"host":"d","v":2,"time":"soon"},{"host":"e","v":3,"time":7}]'
)
REPORT = [
    {"error_message": "5 is a int and tags are strings: use str()", "row_number": 2, "column": "host"},
    {
        "error_message": '7 is no row: a row is a JSON object, such as {"host": "a", "usage": 0.5, "time": '
        '"2026-01-31T09:30:00Z"}',
        "row_number": 3,
    },
    {"error_message": "no field has a value: a row needs at least one", "row_number": 4},
    {
        "error_message": "the value 'x' is string and earlier rows hold int64: use one type for all",
        "row_number": 5,
        "column": "v",
    },
    {
        "error_message": "the time 'soon' is not a time: write for example 2026-01-31T09:30:00Z, or nanoseconds since the "
        "epoch",
        "row_number": 6,
        "column": "time",
    },
]


def test_every_bad_row_is_named_and_nothing_is_written(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{ROWS}&tags=host", content=BAD_ROWS)
    assert answer.status_code == 400
    assert answer.json() == {"error": "rows were refused, and nothing was written", "data": REPORT}
    assert engine.databases() == []


def test_with_accept_partial_the_others_are_written(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{ROWS}&tags=host&accept_partial=true", content=BAD_ROWS)
    assert answer.status_code == 400
    assert answer.json() == {"error": "partial write of rows occurred", "data": REPORT}
    assert _read(engine) == [{"host": "a", "v": 1, "t": 1}, {"host": "e", "v": 3, "t": 7}]
    catalog = engine.view().catalog
    table = catalog.find_table(catalog.find_database("d"), "t")
    assert table is not None
    assert list(table.schema.fields) == ["v"], "a refused row leaves no column"


def test_so_many_bad_rows_are_all_named(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{ROWS}&tags=&accept_partial=true", content=b"1\n" * 10_000 + b'{"v":1}')
    assert [one["row_number"] for one in answer.json()["data"]] == list(range(1, 10_001))
    assert engine.query("SELECT v FROM t", database="d").num_rows == 1


def test_only_bad_rows_make_nothing(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{ROWS}&tags=host&accept_partial=true", content=b'{"host":"a"}')
    assert answer.status_code == 400
    assert engine.databases() == []


TABLE = pa.table(
    {
        "host": pa.array(["a", "b", None]).dictionary_encode(),
        "v": [1.5, 2.5, 3.5],
        "time": pa.array([1, 2, 3], pa.timestamp("ns")),
    }
)


@pytest.mark.parametrize("rows", [None, 1, 2])
def test_a_stream_is_written(client: TestClient, engine: Engine, rows: int | None) -> None:
    answer = client.post(f"{ARROW}&tags=host", content=stream(TABLE, rows))
    assert (answer.status_code, answer.content) == (204, b"")
    assert _read(engine) == [
        {"host": host, "v": v, "t": t} for host, v, t in (("a", 1.5, 1), ("b", 2.5, 2), (None, 3.5, 3))
    ]
    assert engine.view().catalog.database("d").tables.keys() == {"t"}


def test_a_stream_for_a_table_that_exists_needs_no_tags(client: TestClient, engine: Engine) -> None:
    engine.write("t,host=z v=0 0", database="d")
    more = TABLE.append_column("w", pa.array([True, None, False]))
    assert (
        client.post(ARROW, content=gzip.compress(stream(more)), headers={"content-encoding": "gzip"}).status_code == 204
    )
    assert [row["w"] for row in _read(engine, "w")] == [None, True, None, False]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            TABLE.set_column(1, "v", pa.array([1, 2, 2**60 + 1])),
            {
                "error_message": "the int 1152921504606846977 is not exactly a float64, and the column is float64",
                "row_number": 3,
                "column": "v",
            },
        ),
        (
            TABLE.set_column(1, "v", pa.array(["x", "y", "z"])),
            {
                "error_message": "it is string and the column is float64: cast it, or choose another column",
                "column": "v",
            },
        ),
        (
            TABLE.set_column(1, "v", pa.array([1.0, None, None])),
            {"error_message": "no field has a value: a row needs at least one", "row_number": 2},
        ),
    ],
)
def test_a_stream_that_does_not_fit_the_table(
    client: TestClient, engine: Engine, table: pa.Table, told: dict[str, Any]
) -> None:
    engine.write("t,host=z v=0 0", database="d")
    more = table.append_column("new", pa.array([1.0, None, None]))
    answer = client.post(ARROW, content=stream(more))
    assert answer.status_code == 400
    assert answer.json() == {"error": "rows were refused, and nothing was written", "data": [told]}
    catalog = engine.view().catalog
    found = catalog.find_table(catalog.find_database("d"), "t")
    assert found is not None
    assert list(found.schema.fields) == ["v"]
    assert len(_read(engine)) == 1


BAD_TABLE = pa.table(
    {
        "host": pa.array(["a", "", "c", "d", "e", "f"]).dictionary_encode(),
        "v": [1.5, 2.5, math.inf, 4.5, None, 6.5],
        "new": [None, 1.0, 1.0, None, None, None],
        "time": pa.array([1, 2, 3, 2**40, 5, None], pa.timestamp("s")),
    }
)
ARROW_REPORT = [
    {"error_message": "the value of a tag cannot be empty: use null", "row_number": 2, "column": "host"},
    {"error_message": "the value inf is infinite: use null for no value", "row_number": 3, "column": "v"},
    {
        "error_message": "the time 1099511627776 of timestamp[s] is out of range: 64-bit nanoseconds reach from 1677 to 2262",
        "row_number": 4,
        "column": "time",
    },
    {"error_message": "no field has a value: a row needs at least one", "row_number": 5},
]


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("partial", ["true", "false"])
def test_bad_rows_of_a_stream(client: TestClient, engine: Engine, partial: str, rows: int | None) -> None:
    """Only with `accept_partial` are the others written; a row without time has that of its arrival. As for JSON rows."""
    answer = client.post(f"{ARROW}&tags=host&accept_partial={partial}", content=stream(BAD_TABLE, rows))
    assert answer.status_code == 400
    if partial == "false":
        told = answer.json()
        assert told == {"error": "rows were refused, and nothing was written", "data": told["data"]}
        (first,) = told["data"]
        assert first in ARROW_REPORT
        assert engine.databases() == []
        return
    assert answer.json() == {"error": "partial write of rows occurred", "data": ARROW_REPORT}
    found = _read(engine)
    assert [(row["host"], row["v"]) for row in found] == [("a", 1.5), ("f", 6.5)]
    assert found[0]["t"] == 10**9
    catalog = engine.view().catalog
    table = catalog.find_table(catalog.find_database("d"), "t")
    assert table is not None
    assert list(table.schema.fields) == ["v"], "a refused row leaves no column"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"host": ["", ""], "v": [1.0, 2.0]}), "partial write of rows occurred"),
        (pa.table({"host": [1, 2], "v": [1.0, math.inf]}), "rows were refused, and nothing was written"),
        (pa.table({"host": ["a"] * 10_001, "v": [math.inf] * 10_001}), "rows were refused, and nothing was written"),
    ],
    ids=["only bad rows", "a bad column", "too many bad rows"],
)
def test_a_stream_of_which_nothing_can_be_kept(client: TestClient, engine: Engine, table: pa.Table, told: str) -> None:
    packed = gzip.compress(stream(table))  # below the limit of the test's server
    headers = {"content-encoding": "gzip"}
    if len(stream(table)) > 100_000:
        table = table.set_column(0, "host", table["host"].combine_chunks().dictionary_encode())
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        packed, headers = sink.getvalue(), {}
    answer = client.post(f"{ARROW}&tags=host&accept_partial=true", content=packed, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, told)
    assert engine.databases() == []


def _bomb() -> bytes:
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int8()), ["x" * 1000])
    return stream(pa.table({"s": dictionary}))


MANY_BAD = b"1\n" * 10_000
REFUSED: list[tuple[str, bytes, int, str]] = [
    (
        f"{ROWS}&tags=&accept_partial=true",
        MANY_BAD + b'{"v":1}\n[]',
        400,
        "more than 10,000 rows are refused, such as row 10002",
    ),
    (f"{ROWS}&tags=&accept_partial=true", b"{}\n" * 10_001, 400, "such as row 10001 (no field has a value"),
    (f"{ARROW}&tags=", b"", 400, "incoming write was empty"),
    (f"{ROWS}&tags=", b"", 400, "incoming write was empty"),
    (f"{ARROW}&tags=", b"garbage", 400, "is not an Arrow IPC stream"),
    (f"{ARROW}&tags=", stream(TABLE)[:-40], 400, "or it is damaged"),
    (f"{ARROW}&tags=", _bomb(), 413, "one request may bring 33,554,432"),
    (f"{ARROW}&tags=", stream(pa.table({"n": pa.nulls(10**7)})), 413, "has 10,000,000 rows"),
    (f"{ARROW}&tags=", stream(pa.table({f"c{n}": [1] for n in range(502)})), 422, "has 502 columns"),
    (f"{ARROW}&tags=", stream(pa.table({f"c{n}": [1] for n in range(501)})), 422, "limit of 500 columns"),
    (f"{ARROW}&tags=", stream(pa.table({"v": [[1]]})), 400, "column 'v': it is list"),
    (f"{ARROW}&tags=", b"x" * 100_001, 413, "over the limit of 100000 bytes"),
    (f"{ARROW}&tags=&accept_partial=maybe", stream(TABLE), 400, "accept_partial='maybe' is neither true nor false"),
    (ARROW, stream(TABLE), 400, "the table 't' is new: name the columns that are tags"),
    (ROWS, b'[{"v":1}]', 400, "the table 't' is new: name the columns that are tags"),
    (f"{ROWS}&tags=", b'[{"v":1},', 400, "row 2: Expecting value"),
    (f"{ROWS}&tags=time", b'[{"v":1}]', 400, "'time' is a reserved column"),
    (f"{ROWS}&tags=&no_sync=maybe", b'[{"v":1}]', 400, "no_sync='maybe' is neither true nor false"),
    ("/api/v3/write_rows?db=d", b"[]", 400, "the query parameter table is missing"),
    ("/api/v3/write_arrow", b"[]", 400, "the query parameter db and the query parameter table is missing"),
    ("/api/v3/write_rows?db=_d&table=t", b"[]", 400, "did not start with a number or letter"),
    ("/api/v3/write_rows?db=d&table=", b"[]", 400, "the table name is empty"),
    ("/api/v3/write_rows?db=d&table=%ff", b"[]", 400, "the query string is not UTF-8"),
]


@pytest.mark.parametrize(("url", "body", "status", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_is_refused(client: TestClient, engine: Engine, url: str, body: bytes, status: int, said: str) -> None:
    answer = client.post(url, content=body)
    assert (answer.status_code, said in answer.json().get("error", "") + str(answer.json().get("data"))) == (
        status,
        True,
    ), answer.text
    assert engine.databases() == []


@pytest.mark.parametrize(
    ("url", "body"),
    [(ROWS, b"[]"), (ROWS, b"\n"), (ARROW, stream(TABLE.slice(0, 0)))],
    ids=["array", "lines", "stream"],
)
def test_no_rows_make_nothing(client: TestClient, engine: Engine, url: str, body: bytes) -> None:
    assert client.post(f"{url}&tags=host", content=body).status_code == 204
    assert engine.databases() == []


def test_names_that_line_protocol_would_escape(client: TestClient, engine: Engine) -> None:
    params = {"db": "d", "table": "größe, 2=x", "tags": "a b,ü"}
    body = '[{"a b":"1","ü":"2","v":true}]'.encode()
    assert client.post("/api/v3/write_rows", params=params, content=body).status_code == 204
    catalog = engine.view().catalog
    table = catalog.find_table(catalog.find_database("d"), "größe, 2=x")
    assert table is not None
    assert table.schema.tags == ("a b", "ü")


def test_tags_may_be_named_one_by_one_and_added_later(client: TestClient, engine: Engine) -> None:
    assert (
        client.post(f"{ROWS}&tags=host&tags=rack,row", content=b'[{"host":"a","rack":"r","v":1,"time":1}]').status_code
        == 204
    )
    assert client.post(f"{ROWS}&tags=zone", content=b'[{"zone":"z","v":1,"time":2}]').status_code == 204
    catalog = engine.view().catalog
    table = catalog.find_table(catalog.find_database("d"), "t")
    assert table is not None
    assert table.schema.tags == ("host", "rack", "zone")


def test_no_sync(client: TestClient, engine: Engine) -> None:
    assert client.post(f"{ROWS}&tags=&no_sync=true", content=b'[{"v":1}]').status_code == 204
    assert (
        client.post(
            f"{ARROW}&tags=host&no_sync=true",
            content=stream(TABLE.drop_columns("v").append_column("v", pa.array([1, 2, 3]))),
        ).status_code
        == 204
    )
    engine.write("later v=1", database="d")
    assert len(_read(engine, "v")) == 4


def _delete(engine: Engine) -> None:
    engine.delete_database("d")
    engine.write('t v="text" 9', database="d")


@pytest.mark.parametrize(
    ("meanwhile", "status", "said"),
    [
        (lambda engine: engine.write("t,host=x v=1.5 9", database="d"), 204, ""),
        (lambda engine: engine.write("t w=1i 9", database="d"), 204, ""),
        (lambda engine: engine.write('t v="text" 9', database="d"), 400, "and the column is string"),
        (lambda engine: engine.write("t,v=text w=1 9", database="d"), 400, "2.5 is a float and tags are strings"),
        (
            lambda engine: engine.write("t " + ",".join(f"c{n}=1" for n in range(499)), database="d"),
            422,
            "limit of 500",
        ),
        (_delete, 400, "and the column is string"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_table_that_changes_while_rows_are_under_way(
    engine: Engine,
    meanwhile: Callable[[Engine], Any],
    status: int,
    said: str,
    exists: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows are converted for the table as it was; before their turn comes another write changes it."""
    if exists or meanwhile is _delete:
        engine.write("t x=1 0", database="d")
    submit, changed = engine.submit, threading.Event()

    def late(submission: Any, ticket: Any = None) -> Any:
        if isinstance(submission, RowsWrite) and not changed.is_set():
            changed.set()
            meanwhile(engine)  # from the server's loop, so that it is surely committed before
        return submit(submission, ticket)

    monkeypatch.setattr(engine, "submit", late)
    body = b'[{"host":"a","v":2.5,"time":1}]'
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        answer = client.post(f"{ROWS}&tags=host", content=body)
    assert changed.is_set()
    assert answer.status_code == status, answer.text
    assert said in answer.text
    rows = engine.query("SELECT * FROM t WHERE host = 'a'", database="d") if status == 204 else None
    assert rows is None or rows["v"].to_pylist() == [2.5]


def test_a_table_that_never_stands_still_is_503(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.write("t x=1 0", database="d")
    submit = engine.submit

    def late(submission: Any, ticket: Any = None) -> Any:
        if isinstance(submission, RowsWrite):
            engine.delete_database("d")
            engine.write("t x=1 0", database="d")
        return submit(submission, ticket)

    monkeypatch.setattr(engine, "submit", late)
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        answer = client.post(ROWS, content=b'[{"v":1}]')
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "changed by others 8 times" in answer.json()["error"]


def test_many_writers_of_one_new_table(client: TestClient, engine: Engine) -> None:
    """JSON, Arrow and line protocol at once, each with columns of its own: all of it is there."""
    requests: list[tuple[str, bytes]] = []
    for n in range(20):
        requests += [
            (f"{ROWS}&tags=host", b'[{"host":"j%d","j%d":1,"time":1}]' % (n, n)),
            (f"{ARROW}&tags=host", stream(pa.table({"host": [f"a{n}"], f"a{n}": [1], "time": [1]}))),
            ("/api/v3/write_lp?db=d&precision=ns", b"t,host=l%d l%d=1i 1" % (n, n)),
        ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: client.post(one[0], content=one[1]).status_code, requests))
    assert answers == [204] * 60
    found = engine.query("SELECT * FROM t", database="d")
    assert found.num_rows == 60
    for kind in "jal":
        for n in range(20):
            row = found.filter(pc.equal(found["host"], f"{kind}{n}"))
            assert {name for name in row.column_names if row[name].null_count == 0} == {"host", "time", f"{kind}{n}"}


def test_a_large_stream_is_as_it_was(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {
        f"tag{n}": pa.array([f"value-{k % 100}" for k in range(5000)]).dictionary_encode() for n in range(10)
    }
    columns |= {f"f{n}": rng.random(5000) for n in range(10)}
    table = pa.table({**columns, "time": pa.array(range(5000), pa.timestamp("ns"))})
    tags = ",".join(f"tag{n}" for n in range(10))
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        assert client.post(f"{ARROW}&tags={tags}", content=stream(table)).status_code == 204
    found = engine.query('SELECT * FROM t ORDER BY "time"', database="d").select(table.column_names)
    for name in table.column_names:
        assert found[name].cast(pa.string()).to_pylist() == table[name].cast(pa.string()).to_pylist()
