"""Files that are imported, cut into batches: Parquet, CSV, and line protocol as databases export it."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from attrs import field, frozen

from walmill.cli.pieces import lines, pieces
from walmill.cli.sinks import NOTE
from walmill.cli.source import Source
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 20_000
"""Rows of a batch."""
BLOCK = 2**20
_TYPES = ("int64", "uint64", "float64", "string", "bool")
_DDL = re.compile(rb"(?i)\A(?:CREATE DATABASE|CREATE RETENTION POLICY)\b[^\n]*")
_CONTEXT = re.compile(rb"\A# CONTEXT-DATABASE: ?([^\r\n]+)")


@frozen
class Lines:
    """A batch of line protocol.

    Attributes:
        database: Into which it goes; None for the one that is asked for.
        data: The lines.
        first: Number of the first of them in the file, from 1.
    """

    database: str | None
    data: bytes
    first: int


@frozen
class Columns:
    """A batch of rows.

    Attributes:
        table: Into which they go.
        tags: Which columns are tags; None as the table has it.
        rows: The rows.
        numbers: For each row its number in the file; None if they are `first` and those behind it.
        first: Number of the first of them in the file, from 1.
        refused: Rows that could not be read: their numbers, and why.
    """

    table: str
    tags: Sequence[str] | None
    rows: pa.RecordBatch
    first: int
    numbers: Sequence[int] | None = None
    refused: Sequence[tuple[int, str]] = ()

    def number(self, row: int) -> int:
        """The number in the file of a row of the batch, from 1."""
        return self.first + row - 1 if self.numbers is None else self.numbers[row - 1]


@frozen
class Options:
    """How files are to be read.

    Attributes:
        table: Into which rows go; None as the file says, or its name.
        tags: Which columns are tags; None as the file says.
        types: Types of columns of CSV, by name; others are found out from the first rows.
        time: The column with the time.
        unit: What a number in it means: ns, us, ms or s.
    """

    table: str | None = None
    tags: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(factory=dict)
    time: str = "time"
    unit: str = "ns"


def form_of(path: Path) -> str:
    """The format that the name of a file says: parquet, csv or lp.

    Raises:
        InvalidRequest: It says none.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    for suffix, form in ((".parquet", "parquet"), (".csv", "csv"), (".lp", "lp"), (".txt", "lp"), (".line", "lp")):
        if name.endswith(suffix):
            return form
    raise InvalidRequest(f"the name of {str(path)!r} does not say what it is: say --format parquet, csv or lp")


def table_of(path: Path, options: Options) -> str:
    """The table of a file that does not name one: that of `--table`, or the name of the file."""
    if options.table is not None:
        return options.table
    name = path.name
    for suffix in (".gz", ".zst", ".parquet", ".csv"):
        name = name.removesuffix(suffix)
    return unquote(name)


# ---- line protocol


def read_lines(path: Path) -> Iterator[Lines]:
    """Line protocol; also as `influx_inspect export`, with comments and statements, and `influxd inspect export-lp` say it."""
    with contextlib.closing(Source.of(path).open()) as stream:
        database: str | None = None
        for piece in pieces(stream.until(None)):
            if piece.refusal is not None or (b"CONTEXT-DATABASE" not in piece.data and b"CREATE " not in piece.data):
                yield Lines(database, piece.data, piece.start.line)
                continue
            start, number = 0, 1
            for line in lines(piece.data):
                text = piece.data[line.start : line.end]
                context, statement = _CONTEXT.match(text), _DDL.match(text)
                if context is None and statement is None:
                    continue
                if line.start > start:
                    yield Lines(database, piece.data[start : line.start], piece.start.line + number - 1)
                if context is not None:
                    database = context[1].decode("utf-8", "replace").strip()
                start, number = line.end, line.number + text.count(b"\n")
            if start < len(piece.data):
                yield Lines(database, piece.data[start:], piece.start.line + number - 1)


# ---- Parquet


