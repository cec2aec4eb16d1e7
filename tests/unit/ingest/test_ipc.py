"""Arrow IPC streams from strangers: read without a copy, weighed before they are, and never a crash."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from walmill.errors import InvalidRequest, LimitReached, TooLarge
from walmill.ingest.arrow import from_arrow
from walmill.ingest.errors import RowError
from walmill.ingest.ipc import read_stream

MOST = 1_000_000


def stream(table: pa.Table, *, rows: int | None = None, **options: Any) -> bytes:
    """A table as an IPC stream, in batches of `rows`."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return sink.getvalue()


TABLE = pa.table(
    {
        "host": pa.array(["a", "b", None, "a"] * 5).dictionary_encode(),
        "text": pa.array([f"text number {n}" for n in range(20)]),
        "large": pa.array(["y"] * 20, pa.large_string()),
        "view": pa.array([f"longer than twelve bytes {n}" for n in range(20)]).cast(pa.string_view()),
        "f": np.arange(20) / 7,
        "i": pa.array(range(20), pa.int8()),
        "b": pa.array([True, None] * 10),
        "none": pa.nulls(20),
        "time": pa.array(range(20), pa.timestamp("us", "UTC")),
    }
)
KINDS: dict[str, bytes] = {
    "one batch": stream(TABLE),
    "many batches": stream(TABLE, rows=3),
    "zstd": stream(TABLE, rows=7, compression="zstd"),
    "lz4": stream(TABLE, rows=7, compression="lz4"),
    "dictionaries that grow": stream(
        pa.concat_tables([TABLE, TABLE.set_column(0, "host", pa.array(["a", "b", "c", "d"] * 5).dictionary_encode())])
        .unify_dictionaries()
        .slice(20),
        rows=5,
        emit_dictionary_deltas=True,
    ),
    "without its end": stream(TABLE)[:-8],
}


@pytest.mark.parametrize("body", KINDS.values(), ids=list(KINDS))
def test_what_was_written_is_read(body: bytes) -> None:
    rows = from_arrow(read_stream(body, max_bytes=MOST), "t", None, ["host"], default_time=0).batch
    assert rows.num_rows == 20
    assert rows["text"].to_pylist() == TABLE["text"].to_pylist()
    assert rows["view"].to_pylist() == TABLE["view"].to_pylist()
    assert rows["f"].to_pylist() == TABLE["f"].to_pylist()
    assert rows["time"].cast(pa.int64()).to_pylist() == [1000 * n for n in range(20)]


def test_nothing_is_copied() -> None:
    body = stream(pa.table({"f": np.arange(1000.0), "time": pa.array(range(1000), pa.timestamp("ns"))}))
    start = pa.py_buffer(body).address
    rows = from_arrow(read_stream(body, max_bytes=MOST), "t", None, (), default_time=0).batch
    for column in rows.columns:
        assert start <= column.buffers()[1].address < start + len(body)


def test_rows_without_time_get_one_each() -> None:
    body = stream(pa.table({"f": [1.0, 2.0]}))
    rows = from_arrow(read_stream(body, max_bytes=MOST), "t", None, (), default_time=2**63 - 2).batch
    assert rows["time"].cast(pa.int64()).to_pylist() == [2**63 - 2, 2**63 - 1]


def _file() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"x", "is not an Arrow IPC stream"),
        (b"\0" * 100, "is not an Arrow IPC stream"),
        (b"\xff" * 100, "is not an Arrow IPC stream"),
        (b"cpu,host=a v=1 1\n" * 10, "is not an Arrow IPC stream"),
        (_file(), "is an Arrow file"),
        (stream(TABLE)[:-100], "or it is damaged"),
        (stream(TABLE)[:50], "or it is damaged"),
        (stream(TABLE) + b"more", "4 bytes follow the end"),
        (stream(TABLE) * 2, "bytes follow the end"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_stream_is_refused_in_a_sentence(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        read_stream(body, max_bytes=MOST)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("cut", range(0, len(KINDS["zstd"]) - 9, 101))
def test_a_stream_that_is_cut_off_is_refused_or_ends_with_a_batch(cut: int) -> None:
    try:
        table = read_stream(KINDS["zstd"][:cut], max_bytes=MOST)
    except InvalidRequest:
        return
    assert table.num_rows in (0, 7, 14)


NESTED = (
    pa.list_(pa.int64()),
    pa.list_view(pa.int64()),
    pa.struct([("a", pa.int64())]),
    pa.map_(pa.string(), pa.int64()),
    pa.run_end_encoded(pa.int32(), pa.int64()),
    pa.uuid(),
    pa.dictionary(pa.int8(), pa.list_(pa.int8())),
)


@pytest.mark.parametrize("kind", NESTED, ids=str)
def test_types_that_no_column_has(kind: pa.DataType) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("f", pa.float64()), ("x", kind)])):
        pass
    with pytest.raises(RowError, match=r"column 'x': it is .*: a column holds ints"):
        read_stream(sink.getvalue(), max_bytes=MOST)


