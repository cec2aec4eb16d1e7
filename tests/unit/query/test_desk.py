"""The desk: queries wait for their turn, are stopped wherever they are, and are remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from walmill.engine import Engine
from walmill.errors import NotFound, Unavailable
from walmill.query.desk import Asked, Desk, shown
from walmill.query.errors import QueryStopped, QueryTimeout, QueryTooLarge

ENDLESS = (
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11"
)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def entering(
    desk: Desk, pool: ThreadPoolExecutor, count: int, timeout: float | None = 10.0
) -> list[tuple[Asked, Future[None]]]:
    """Queries that come one after the other."""
    found = []
    for number in range(count):
        asked = desk.ask("d", f"SELECT {number}")
        before = len(desk.open())
        found.append((asked, pool.submit(desk.enter, asked, timeout)))
        until(lambda before=before: len(desk.open()) > before)
    return found


def test_they_wait_and_get_their_turn_in_order(pool: ThreadPoolExecutor) -> None:
    desk = Desk(2, 10, lambda: 7)
    asked = entering(desk, pool, 6)
    until(lambda: [one.phase for one, _ in asked] == ["planning"] * 2 + ["waiting"] * 4)
    order = []
    for _ in range(6):
        running = next(one for one, _ in asked if one.phase == "planning")
        order.append(running.id)
        running.end()
        until(lambda: sum(one.phase == "planning" for one, _ in asked) == min(2, 6 - len(order)))
    assert order == sorted(order)
    assert [one.phase for one in desk.all()] == ["ended"] * 6
    assert desk.open() == []


def test_more_than_may_wait_are_put_off(pool: ThreadPoolExecutor) -> None:
    desk = Desk(1, 2, lambda: 7)
    asked = entering(desk, pool, 3)
    with pytest.raises(Unavailable, match="1 queries run and 2 wait for their turn"):
        desk.enter(desk.ask("d", "SELECT 1"), None)
    of_plugin = desk.ask("d", "SELECT 1")
    desk.enter(of_plugin, None, waits=False)  # those of plugins do not wait
    of_plugin.end()
    for one, future in asked:
        future.result(10)
        one.end()


def test_waiting_ends_with_a_cancel_a_timeout_and_the_engine(pool: ThreadPoolExecutor) -> None:
    desk = Desk(1, 10, lambda: 7)
    first = desk.ask("d", "SELECT 1")
    desk.enter(first, None)
    [(waiting, future)] = entering(desk, pool, 1)
    assert desk.cancel(waiting.id)
    with pytest.raises(QueryStopped, match=f"the query {waiting.id} was cancelled"):
        future.result(10)
    with pytest.raises(QueryTimeout):
        desk.enter(desk.ask("d", "SELECT 1"), 0.01)
    [(_, closing)] = entering(desk, pool, 1)
    desk.close()
    with pytest.raises(QueryStopped, match="closing"):
        closing.result(10)
    first.end()
    assert not desk.cancel(first.id)


def test_what_is_remembered_is_bounded() -> None:
    desk = Desk(1, 10, lambda: 7)
    for number in range(1100):
        asked = desk.ask("d", "x" * 10_000)
        desk.enter(asked, None)
        asked.end(None if number % 2 else ValueError("no"))
    found = [shown(one) for one in desk.all()]
    assert (len(found), found[0]["id"], len(found[0]["query_text"])) == (1000, 101, 4096)
    assert [one["success"] for one in found[:2]] == [False, True]
    assert found[0]["error"] == "no"


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine.open(discover_plugins=False, query_rows=1000)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["query", "stream"])
def test_a_running_query_is_cancelled_and_its_work_stops(engine: Engine, pool: ThreadPoolExecutor, way: str) -> None:
    engine.write("cpu v=1", database="d")
    running: Future[Any] = pool.submit(getattr(engine, way), ENDLESS, database="d")
    until(lambda: [one.phase for one in engine.queries()] == ["running"])
    [asked] = engine.queries()
    engine.cancel_query(asked.id)
    with pytest.raises(QueryStopped):
        running.result(10)
    del running
    assert (asked.cancelled, asked.phase) == (True, "ended")
    until(_quiet)
    with pytest.raises(NotFound, match=f"no query {asked.id} waits or runs"):
        engine.cancel_query(asked.id)


def _quiet() -> bool:
    before = time.process_time()
    threading.Event().wait(0.1)
    return time.process_time() - before < 0.05


def test_a_cancel_while_it_is_planned(engine: Engine) -> None:
    engine.write("cpu v=1", database="d")
    asked = engine.ask("d", "SELECT 1")
    asked.cancel()
    with pytest.raises(QueryStopped, match="was cancelled"):
        engine.stream("SELECT 1", database="d", asked=asked)
    assert [(one.phase, one.cancelled) for one in engine.queries()] == [("ended", True)]


def test_answers_and_what_they_cost_are_noted(engine: Engine) -> None:
    engine.write("cpu v=1\ncpu v=2 2", database="d")
    engine.query("SELECT * FROM cpu", database="d")
    with engine.stream("SELECT * FROM cpu", database="d") as stream:
        next(stream)
    with pytest.raises(Exception, match="nothing"):
        engine.query("SELECT * FROM nothing", database="d")
    sql = "SELECT query_text, rows, success, running, error IS NULL AS fine FROM system.queries ORDER BY id"
    found = [tuple(row.values()) for row in engine.query(sql, database="d").to_pylist()]
    assert found[:2] == [("SELECT * FROM cpu", 2, True, False, True)] * 2
    assert found[2] == ("SELECT * FROM nothing", 0, False, False, False)
    assert found[3] == (sql, 0, None, True, True)
    durations = engine.query("SELECT CAST(end2end_duration AS BIGINT) AS n FROM system.queries", database="d")
    assert all(row["n"] > 0 for row in durations.to_pylist())


@pytest.mark.parametrize("way", ["query", "stream"])
def test_an_answer_may_have_so_many_rows(engine: Engine, way: str) -> None:
    engine.write("cpu v=1", database="d")
    sql = "SELECT value FROM generate_series(1, {})"
    assert len(engine.query(sql.format(1000), database="d")) == 1000
    with pytest.raises(
        QueryTooLarge, match=r"the answer has more than 1,000 rows, which is the limit \(query_max_rows\)"
    ):
        getattr(engine, way)(sql.format(1001), database="d").read_all()
    assert engine.queries()[-1].phase == "ended"


def test_a_query_may_read_so_many_files(tmp_path: Any) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False, query_files=1) as engine:
        for day in range(3):
            engine.write(f"cpu v=1 {day * 40 * 86_400_000_000_000}", database="d")
            engine.snapshot()
        assert engine.query("SELECT v FROM cpu WHERE time < '1970-01-02'", database="d").num_rows == 1
        assert engine.queries()[-1].files == 1
        with pytest.raises(
            QueryTooLarge, match=r"the query needs 3 files, and 1 may be read for one, the limit \(query_max_files\)"
        ):
            engine.query("SELECT v FROM cpu", database="d")


def test_queries_of_an_engine_wait_for_their_turn(pool: ThreadPoolExecutor) -> None:
    with Engine.open(discover_plugins=False, query_concurrency=1) as engine:
        engine.write("cpu v=1", database="d")
        stream = engine.stream("SELECT v FROM cpu", database="d")
        waiting = pool.submit(engine.query, "SELECT 1 AS one", database="d")
        until(lambda: [one.phase for one in engine.queries()] == ["running", "waiting"])
        stream.close()
        assert waiting.result(10).num_rows == 1
