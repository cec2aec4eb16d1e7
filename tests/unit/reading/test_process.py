"""A reader process against reading here: the same rows, the same refusals, whatever it was told before or happens to it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.engine import Engine
from walmill.ingest.assemble import Assembled
from walmill.ingest.errors import LineErrors, SlowBody
from walmill.ingest.precision import Precision
from walmill.ingest.reader import read_rows, scan
from walmill.model.schema import TableSchema
from walmill.reading import process as reading
from walmill.reading.process import Answered, Asked, ReaderProcess, Slot, possible
from walmill.store.lines import LARGE_BYTES, SMALL_BYTES
from walmill.writer import WriteResult

pytestmark = pytest.mark.skipif(not possible(), reason="needs memory files and two processors")

NOW = 1_700_000_000_000_000_000
SECONDS = 20.0

LINES = [
    b"cpu,host=a v=1 1",
    b"cpu,host=b v=2i 2",
    b"cpu w=5u 5",
    b"cpu,v=1 x=1",
    b"cpu,host=a s=x 7",
    b"mem,dc=b a=1,b=2i 8",
    b"mem a= 1",
    b'logs,host=a\\ b msg="a\\"b\nc" 9',
    b"cpu,host=\xff v=1",
    b"# comment",
    b"",
]
SCHEMAS: dict[str, list[TableSchema | None]] = {
    "cpu": [
        None,
        TableSchema("cpu", ("host",), {"v": "float64"}),
        TableSchema("cpu", ("host", "v2"), {"v": "int64"}),
    ],
    "mem": [None, TableSchema("mem", ("dc",), {"a": "float64", "c": "bool"})],
    "logs": [None, TableSchema("logs", ("host",), {"msg": "string"})],
}


def taken(process: ReaderProcess) -> Slot:
    """A slot, as soon as the process is there."""
    until = time.monotonic() + SECONDS
    while (slot := process.take(wait=0.01)) is None:
        assert time.monotonic() < until, "no process came up"
        time.sleep(0.005)
    return slot


@pytest.fixture(scope="module")
def process() -> Iterator[ReaderProcess]:
    made = ReaderProcess("test")
    for slot in [taken(made), taken(made)]:  # what it opens belongs to all tests
        made.read(slot, ask(b"cpu v=1 1"), {}.get)
    yield made
    made.close()


@pytest.fixture
def own() -> Iterator[ReaderProcess]:
    """One that a test may break."""
    made = ReaderProcess("test-own")
    yield made
    made.close()


def ask(body: bytes, *, partial: bool = True, limit: int | None = None, database: int = 1) -> Asked:
    return Asked(database, body, Precision.AUTO, NOW, partial, limit)


def plain(made: Assembled) -> Any:
    tables = [
        (rows.name, rows.new_tags, dict(rows.new_fields), rows.batch.schema, rows.batch)
        for rows in made.tables.values()
    ]
    return tables, [tuple(error) for error in made.errors]


def here(asked: Asked, schema_of: Callable[[str], TableSchema | None]) -> Any:
    scanned = scan(asked.body, precision=asked.precision, default_time=asked.default_time)
    return plain(read_rows(scanned, schema_of, accept_partial=asked.accept_partial))


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(LINES), min_size=1, max_size=8),
            st.fixed_dictionaries({name: st.sampled_from(found) for name, found in SCHEMAS.items()}),
            st.booleans(),
            st.integers(1, 2),
            st.sampled_from([1, 400]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_it_reads_is_what_is_read_here(
    process: ReaderProcess, writes: list[tuple[list[bytes], Mapping[str, TableSchema | None], bool, int, int]]
) -> None:
    """The schemas change from one body to the next, and differ between databases."""
    for lines, schemas, partial, database, times in writes:
        asked = ask(b"\n".join(lines * times), partial=partial, database=database)
        schema_of = schemas.get
        answered = process.read(taken(process), asked, schema_of)
        assert answered is not None
        if answered.made is None:
            assert here(asked, schema_of) == ([], [])
            continue
        assert plain(answered.made) == here(asked, schema_of)
        assert all(answered.schemas[name] is schemas[name] for name in answered.made.tables)


def test_two_bodies_at_a_time_are_told_apart(process: ReaderProcess) -> None:
    """Also when each was asked with other schemas: what was used is what the answer says."""
    found: dict[int, Answered | None] = {}
    old, new = SCHEMAS["cpu"][1:]
    body = b"cpu,host=a v=1i 1\n" * 20_000

    def read(number: int, slot: Slot) -> None:
        schemas = {"cpu": old if number % 2 else new}
        found[number] = process.read(slot, ask(body), schemas.get)

    for turn in range(0, 20, 2):
        threads = [threading.Thread(target=read, args=(turn + place, taken(process))) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for answered in found.values():
        assert answered is not None
        assert answered.made is not None
        used = answered.schemas["cpu"]
        assert used in (old, new)
        assert len(answered.made.errors) == (20_000 if used is old else 0)


def test_it_forgets_schemas_rather_than_keep_any_number(
    process: ReaderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_SCHEMAS", 10)
    for turn in range(8):
        schemas = {
            f"t{number}": TableSchema(f"t{number}", ("host",), {"v": "int64"}) for number in range(turn, turn + 6)
        }
        body = b"\n".join(b"t%d,host=a v=1i 1" % number for number in range(turn, turn + 6))
        answered = process.read(taken(process), ask(body, database=7), schemas.get)
        assert answered is not None
        assert answered.made is not None
        assert not answered.made.errors
        assert answered.schemas == schemas


def test_many_refused_lines_come_in_columns(process: ReaderProcess) -> None:
    asked = ask(b"\n".join(b"cpu,host=a v=%dx" % number for number in range(3_000)) + b"\ncpu,host=\xff v=")
    answered = process.read(taken(process), asked, {}.get)
    assert answered is not None
    assert answered.made is not None
    errors = answered.made.errors
    assert isinstance(errors, LineErrors)
    assert len(errors) == 3_001
    assert errors[0].line_number == 1
    assert errors[-1] == errors[3_000] == list(errors)[-1]
    assert errors[1:3] == [errors[1], errors[2]]
    assert plain(answered.made) == here(asked, {}.get)
    with pytest.raises(IndexError):
        errors[3_001]


def test_a_body_with_too_many_slow_lines_is_given_back(process: ReaderProcess) -> None:
    body = b"cpu,host=abcdef v=x\n" * 600
    with pytest.raises(SlowBody, match="600 lines"):
        process.read(taken(process), ask(body, limit=500), {}.get)
    assert process.read(taken(process), ask(body), {}.get) is not None


def test_all_taken_means_none(process: ReaderProcess) -> None:
    slots = [taken(process), taken(process)]
    assert process.take() is None
    for slot in slots:
        process.give_back(slot)
    process.give_back(taken(process))


def test_one_that_was_killed_is_replaced(own: ReaderProcess) -> None:
    """What it had is read by others; the next body starts another one."""
    slot = taken(own)
    victim = slot.running.process.pid
    answers: list[Answered | None] = []
    body = b"cpu,host=abcdef v=x\n" * 200_000
    thread = threading.Thread(target=lambda: answers.append(own.read(slot, ask(body), {}.get)))
    thread.start()
    until = time.monotonic() + SECONDS
    while os.pread(slot.descriptors[0], 4, 0) != body[:4]:  # the body is on its way
        assert time.monotonic() < until
    os.kill(victim, signal.SIGKILL)
    thread.join()
    assert answers == [None]
    again = taken(own)
    assert again.running.process.pid != victim
    assert own.read(again, ask(b"cpu v=1 1"), {}.get) is not None


def test_an_engine_reads_by_itself_what_a_dead_process_leaves(capfd: pytest.CaptureFixture[str]) -> None:
    """Killed again and again while bodies come: every one is acknowledged, and is there."""
    body = b"".join(b"cpu,host=h%d v=%di %d\n" % (number % 50, number, number) for number in range(1, 6_001))
    assert len(body) > SMALL_BYTES
    with Engine.open(discover_plugins=False, reader_processes=True) as engine:
        quick = engine._writer._quick
        assert quick is not None
        process_given = False
        for turn in range(12):
            slot = quick.take()
            if slot is not None:
                process_given = True
                if turn % 2:
                    os.kill(slot.running.process.pid, signal.SIGKILL)
                quick.give_back(slot)
            elif not process_given:
                quick.give_back(taken(quick))
            written = engine.write(body.replace(b"v=", b"turn=%di,v=" % turn), database="d", precision="nanosecond")
            assert (written.rows, len(written.errors)) == (6_000, 0)
        assert process_given
        assert engine.query("SELECT count(*) AS n, max(turn) AS t FROM cpu", database="d").to_pylist() == [
            {"n": 6_000, "t": 11}
        ]
    assert "Traceback" not in capfd.readouterr().err


def test_one_that_cannot_start_is_told_once_and_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    process = ReaderProcess("test-broken")
    try:
        for _ in range(3):
            assert process.take() is None
            if process._keeper is not None:
                process._keeper.join()
        assert process._not_before > time.monotonic()
    finally:
        process.close()


def test_it_ends_when_nothing_comes() -> None:
    code = "from walmill.reading import child; import sys; child.IDLE_SECONDS = 0.2; child.main(sys.argv[1:])"
    mine, other = socket.socketpair()
    memory = [os.memfd_create("a"), os.memfd_create("b")]
    slot = ",".join(str(one) for one in (other.fileno(), *memory))
    with mine, other:
        ended = subprocess.run(
            [sys.executable, "-c", code, slot], pass_fds=(other.fileno(), *memory), timeout=SECONDS, check=False
        )
    for one in memory:
        os.close(one)
    assert ended.returncode == 0


def test_it_leaves_quietly_if_the_engine_was_killed_while_it_began() -> None:
    mine, other = socket.socketpair()
    memory = [os.memfd_create("a"), os.memfd_create("b")]
    slot = ",".join(str(one) for one in (other.fileno(), *memory))
    mine.close()
    with other:
        ended = subprocess.run(
            [sys.executable, "-m", "walmill.reading.child", slot],
            pass_fds=(other.fileno(), *memory),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    for one in memory:
        os.close(one)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_it_imports_nothing_that_it_does_not_need() -> None:
    """It stays small: no SQL, no server."""
    heavy = "datafusion", "starlette", "uvicorn", "click"
    code = f"import sys, walmill.reading.child; print([one for one in {heavy} if one in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "times", "process_name"),
    [
        (b"cpu,host=a v=%d %d\n", 20, None),
        (b"cpu,host=a v=%d %d\n", 5_000, "_quick"),
        (b"cpu,host=abcdefghij v=%d %dx\n", 3_000, "_slow"),  # refused one by one: too many for the quick one
        (b"cpu,host=abcdefghijklmnopqrstuvw v=%d %d\n", LARGE_BYTES // 40, "_slow"),
    ],
)
def test_an_engine_has_each_body_read_where_it_holds_up_nobody(
    line: bytes, times: int, process_name: str | None
) -> None:
    """From a thread and from a loop; also when the table gets other columns between reading and committing."""
    body = b"".join(line % (number, number) for number in range(1, times + 1))
    refused = times if b"x" in line[-2:] else 0
    with Engine.open(discover_plugins=False, reader_processes=True) as engine:
        processes = {name: getattr(engine._writer, name) for name in ("_quick", "_slow")}
        for process in processes.values():
            process.give_back(taken(process))
        asked: list[str] = []
        for name, process in processes.items():
            read = process.read
            process.read = lambda *given, name=name, read=read: (asked.append(name), read(*given))[1]  # type: ignore[misc]

        async def write(number: int) -> WriteResult:
            return await engine.write_async(body, database=f"d{number}", precision="nanosecond")

        async def write_many() -> list[WriteResult]:
            return await asyncio.gather(*(write(number % 2) for number in range(4)))

        for result in (engine.write(body, database="d0", precision="nanosecond"), *asyncio.run(write_many())):
            assert (result.rows, len(result.errors)) == (times - refused, refused)
        assert {None, *asked} >= {process_name}
        assert process_name is not None or not asked
        if not refused:
            assert engine.query("SELECT count(*) AS n FROM cpu", database="d1").to_pylist() == [{"n": times}]
