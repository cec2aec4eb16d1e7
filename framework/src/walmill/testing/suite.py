"""Contract tests for a plugin in one line: what every user of it would expect, tried on a real engine in both executors.

from walmill.testing.suite import plugin_suite

TestContract = plugin_suite("walmill_spikes", rows="press,line=3 force=71.3", arguments={"limit": "90"})
"""

from __future__ import annotations

import itertools
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from walmill.dispatch.rehearsal import Report
from walmill.engine import Engine
from walmill.isolation.process import possible
from walmill.options import EngineOptions
from walmill.plugins.description import PluginDescription
from walmill.rehearsals import Rehearsal
from walmill.triggers import manage
from walmill_hookspecs import Line
from walmill_hookspecs.fakes import FakeContext, request
from walmill_worker.describe import describe_loaded, load

NAME = "plugin-under-test"
DATABASE = "suite"
SECONDS = 20.0
"""A run, or what is waited for, that takes longer fails."""
_databases = itertools.count(1)
_TIME = re.compile(r" -?\d+$")
_WRONG = {"int": "many", "float": "many", "bool": "perhaps", "duration": "soon", "enum": "none of these"}


def plugin_suite(
    plugin: Any,
    *,
    rows: str = "cpu,host=a usage=1.5,busy=true 1000000000\ncpu,host=b usage=2.5,busy=false 1000000001",
    arguments: Mapping[str, Any] | None = None,
    requests: Sequence[Mapping[str, Any]] = ({"method": "GET"},),
    repeats: bool = True,
) -> type:
    """A class of tests for a plugin; give it a name that begins with `Test`.

    Args:
        plugin: The plugin: a module, a class, or where they are found (`module` or `module:Class`).
        rows: Rows that it is made for, as line protocol.
        arguments: Arguments of a trigger, where the defaults will not do.
        requests: Requests that it is made for, by the arguments of `walmill_hookspecs.fakes.request`; each has to be answered
            below 400.
        repeats: Whether a run that is repeated writes the same number of rows; False for one that depends on chance, or on
            what is outside.

    Returns:
        The class. It has only the tests that the plugin's hooks call for.

    Raises:
        ValueError: If the plugin cannot be used at all; the message says why.
    """
    value = plugin if isinstance(plugin, str) else _place(plugin)
    found = describe_loaded(load(value), NAME)
    if found.broken is not None:
        raise ValueError(f"the plugin {value} cannot be used: {found.broken}")
    given = dict(arguments or {})
    executors = ["inline", *(["process"] if possible() else [])]
    both = pytest.mark.parametrize("executor", executors)
    lines = _lines(rows)

    class PluginSuite:
        """Contract tests of one plugin."""

        database = DATABASE

        @pytest.fixture(scope="class")
        @classmethod
        def _opened(cls) -> Iterator[Engine]:
            with Engine.open(EngineOptions(discover_plugins=False, shutdown_timeout=5.0)) as opened:
                opened.add_plugin(NAME, value)
                yield opened

        @pytest.fixture
        def engine(self, _opened: Engine) -> Iterator[Engine]:
            """One engine for all: to open one takes longer than most tests. Each has a database of its own."""
            self.database = f"{DATABASE}_{next(_databases)}"
            yield _opened
            for shown in _opened.triggers(self.database) if self.database in _opened.databases() else ():
                _opened.delete_trigger(self.database, shown["trigger_name"], force=True)

        def _try(self, engine: Engine, executor: str, kind: Any, **more: Any) -> Report:
            asked = Rehearsal(
                kind=kind,
                database=self.database,
                plugin=NAME,
                executor=executor,
                arguments={**given, **more.pop("arguments", {})},
                limits={"timeout": f"{SECONDS:.0f}s"} if executor == "process" else {},
                **more,
            )
            return engine.rehearse(asked)

        def _good(self, report: Report) -> Report:
            assert report.status in ("ok", "skipped", "retry_later"), f"{report.error}\n{report.traceback}"
            return report

        # ---- what it says of itself

        def test_it_says_what_it_does(self) -> None:
            assert found.summary, "give the module or the class a docstring: its first line is what lists show"

        def test_it_has_a_hook(self) -> None:
            assert found.hooks

        def test_nothing_that_it_uses_is_deprecated(self) -> None:
            for one in found.deprecated:  # a warning among others; `walmill plugin check` makes an error of it
                warnings.warn(one, DeprecationWarning, stacklevel=1)

        def test_its_arguments_fit(self, engine: Engine) -> None:
            problems = _described(engine).check_arguments(given)
            assert not problems, f"give arguments= that fit: {'; '.join(problems)}"

        def test_its_settings_say_what_they_are(self, engine: Engine) -> None:
            unsaid = [one.name for one in _described(engine).settings or () if not one.description]
            assert not unsaid, f"these settings have no description: {', '.join(unsaid)}"

        def test_an_unknown_argument_is_refused(self, engine: Engine) -> None:
            assert _described(engine).check_arguments({**given, "no_such_argument": "1"})

        def test_a_missing_argument_is_named(self, engine: Engine) -> None:
            for one in _described(engine).settings or ():
                if one.required:
                    less = {name: value for name, value in given.items() if name != one.name}
                    assert any(one.name in problem for problem in _described(engine).check_arguments(less))

        def test_an_argument_of_another_type_is_refused(self, engine: Engine) -> None:
            for one in _described(engine).settings or ():
                if one.kind in _WRONG:
                    problems = _described(engine).check_arguments({**given, one.name: _WRONG[one.kind]})
                    assert any(one.name in problem for problem in problems)

        def test_what_it_suggests_can_be_created(self, engine: Engine) -> None:
            for one in found.triggers:
                new = manage.NewTrigger(
                    database=self.database,
                    name=one["name"],
                    plugin=NAME,
                    spec=one["spec"],
                    arguments={**one["arguments"], **given},
                    methods=one["methods"],
                    executor="inline",
                )
                assert not manage.check_new(new, _described(engine), engine.executors)[1]

        # ---- on_write

        @both
        def test_write_rows(self, engine: Engine, executor: str) -> None:
            self._good(self._try(engine, executor, "write", rows=lines))

        @both
        def test_write_one_row(self, engine: Engine, executor: str) -> None:
            self._good(self._try(engine, executor, "write", rows=lines[:1]))

        @both
        def test_write_many_rows(self, engine: Engine, executor: str) -> None:
            many = [evolve(lines[n % len(lines)], time=1_000_000_000 + n) for n in range(5000)]
            self._good(self._try(engine, executor, "write", rows=many))

        @both
        def test_write_rows_with_further_columns(self, engine: Engine, executor: str) -> None:
            more = {f"further_{number}": float(number) for number in range(200)}
            wide = [evolve(line, tags={**line.tags, "further": "x"}, fields={**line.fields, **more}) for line in lines]
            self._good(self._try(engine, executor, "write", rows=wide))

        @both
        def test_write_rows_without_values(self, engine: Engine, executor: str) -> None:
            fewer = []
            for number, line in enumerate(lines * 2):
                kept = list(line.fields.items())
                kept = kept[number % len(kept) :][:1] if len(kept) > 1 else kept
                fewer.append(
                    evolve(line, fields=dict(kept), tags=dict(list(line.tags.items())[1:]), time=2_000_000_000 + number)
                )
            self._good(self._try(engine, executor, "write", rows=fewer))

        @both
        def test_write_rows_of_another_table(self, engine: Engine, executor: str) -> None:
            self._good(self._try(engine, executor, "write", rows=[Line("some_other_table", {}, {"unheard_of": 1}, 1)]))

        @both
        def test_a_repeated_write_does_the_same(self, engine: Engine, executor: str) -> None:
            first, second = (self._good(self._try(engine, executor, "write", rows=lines)) for _ in range(2))
            if repeats:
                assert _effects(first) == _effects(second), "a run that failed is repeated: it has to come to the same"

        def test_it_goes_on_after_a_restart(self, tmp_path: Path) -> None:
            options = EngineOptions(data_dir=tmp_path, discover_plugins=False, shutdown_timeout=5.0)
            tables = ",".join(sorted({line.table for line in lines}))
            for number in range(2):
                with Engine.open(options) as opened:
                    opened.add_plugin(NAME, value)
                    if not number:
                        opened.create_trigger(
                            database=DATABASE,
                            name="t",
                            plugin=NAME,
                            spec=f"table:{tables}",
                            arguments=given,
                            policy="skip",
                        )
                    else:
                        opened.enable_trigger(DATABASE, "t")  # it would not find its plugin before this
                    later = [evolve(line, time=3_000_000_000 + number * len(lines) + n) for n, line in enumerate(lines)]
                    opened.write(later, database=DATABASE)
                    _wait_idle(opened)
                    shown = opened.trigger(DATABASE, "t")
                    assert shown["state"] == "enabled", shown["reason"]
                    assert not shown["failures"], shown["last_error"]
                    opened.disable_trigger(DATABASE, "t")

        # ---- on_schedule

        @both
        def test_schedule_without_any_table(self, engine: Engine, executor: str) -> None:
            self._good(self._try(engine, executor, "schedule", at=1_700_000_000_000_000_000))

        @both
        def test_schedule_with_rows(self, engine: Engine, executor: str) -> None:
            engine.write(rows, database=self.database)
            self._good(self._try(engine, executor, "schedule"))

        @both
        def test_a_repeated_schedule_does_the_same(self, engine: Engine, executor: str) -> None:
            engine.write(rows, database=self.database)
            at = 1_700_000_000_000_000_000
            first, second = (self._good(self._try(engine, executor, "schedule", at=at)) for _ in range(2))
            if repeats:
                assert _effects(first) == _effects(second)

        # ---- on_request

        @both
        def test_requests(self, engine: Engine, executor: str) -> None:
            engine.write(rows, database=self.database)
            for one in requests:
                report = self._good(self._try(engine, executor, "request", request=request(**one)))
                assert report.answer is not None
                assert report.answer["status"] < 400, report.answer["body"]

        @both
        def test_requests_that_are_wrong_are_answered(self, engine: Engine, executor: str) -> None:
            odd = [("no_such_parameter", "\x00"), ("limit", "-1"), ("from", "…"), ("from", "again")]
            for one in (
                request("GET", query=odd),
                request("HEAD"),
                request("POST", body=b"\xff\x00 no text", headers={"content-type": "application/json"}),
                request("POST", body=b"[" * 1000, headers={"content-type": "application/json"}),
                request("PUT", body=b""),
            ):
                report = self._try(engine, executor, "request", request=one)
                assert report.status != "failed", (
                    f"{one.method}: {report.error}: raise HTTPError(400, why) for what is wrong"
                )
                assert report.answer is None or report.answer["status"] < 500

        # ---- on_service

        @both
        def test_service_begins_and_ends(self, engine: Engine, executor: str) -> None:
            engine.create_trigger(
                database=self.database, name="t", plugin=NAME, spec="service", arguments=given, executor=executor
            )
            _wait(lambda: engine.trigger(self.database, "t")["running"] or engine.trigger(self.database, "t")["runs"])
            engine.disable_trigger(self.database, "t")
            _wait(lambda: not engine.trigger(self.database, "t")["running"])
            shown = engine.trigger(self.database, "t")
            assert not shown["failures"], f"{shown['last_error']}: raise RetryLater for what is not there now"

        @both
        def test_service_begins_again(self, engine: Engine, executor: str) -> None:
            engine.create_trigger(
                database=self.database, name="t", plugin=NAME, spec="service", arguments=given, executor=executor
            )
            for _ in range(2):
                _wait(
                    lambda: engine.trigger(self.database, "t")["running"] or engine.trigger(self.database, "t")["runs"]
                )
                engine.disable_trigger(self.database, "t")
                _wait(lambda: not engine.trigger(self.database, "t")["running"])
                engine.enable_trigger(self.database, "t")
            assert engine.trigger(self.database, "t")["state"] == "enabled"

        # ---- on_snapshot

        @both
        def test_snapshot_of_files(self, tmp_path: Path, executor: str) -> None:
            options = EngineOptions(data_dir=tmp_path, discover_plugins=False, shutdown_timeout=5.0)
            with Engine.open(options) as opened:
                opened.add_plugin(NAME, value)
                opened.create_trigger(
                    database=DATABASE, name="t", plugin=NAME, spec="snapshot", arguments=given, executor=executor
                )
                for number in range(2):  # the second time with rows that were told before
                    opened.write([*lines, evolve(lines[0], time=5_000_000_000 + number)], database=DATABASE)
                    opened.snapshot()
                    _wait(lambda number=number: opened.trigger(DATABASE, "t")["runs"] > number)  # type: ignore[misc]
                    shown = opened.trigger(DATABASE, "t")
                    assert not shown["failures"], shown["last_error"]
                    assert shown["state"] == "enabled", shown["reason"]

    for hook, parts in _OF_HOOK.items():
        if hook not in found.hooks:
            for name in [name for name in vars(PluginSuite) if any(part in name for part in parts)]:
                delattr(PluginSuite, name)
    return PluginSuite


