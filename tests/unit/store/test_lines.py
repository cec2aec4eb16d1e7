"""Joined writes against the same writes one by one: equal answers, equal tables, whatever the bodies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walmill.engine import Engine
from walmill.errors import InvalidRequest, Unavailable, WalmillError
from walmill.ingest.errors import SlowBody
from walmill.ingest.precision import Precision
from walmill.store.commit import Commit
from walmill.store.draft import Draft
from walmill.store.lines import (
    JOINED_BYTES,
    LARGE_BYTES,
    SLOW_LINES,
    SMALL_BYTES,
    LineWrite,
    join,
    joinable,
    prepare_together,
    together,
)
from walmill.store.submission import Flush, Written
from walmill.store.view import View
from walmill.writer import WriteResult

NOW = 1_700_000_000_000_000_000

LINES = st.sampled_from(
    [
        b"cpu,host=a v=1 1",
        b"cpu,host=b v=2i 2",
        b"cpu,host=a v=3",
        b"cpu v=t 4",
        b"cpu,host=a w=5u 5",
        b"cpu,v=1 x=1",
        b"cpu,host=a s=x 7",
        b"mem,dc=b a=1,b=2i 8",
        b"mem,dc=b a=1i,c=T 9",
        b"mem a=1,a=2",
        b"mem,dc= a=1",
        b"mem a= 1",
        b"",
        b"  ",
        b"# comment",
        b"#",
        b"  cpu v=1 1",
        b"cpu v=1 99999999999999999999",
        b"cpu,host=\xc3\xa9 v=1",
        b"cpu,host=\xff v=1",
        b"cpu v=1\r",
        b'logs,host=a msg="',
        b'" 3',
        b'logs msg="a\\"b" 1',
        b"logs,host=a\\ b n=1",
        b"logs,host=a\\",
        b"x\x00y v=1",
    ]
)
BODIES = st.builds(
    lambda lines, end: b"\n".join(lines) + end,
    st.lists(LINES, max_size=6),
    st.sampled_from([b"", b"\n", b"\n\n", b"\r\n"]),
)
WRITES = st.lists(st.tuples(st.one_of(BODIES, st.binary(max_size=40)), st.booleans()), min_size=1, max_size=7)


def _writes(given: list[tuple[bytes, bool]], precision: Precision = Precision.AUTO) -> list[LineWrite]:
    return [
        LineWrite("d", body, precision, NOW + place * 1_000_000, partial) for place, (body, partial) in enumerate(given)
    ]


def _rows(commit: Commit | None, found: dict[int, list[Any]]) -> None:
    for part in commit.rows if commit is not None else ():
        for row in part.batch.to_pylist() if "time" not in part.batch.schema.names else _plain(part.batch):
            found.setdefault(part.table, []).append(row)


def _plain(batch: Any) -> list[dict[str, Any]]:
    columns = {
        name: (column.view("int64") if name == "time" else column).to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return [
        {name: values[row] for name, values in columns.items() if values[row] is not None}
        for row in range(batch.num_rows)
    ]


def _decide(writes: list[LineWrite], *, joined: bool) -> tuple[list[Any], dict[int, list[Any]], Any]:
    view = View()
    answers: list[Any] = [None] * len(writes)
    rows: dict[int, list[Any]] = {}
    waiting = together(writes) if joined else [[place] for place in range(len(writes))]
    while waiting:
        places = waiting.pop(0)
        draft = Draft(view, NOW)
        found: list[Written | WalmillError]
        if len(places) > 1:
            try:
                found = prepare_together([writes[place] for place in places], draft)
            except WalmillError:  # not as a whole: one by one, as the committer does
                waiting[:0] = [[place] for place in places]
                continue
        else:
            try:
                found = [writes[places[0]].prepare(draft)]
            except WalmillError as error:
                found = [error]
                draft = Draft(view, NOW)
        commit = draft.build()
        if commit is not None:
            view = view.decide(commit)
        _rows(commit, rows)
        for place, one in zip(places, found, strict=True):
            answers[place] = (
                (type(one), one.message)
                if isinstance(one, WalmillError)
                else (one.rows, [tuple(e) for e in one.errors])
            )
    schemas = [
        (table.schema.name, table.schema.tags, dict(table.schema.fields)) for table in view.catalog.tables.values()
    ]
    return answers, rows, sorted(schemas)


@given(WRITES, st.sampled_from([Precision.AUTO, Precision.SECOND]))
@example([(b'logs,host=a msg="', True), (b"cpu v=1 1", True), (b'" 3', True)], Precision.AUTO)
@example([(b"cpu v=1 1", False), (b"cpu v=2i 2\ncpu w=1i 3", False), (b"cpu w=1 3", True)], Precision.AUTO)
@example([(b"cpu", False)] * 5 + [(b"cpu v=1", True)], Precision.AUTO)
@example([(b"cpu v=1\n", True), (b"\n# c\n\ncpu v=x\n", True), (b"", True), (b"cpu v=2", True)], Precision.AUTO)
def test_joined_writes_mean_what_each_means_alone(given: list[tuple[bytes, bool]], precision: Precision) -> None:
    # bodies that are joined keep their order, but may be decided before one that is not: compare with that order
    writes = _writes(given, precision)
    order = [place for places in together(writes) for place in places]
    ordered = [writes[place] for place in order]
    answers, rows, schemas = _decide(ordered, joined=False)
    assert _decide(writes, joined=True)[1:] == (rows, schemas)
    joined = _decide(writes, joined=True)[0]
    assert [joined[place] for place in order] == answers


@given(WRITES, st.integers(0, 7))
@example([(b"cpu v=1 1", True), (b"cpu v=2i 2\ncpu w=1i 3", True), (b"cpu w=1 3\nmem a=1", True)], 1)
def test_what_is_read_ahead_means_the_same_however_old_its_schemas_are(
    given: list[tuple[bytes, bool]], age: int
) -> None:
    """Each write is read against the schemas as they were before the first, or after some of them, and decided later."""
    plain = _decide(_writes(given), joined=False)
    writes = _writes(given)
    old = View()
    for write in writes[:age]:
        draft = Draft(old, NOW)
        try:
            write.prepare(draft)
        except WalmillError:
            continue
        commit = draft.build()
        old = old if commit is None else old.decide(commit)
    for write in writes:
        draft = Draft(old, NOW)
        try:
            write.read_ahead(lambda table, draft=draft: draft.schema_of("d", table))  # type: ignore[misc]
        except InvalidRequest as error:
            assert error.message == "incoming write was empty"  # noqa: PT017 - which of them are empty is compared below
    assert _decide(writes, joined=False) == plain


@pytest.mark.parametrize("line", [b"cpu,host=abcdef v=x", b"cpu,a=1,a=2 v=1"])
def test_a_body_that_takes_too_long_for_the_committer_is_read_ahead(line: bytes) -> None:
    """Alone and joined with others: all writers wait for the committer."""
    slow = LineWrite("d", b"\n".join([line] * (SLOW_LINES + 1)), Precision.AUTO, NOW)
    fast = LineWrite("d", b"cpu v=1 1", Precision.AUTO, NOW)
    with pytest.raises(SlowBody, match="501 lines"):
        slow.prepare(Draft(View(), NOW))
    with pytest.raises(SlowBody):
        prepare_together([fast, slow], Draft(View(), NOW))
    slow.read_ahead(lambda table: None)
    assert len(slow.prepare(Draft(View(), NOW)).errors) == SLOW_LINES + 1


@pytest.mark.parametrize("size", [100, 3_000, 200_000])
def test_bodies_of_all_sizes_are_answered(size: int) -> None:
    """Up to 6 KB, with the committer, and ahead of it: good and bad lines."""
    body = b"\n".join([b"cpu,host=a v=%d %d\ncpu v=x" % (turn, turn) for turn in range(size // 25)])
    with Engine.open(discover_plugins=False) as engine:

        async def write() -> WriteResult:
            return await engine.write_async(body, database="d", precision="ns")

        for result in (engine.write(body, database="d", precision="ns"), asyncio.run(write())):
            assert (result.rows, len(result.errors)) == (size // 25, size // 25)
            assert [error.line_number for error in result.errors] == list(range(2, 2 * (size // 25) + 1, 2))


def test_short_memory_while_reading_ahead_may_pass_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise MemoryError

    body = b"cpu,host=abcdef v=1 1\n" * (LARGE_BYTES // 22 + 1)
    with Engine.open(discover_plugins=False) as engine:
        monkeypatch.setattr("walmill.store.lines.scan", read)
        with pytest.raises(Unavailable, match="memory is short"):
            engine.write(body, database="d")
        with pytest.raises(Unavailable, match="memory is short"):
            asyncio.run(engine.write_async(body, database="d"))


def test_rows_that_were_read_ahead_are_taken_as_they_are_while_the_schemas_stand() -> None:
    """Else the committer would do the work of every large body."""
    view = View()
    for turn in range(2):
        write = LineWrite("d", b"cpu,host=a v=1 1\ncpu v=x", Precision.AUTO, NOW)
        draft = Draft(view, NOW + turn)
        write.read_ahead(lambda table, draft=draft: draft.schema_of("d", table))  # type: ignore[misc]
        assert write.ahead is not None
        assert write.prepare(draft).errors is write.ahead.made.errors
        commit = draft.build()
        assert commit is not None
        view = view.decide(commit)
    write.ahead = evolve(write.ahead, schemas={"cpu": None})
    assert write.prepare(Draft(view, NOW)).errors == write.ahead.made.errors
    assert write.prepare(Draft(view, NOW)).rows == 1


@settings(max_examples=12)
@given(st.lists(st.tuples(BODIES, st.just(True)), min_size=300, max_size=300))
def test_many_joined_writes_take_the_fast_parser_and_mean_the_same(given: list[tuple[bytes, bool]]) -> None:
    test_joined_writes_mean_what_each_means_alone.hypothesis.inner_test(given, Precision.AUTO)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"cpu v=1 1", True),
        ("cpu,host=é v=1".encode(), True),
        (b"cpu,host=\xff v=1", False),
        (b'cpu m="x"', False),
        (b'logs,host=a msg="', False),
        (b'" 3', False),
        (b"cpu,host=a\\ b v=1", False),
        (b"cpu v=1\n" * (SMALL_BYTES // 8 + 1), False),
    ],
)
def test_only_bodies_that_cannot_reach_into_others_are_joined(body: bytes, expected: bool) -> None:
    assert joinable(_writes([(body, True)])[0]) is expected


def test_writes_of_one_database_and_precision_are_together_up_to_a_size() -> None:
    small = LineWrite("a", b"cpu v=1", Precision.AUTO, NOW)
    other = LineWrite("b", b"cpu v=1", Precision.AUTO, NOW)
    unit = LineWrite("a", b"cpu v=1", Precision.SECOND, NOW)
    large = LineWrite("a", b"cpu v=1\n" * (SMALL_BYTES // 8), Precision.AUTO, NOW)
    assert together([small, other, Flush(), small, unit, small]) == [[0, 3, 5], [1], [2], [4]]
    fitting = JOINED_BYTES // len(large.body)
    assert together([large] * (fitting + 1)) == [list(range(fitting)), [fitting]]


def test_each_body_keeps_its_line_numbers() -> None:
    joined, firsts = join([b"a\nb", b"", b"c\n", b"\n\nd\n", b"e"])
    assert joined == b"a\nb\n\nc\n\n\nd\ne\n"
    assert firsts == [1, 3, 4, 5, 8]


def test_a_refused_write_takes_its_columns_with_it() -> None:
    writes = _writes([(b"cpu v=1i 1\ncpu v=bad 2", False), (b"cpu v=2.5 3", True)])
    draft = Draft(View(), NOW)
    first, second = prepare_together(writes, draft)
    assert isinstance(first, Written)
    assert (first.rows, len(first.errors), first.errors[0].line_number) == (0, 1, 2)
    assert second == Written(1, ())
    found = draft.schema_of("d", "cpu")
    assert found is not None
    assert found.fields == {"v": "float64"}


def test_writes_that_are_refused_one_after_the_other_are_not_decided_for_ever() -> None:
    writes = _writes([(b"cpu v=bad", False)] * 20)
    with pytest.raises(InvalidRequest, match="refused as a whole"):
        prepare_together(writes, Draft(View(), NOW))