def test_more_columns_than_a_table_has() -> None:
    body = stream(pa.table({f"c{number}": [1] for number in range(502)}))
    with pytest.raises(LimitReached, match="has 502 columns"):
        read_stream(body, max_bytes=MOST)


def _views(rows: int, size: int) -> pa.Array:
    """So many views of the same characters."""
    text = b"x" * size
    view = size.to_bytes(4, "little") + text[:4] + bytes(8)
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view * rows), pa.py_buffer(text)])


BOMBS: dict[str, bytes] = {
    "rows without buffers": stream(pa.table({"n": pa.nulls(10**8)})),
    "rows without columns that count": stream(pa.table({"n": pa.nulls(200_000)})),
    "zeros, zstd": stream(pa.table({"s": ["\0" * 1_000_000] * 6}), compression="zstd"),
    "zeros, lz4": stream(pa.table({"s": ["\0" * 1_000_000] * 6}), compression="lz4"),
    "a dictionary": stream(
        pa.table({"s": pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int8()), ["x" * 10_000])})
    ),
    "a dictionary of views": stream(
        pa.table({"s": pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int8()), _views(1, 10_000))})
    ),
    "views": stream(pa.table({"s": _views(5000, 10_000)})),
    "narrow ints": stream(pa.table({f"i{number}": pa.array([1] * 5000, pa.int8()) for number in range(100)})),
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=list(BOMBS))
def test_a_few_bytes_that_stand_for_many_are_refused_before_they_are_unpacked(body: bytes) -> None:
    before = pa.total_allocated_bytes()
    with pytest.raises(TooLarge, match=r"one request may bring [14],000,000"):
        read_stream(body, max_bytes=MOST)
    assert pa.total_allocated_bytes() - before < 4 * MOST


def test_a_compressed_stream_that_lies_about_its_size_is_refused() -> None:
    body = bytearray(stream(pa.table({"s": ["\0" * 1_000_000] * 6}), compression="zstd"))
    said = (6_000_000).to_bytes(8, "little")
    assert body.count(said) == 1
    place = body.index(said)
    body[place : place + 8] = (5_000).to_bytes(8, "little")
    with pytest.raises(InvalidRequest, match="or it is damaged"):
        read_stream(bytes(body), max_bytes=MOST)


FUZZ = """
    import random, sys
    from tests_ipc import mutated, read
    for seed in range(int(sys.argv[1])):
        read(mutated(random.Random(seed)))
"""


def mutated(chance: random.Random) -> bytes:
    """One of the streams with some bytes changed, numbers made large, pieces cut, moved and put in."""
    body = bytearray(chance.choice(list(KINDS.values())))
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        way, place = chance.randrange(6), chance.randrange(len(body))
        if way == 0:
            body[place] = chance.randrange(256)
        elif way == 1:
            body[place] = chance.choice([0, 127, 128, 255])
        elif way == 2:
            number = chance.choice([2**63 - 1, 2**62, 2**40, 2**31, 10**7, -1])
            body[place & ~7 : (place & ~7) + 8] = number.to_bytes(8, "little", signed=True)
        elif way == 3:
            del body[place + 1 :]
        elif way == 4:
            other = chance.randrange(len(body))
            body[place : place + 16] = body[other : other + 16]
        else:
            body[place:place] = body[: chance.randrange(64)]
    return bytes(body)


def read(body: bytes) -> None:
    """Reads a stream as the route does; a refusal is fine."""
    with contextlib.suppress(InvalidRequest):
        from_arrow(read_stream(body, max_bytes=MOST), "t", None, ["host"], default_time=0)


def test_damage_never_crashes_the_process() -> None:
    """In a process of its own: a crash would take the tests with it."""
    script = textwrap.dedent(FUZZ).replace("from tests_ipc", "from test_ipc")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n{script}",
            "3000",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