_OF_HOOK = {
    "on_write": ("test_write", "repeated_write", "after_a_restart"),
    "on_schedule": ("test_schedule", "repeated_schedule"),
    "on_request": ("test_requests",),
    "on_service": ("test_service",),
    "on_snapshot": ("test_snapshot",),
    "register_settings": ("argument", "settings"),
    "register_triggers": ("suggests",),
}


def _place(plugin: Any) -> str:
    """Where a plugin is found."""
    value = str(getattr(plugin, "__name__", ""))
    if isinstance(plugin, type):
        value = f"{plugin.__module__}:{plugin.__qualname__}"
    try:
        if load(value) is plugin or import_module(value.split(":")[0]) is plugin:
            return value
    except (ImportError, AttributeError, ValueError):
        pass
    raise ValueError(f"{plugin!r:.80} cannot be imported by a worker: give a module, or a class at the top of one")


def _lines(rows: str) -> list[Line]:
    """Line protocol as lines."""
    context = FakeContext()
    context.write(rows)
    return list(context.written)


def _described(engine: Engine) -> PluginDescription:
    return engine.registry.inspect(NAME)


def _effects(report: Report) -> tuple[Any, ...]:
    """What a run came to, apart from times."""
    written = {name: sorted(_TIME.sub("", line) for line in lines) for name, lines in report.writes.items()}
    return report.status, dict(report.counts), written, sorted(str(one.get("key")) for one in report.state)


def _wait(found: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not found():
        assert time.monotonic() < until, f"it did not happen within {SECONDS:.0f} s"
        time.sleep(0.01)


def _wait_idle(engine: Engine) -> None:
    until = time.monotonic() + SECONDS
    while True:
        shown = engine.trigger(DATABASE, "t")
        if shown["state"] != "enabled" or (not shown["running"] and not shown["lag_commits"]):
            return
        if shown["last_error"] is not None and not shown["failures"]:
            return  # it asks to be called later: nobody is there to be told
        assert time.monotonic() < until, "it did not get through its rows in time"
        time.sleep(0.01)
