"""From points to columns, against a schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.ingest.assemble import Assembled, assemble
from walmill.ingest.lineprotocol import parse
from walmill.ingest.precision import Precision
from walmill.model.schema import TableSchema, arrow_schema, arrow_type

PROPERTY = settings(max_examples=150)
CPU = TableSchema("cpu", ("host", "region"), {"usage": "float64", "n": "int64"})


def schemas(*tables: TableSchema) -> Callable[[str], TableSchema | None]:
    return {table.name: table for table in tables}.get


def write(text: str, *tables: TableSchema, accept_partial: bool = True) -> Assembled:
    parsed = parse(text.encode(), precision=Precision.NANOSECOND, default_time=0)
    return assemble(parsed.points, schemas(*tables), accept_partial=accept_partial, errors=parsed.errors)


def messages(assembled: Assembled) -> list[tuple[int, str]]:
    return [(error.line_number, error.message) for error in assembled.errors]


def test_a_new_table() -> None:
    rows = write('m,b=1 y="s",x=1i 3\nm,a=2 x=2i,ok=t 1\nm,b=3 u=7u,x=3i 2').tables["m"]
    assert rows.new_tags == ("b", "a")
    assert rows.new_fields == {"y": "string", "x": "int64", "ok": "bool", "u": "uint64"}
    expected = arrow_schema(TableSchema("m", rows.new_tags, rows.new_fields))
    assert rows.batch.schema == expected
    assert rows.batch.drop_columns("time").to_pydict() == {
        "b": ["1", None, "3"],
        "a": [None, "2", None],
        "y": ["s", None, None],
        "x": [1, 2, 3],
        "ok": [None, True, None],
        "u": [None, None, 7],
    }
    assert rows.batch["time"].cast(pa.int64()).to_pylist() == [3, 1, 2]


def test_a_known_table_keeps_its_order_and_leaves_out_what_has_no_value() -> None:
    tables = write("cpu,new=x,region=r n=1i,extra=2,usage=3 1\nother f=1 1", CPU).tables
    assert list(tables) == ["cpu", "other"]
    rows = tables["cpu"]
    assert rows.batch.schema.names == ["region", "new", "usage", "n", "extra", "time"]
    assert (rows.new_tags, rows.new_fields) == (("new",), {"extra": "float64"})


def test_only_columns_with_nulls_have_a_validity_buffer() -> None:
    batch = write('m,t=a f=1,i=1i,b=t,s="x",gap=1 1\nm,t=b f=2,i=2i,b=f,s="y" 2').tables["m"].batch
    with_buffer = [name for name in batch.schema.names if batch[name].buffers()[0] is not None]
    assert with_buffer == ["gap"]
    assert batch.schema.field("t").type == pa.string()
    batch.validate(full=True)


IOX = {
    "tag": "iox::column_type::tag",
    "1": "iox::column_type::field::float",
    "1i": "iox::column_type::field::integer",
    "1u": "iox::column_type::field::uinteger",
    '"s"': "iox::column_type::field::string",
    "t": "iox::column_type::field::boolean",
}


@pytest.mark.parametrize("given_value", [value for value in IOX if value not in {"tag", "1"}])
def test_another_type_is_a_conflict(given_value: str) -> None:
    result = write(f"cpu usage={given_value},fresh=1 1\ncpu usage=2 2", CPU)
    message = f"invalid column type for column 'usage', expected {IOX['1']}, got {IOX[given_value]} (table 'cpu')"
    assert messages(result) == [(1, message)]
    rows = result.tables["cpu"]
    assert rows.batch.num_rows == 1
    assert rows.new_fields == {}
    assert result.errors[0].original_line == f"cpu usage={given_value},fresh=1 1"


def test_tag_against_field() -> None:
    result = write("cpu,usage=a n=1i 1\ncpu host=1 2\ncpu,fresh=a fresh2=1 3\ncpu,fresh2=a n=1i 4\ncpu fresh=1 5", CPU)
    assert [number for number, _ in messages(result)] == [1, 2, 4, 5]
    assert f"'usage', expected {IOX['1']}, got {IOX['tag']}" in messages(result)[0][1]
    assert f"'host', expected {IOX['tag']}, got {IOX['1']}" in messages(result)[1][1]
    assert result.tables["cpu"].batch.num_rows == 1


def test_the_first_accepted_line_decides_the_type() -> None:
    result = write("m a=1,b=1 1\nm b=1i,c=1 2\nm c=1i 3\nm c=1,a=2 4")
    assert [number for number, _ in messages(result)] == [2, 4]
    rows = result.tables["m"]
    assert rows.new_fields == {"a": "float64", "b": "float64", "c": "int64"}
    assert rows.batch["c"].to_pylist() == [None, 1]


def test_a_table_with_only_refused_lines_is_not_there() -> None:
    result = write("cpu usage=1i 1\nbad", CPU)
    assert (dict(result.tables), [number for number, _ in messages(result)]) == ({}, [1, 2])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("m f=1 1\nm f=1i 2\nbad\nm f=t 4", 2),
        ("m f=1 1\nbad\nm f=1i 3", 2),
        ("bad", 1),
        ("m f=1 1\n\nm f=1i 2", 3),
    ],
)
def test_without_accept_partial_the_first_bad_line_refuses_everything(text: str, line: int) -> None:
    result = write(text, accept_partial=False)
    assert dict(result.tables) == {}
    assert [number for number, _ in messages(result)] == [line]
    assert write("m f=1 1\nm f=2 2", accept_partial=False).tables["m"].batch.num_rows == 2


def test_a_table_has_at_most_500_columns() -> None:
    def fields(start: int, count: int) -> str:
        return ",".join(f"f{i}=1" for i in range(start, start + count))

    result = write(f"m,t=a {fields(0, 499)} 1\nm {fields(490, 10)} 2\nm f0=5,x=1 3\nm,y=a f0=5 4\nm f1=2 5")
    assert [number for number, _ in messages(result)] == [2, 3, 4]
    assert all(text.startswith("Update to schema would exceed number of") for _, text in messages(result))
    assert "table 'm' has 500 and this would add 1" in messages(result)[1][1]
    assert result.tables["m"].batch.num_rows == 2
    assert result.tables["m"].batch.num_columns == 501


def test_nothing_at_all() -> None:
    assert assemble([], schemas(), accept_partial=False) == Assembled({}, ())


def test_the_schema_of_a_table_is_asked_once() -> None:
    asked: list[str] = []

    def schema_of(name: str) -> TableSchema | None:
        asked.append(name)
        return None

    parsed = parse(b"a f=1\nb f=1\na f=2\na f=3i", precision=Precision.NANOSECOND, default_time=0)
    assemble(parsed.points, schema_of, accept_partial=True)
    assert asked == ["a", "b"]


TYPED = {"1i": "int64", "2.5": "float64", "t": "bool", '"s"': "string", "3u": "uint64"}
LINE = st.tuples(
    st.sampled_from("xy"),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from("vw"), max_size=2),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from(list(TYPED)), min_size=1, max_size=3),
)


@PROPERTY
@given(st.lists(LINE, max_size=8))
def test_against_a_plain_model(lines: list[tuple[str, Mapping[str, str], Mapping[str, str]]]) -> None:
    """Rows as dicts, one after the other, against a dict of kinds per table."""
    text, kinds, rows, refused = [], {}, {}, []  # type: ignore[var-annotated]
    for number, (table, tags, fields) in enumerate(lines, 1):
        head = table + "".join(f",{k}={v}" for k, v in tags.items())
        text.append(f"{head} {','.join(f'{k}={v}' for k, v in fields.items())} {number}")
        known = kinds.get(table, {})
        brought = {**dict.fromkeys(tags, "tag"), **{k: TYPED[v] for k, v in fields.items()}}
        if set(tags) & set(fields) or any(known.get(k, v) != v for k, v in brought.items()):
            refused.append(number)
            continue
        kinds[table] = {**known, **brought}
        values = {k: {"1i": 1, "2.5": 2.5, "t": True, '"s"': "s", "3u": 3}[v] for k, v in fields.items()}
        rows.setdefault(table, []).append({**tags, **values, "time": number})
    result = write("\n".join(text))
    assert [number for number, _ in messages(result)] == refused
    assert list(result.tables) == list(rows)
    for table, found in result.tables.items():
        found_kinds = {**dict.fromkeys(found.new_tags, "tag"), **found.new_fields}
        assert found_kinds == kinds[table]
        assert found.batch.schema.names == [*found_kinds, "time"]
        for name, kind in found.new_fields.items():
            assert found.batch.schema.field(name).type == arrow_type(kind)
        ints = found.batch.set_column(found.batch.num_columns - 1, "time", found.batch["time"].cast(pa.int64()))
        assert ints.to_pylist() == [{name: row.get(name) for name in [*found_kinds, "time"]} for row in rows[table]]