def read_parquet(path: Path, options: Options) -> Iterator[Columns]:
    """Rows of a Parquet file: one that Walmill wrote names its table and its tags; of another, dictionaries of text are tags."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"the file {str(path)!r} is no Parquet file that can be read: {error}") from None
    with file:
        schema = file.schema_arrow
        note = json.loads((schema.metadata or {}).get(NOTE, b"{}"))
        tags = options.tags
        if tags is None:
            tags = tuple(note.get("tags") or [one.name for one in schema if pa.types.is_dictionary(one.type)])
        table = options.table or note.get("table") or table_of(path, options)
        if options.time not in schema.names:
            raise InvalidRequest(
                f"the file {str(path)!r} has no column {options.time!r}; its columns are {', '.join(schema.names[:20])}: say "
                "--time-column"
            )
        first = 1
        try:
            for batch in file.iter_batches(ROWS):
                yield Columns(table, tags, _plain(batch, options), first)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise InvalidRequest(f"the file {str(path)!r} cannot be read behind row {first - 1:,}: {error}") from None


def _plain(batch: pa.RecordBatch, options: Options) -> pa.RecordBatch:
    """The batch with text in the place of dictionaries, and its time under the right name, in ns."""
    import pyarrow as pa

    names, arrays = [], []
    for one, given in zip(batch.schema, batch.columns, strict=True):
        array = given.cast(one.type.value_type) if pa.types.is_dictionary(one.type) else given
        if one.name == options.time:
            if pa.types.is_integer(array.type):
                array = array.cast(pa.int64()).cast(pa.timestamp(options.unit))
            array = array.cast(pa.timestamp("ns", getattr(array.type, "tz", None) or "UTC"))
            names.append("time")
        else:
            names.append(one.name)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=names)


# ---- CSV


def read_csv(path: Path, options: Options) -> Iterator[Columns]:
    """Rows of a CSV file with a header. What cannot be read as the type of its column makes its row a refused one."""
    import pyarrow as pa
    from pyarrow import csv

    wrong: list[tuple[int, str]] = []

    def invalid(row: Any) -> str:
        wrong.append((row.number or 0, f"the line has {row.actual_columns} cells and must have {row.expected_columns}"))
        return "skip"

    reading = csv.ReadOptions(block_size=BLOCK, use_threads=False)
    parsing = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=invalid)
    try:
        with csv.open_csv(path, read_options=reading, parse_options=parsing) as probe:
            names = probe.schema.names
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"the file {str(path)!r} is no CSV that can be read: {error}") from None
    if options.time not in names:
        raise InvalidRequest(
            f"the file {str(path)!r} has no column {options.time!r}; its header is {', '.join(names[:20])}: say --time-column"
        )
    if unknown := (set(options.types) | set(options.tags or ())) - set(names):
        raise InvalidRequest(
            f"the file {str(path)!r} has no column {sorted(unknown)[0]!r}; its header is {', '.join(names[:20])}"
        )
    wrong.clear()
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    types: dict[str, str] = {}
    number, gone = 2, set[int]()
    try:
        with csv.open_csv(path, read_options=reading, parse_options=parsing, convert_options=converting) as reader:
            for batch in reader:
                if not types:
                    types = _types(batch, names, options)
                skipped = wrong.copy()
                wrong.clear()
                gone.update(place for place, _ in skipped)
                numbers = _numbers(number, batch.num_rows, gone)
                number = numbers[-1] + 1 if numbers else number
                for start in range(0, batch.num_rows, ROWS):
                    some = batch.slice(start, ROWS)
                    yield _typed(
                        some,
                        types,
                        options,
                        table_of(path, options),
                        numbers[start : start + ROWS],
                        skipped if not start else [],
                    )
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"the file {str(path)!r} cannot be read: {error}") from None


def _numbers(first: int, count: int, gone: Set[int]) -> list[int]:
    """The numbers of the records of a batch in the file, without those that were skipped."""
    found: list[int] = []
    number = first
    while len(found) < count:
        if number not in gone:
            found.append(number)
        number += 1
    return found


def _types(batch: pa.RecordBatch, names: Sequence[str], options: Options) -> dict[str, str]:
    """Types of the fields: those that are given, else the narrowest that all values of the first rows have."""
    found = {}
    for name in names:
        if name == options.time or name in (options.tags or ()):
            continue
        if name in options.types:
            found[name] = options.types[name]
            continue
        values = [value for value in batch.column(name).to_pylist() if value is not None]
        found[name] = next(
            (kind for kind in ("bool", "int64", "float64") if values and all(_fits(kind, v) for v in values)), "string"
        )
    return found


def _fits(kind: str, text: str) -> bool:
    try:
        value_of(kind, text)
    except ValueError:
        return False
    return True


def value_of(kind: str, text: str) -> Any:
    """A cell as a value of a type.

    Raises:
        ValueError: It is none.
    """
    if kind == "string":
        return text
    if kind == "bool":
        found = {"true": True, "t": True, "false": False, "f": False}.get(text.strip().lower())
        if found is None:
            raise ValueError(f"{text!r} is neither true nor false")
        return found
    if kind == "float64":
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not a finite number")
        return value
    bare = text.strip()
    if not re.fullmatch(r"-?\d{1,20}", bare, re.ASCII):
        raise ValueError(f"{text!r} is not a whole number")
    value = int(bare)
    low, high = (0, 2**64 - 1) if kind == "uint64" else (-(2**63), 2**63 - 1)
    if not low <= value <= high:
        raise ValueError(f"{text!r} is out of bounds for {kind}")
    return value


_FACTORS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def time_of(text: str, unit: str) -> int:
    """A time in a cell, ns: a whole number in a unit, or RFC 3339.

    Raises:
        ValueError: It is none.
    """
    from walmill.units import parse_time

    bare = text.strip()
    if re.fullmatch(r"-?\d{1,19}", bare, re.ASCII):
        return int(bare) * _FACTORS[unit]
    try:
        return parse_time(bare)
    except InvalidRequest as error:
        raise ValueError(error.message) from None


def _typed(
    batch: pa.RecordBatch,
    types: Mapping[str, str],
    options: Options,
    table: str,
    numbers: Sequence[int],
    skipped: Sequence[tuple[int, str]],
) -> Columns:
    import pyarrow as pa

    arrow = {
        "int64": pa.int64(),
        "uint64": pa.uint64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
    }
    bad: dict[int, str] = {}
    columns: dict[str, list[Any]] = {}
    for name in batch.schema.names:
        texts = batch.column(name).to_pylist()
        made: list[Any] = []
        for place, text in enumerate(texts):
            value = None
            try:
                if name == options.time:
                    if text is None:
                        raise ValueError("the row has no time")
                    value = time_of(text, options.unit)
                elif text is not None:
                    value = value_of(types.get(name, "string"), text)
            except ValueError as error:
                bad.setdefault(place, f"column {name!r}: {error}")
            made.append(value)
        columns["time" if name == options.time else name] = made
    kept = [place for place in range(batch.num_rows) if place not in bad]
    arrays = []
    for name, made in columns.items():
        kind = pa.int64() if name == "time" else arrow[types.get(name, "string")]
        array = pa.array([made[place] for place in kept], kind)
        arrays.append(array.cast(pa.timestamp("ns", "UTC")) if name == "time" else array)
    refused = [*skipped, *((numbers[place], why) for place, why in bad.items())]
    return Columns(
        table,
        options.tags,
        pa.RecordBatch.from_arrays(arrays, names=list(columns)),
        numbers[kept[0]] if kept else 0,
        [numbers[place] for place in kept],
        sorted(refused),
    )


def parse_types(text: str | None) -> dict[str, str]:
    """Types of columns from `NAME:TYPE,…`.

    Raises:
        InvalidRequest: It is not that.
    """
    found: dict[str, str] = {}
    for one in (text or "").split(","):
        if not one:
            continue
        name, colon, kind = one.rpartition(":")
        if not colon or not name or kind not in _TYPES:
            raise InvalidRequest(f"{one!r} is not NAME:TYPE with one of the types {', '.join(_TYPES)}")
        found[name] = kind
    return found
