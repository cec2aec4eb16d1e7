"""What an engine offers to try a plugin: a run for real, of which nothing is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import TimeoutError as TooSlow
from typing import Any, Literal

import pyarrow as pa
from attrs import evolve, field, frozen

from walmill.dispatch.rehearsal import (
    Asked,
    Part,
    Report,
    Stage,
    batch_part,
    rehearse,
    request_part,
    service_part,
    snapshot_part,
    tick_part,
)
from walmill.dispatch.snapshots import MOST_FILES, new_files, portion, record_of
from walmill.dispatch.subscriptions import Subscriptions
from walmill.dispatch.tail import Tails
from walmill.errors import Conflict, InvalidRequest, LimitReached
from walmill.ingest.precision import Precision
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.schedule.plan import due_before
from walmill.store.commit import Commit
from walmill.store.draft import Draft
from walmill.trigger_calls import Triggers
from walmill.triggers import manage
from walmill.triggers.manage import NewTrigger
from walmill.triggers.spec import AllTables, CronSpec, EverySpec, SnapshotSpec, Spec, TableSpec, parse_spec
from walmill.writer import Writer
from walmill_hookspecs import Request, Tick
from walmill_hookspecs.context import WriteData
from walmill_worker.context import to_datetime

Kind = Literal["write", "schedule", "request", "service", "snapshot"]
DEFAULT_SPECS: Mapping[Kind, str] = {
    "write": "all_tables",
    "schedule": "every:1m",
    "request": "request:test",
    "service": "service",
    "snapshot": "snapshot",
}
"""What a plugin is bound to in a rehearsal that does not say."""
WAIT_SECONDS = 60.0
SERVICE_SECONDS = 10.0
MOST_SECONDS = 3600.0
"""A rehearsal of a source takes at most so long: it has one of the threads that answer such requests."""


@frozen(kw_only=True)
class Rehearsal:
    """What is to be tried.

    Attributes:
        kind: Which hook: `write`, `schedule`, `request`, `service` or `snapshot`.
        database: Name of the database; it need not be there.
        plugin: Name of the plugin; None takes that of the trigger.
        trigger: Name of a trigger whose definition and state the run has; None for one made for it, without state.
        spec: The event; None takes the trigger's, or `DEFAULT_SPECS`.
        arguments: Of the trigger; they are put over those that it has.
        grants: Other databases that the run may use, beside those of the trigger.
        limits: What the run may use, by the names of `walmill.settings.limits`.
        executor: Where the hook runs; None as for a new trigger.
        rows: Rows for `on_write`: line protocol (str or bytes), Lines, mappings or Arrow data.
        query: SQL whose rows are taken instead.
        live: Waits so many seconds for the next commit with rows, and takes that instead.
        table: The table of these rows, for mappings, Arrow data and SQL.
        tags: Which of their columns are tags, for a new table.
        precision: What times in line protocol mean.
        at: The due time that `on_schedule` is told, ns; now if None.
        request: What `on_request` gets.
        seconds: How long `on_service` runs before it is asked to end.
        after: `on_snapshot` is told of the files with rows of later commits than this sequence; None for those that the trigger
            has not had, or all.
    """

    kind: Kind
    database: str
    plugin: str | None = None
    trigger: str | None = None
    spec: str | None = None
    arguments: Mapping[str, Any] = field(factory=dict)
    grants: Sequence[str] = ()
    limits: Mapping[str, Any] = field(factory=dict)
    executor: str | None = None
    rows: WriteData | bytes | None = None
    query: str | None = None
    live: float | None = None
    table: str | None = None
    tags: Sequence[str] | None = None
    precision: str | Precision = "nanosecond"
    at: int | None = None
    request: Request | None = None
    seconds: float = SERVICE_SECONDS
    after: int | None = None


class Rehearsals(Triggers):
    """Trying plugins."""

    _tails: Tails
    _writer: Writer

    def rehearse(self, asked: Rehearsal, *, ask: Asked | None = None) -> Report:
        """Runs a hook once, for real, and keeps nothing of what it writes, changes and says; waits for it.

        The run has the executor, the limits and the settings that a trigger would have. It sees the database as it is, with the
        rows that it is given. Rows, state and cursor of the engine stay as they are; what the plugin does outside of the engine
        is done.

        Args:
            asked: What is to be tried.
            ask: Answers the queries of the run instead of this engine.

        Raises:
            InvalidRequest: With all problems at once, if this cannot be tried.
            NotFound: If there is no such plugin or trigger.
            Conflict: If the plugin is broken.
            LimitReached: If no commit came in time.
        """
        commits = self._next_commits(asked) if asked.live is not None else None
        stage = Stage(self._mill, self.view(), ask)
        trigger, spec = self._cast(stage, asked)
        part = self._part(stage, trigger, spec, asked, commits)
        station = self._mill.station(trigger, asked.database, stage, dry=True)
        report: Report = self._mill.run(rehearse(stage, station, part)).result()
        return report

    def _cast(self, stage: Stage, asked: Rehearsal) -> tuple[Trigger, Spec]:
        """The trigger whose run it is: one that is there, or one that only the stage has."""
        known: Trigger | None = None
        if asked.trigger is not None:
            known = self.view().catalog.trigger(asked.database, asked.trigger)
            if asked.plugin not in (None, known.plugin):
                raise InvalidRequest(
                    f"the trigger {asked.trigger!r} has the plugin {known.plugin!r}, not {asked.plugin!r}; leave one of them out"
                )
        plugin = asked.plugin if known is None else known.plugin
        if plugin is None:
            raise InvalidRequest("name a plugin, or a trigger that has one")
        text = asked.spec
        if text is None and known is not None and parse_spec(known.spec).kind == asked.kind:
            text = known.spec
        text = DEFAULT_SPECS[asked.kind] if text is None else text
        description = self.registry.inspect(plugin)
        executor = asked.executor
        if executor is None:
            executor = known.executor if known is not None else self.default_executor
            executor = executor if description.installed else "inline"
        new = NewTrigger(
            database=asked.database,
            name=asked.trigger or self._free_name(asked.database, plugin),
            plugin=plugin,
            spec=text,
            arguments={**({} if known is None else known.arguments), **asked.arguments},
            grants=list(dict.fromkeys([*(() if known is None else known.grants), *asked.grants])),
            limits={**({} if known is None else known.limits), **asked.limits},
            executor=executor,
            derived=True,
        )
        spec, problems = manage.check_new(new, description, self.executors)
        if spec.kind != asked.kind:
            problems.append(f"the spec {str(spec)!r} is for on_{spec.kind}, not for on_{asked.kind}")
        if problems:
            raise InvalidRequest("; ".join(problems))

        def decide(draft: Draft) -> Trigger:
            owner = draft.database(new.database)
            made = manage.trigger_of(draft, new, spec, owner.id)
            if known is not None:
                made = evolve(made, id=known.id, generation=known.generation + 1)
            draft.define({"op": "put_trigger", "trigger": made.to_json()})
            return made

        trigger: Trigger = stage.set_up(decide)[0]
        return trigger, spec

    def _free_name(self, database: str, plugin: str) -> str:
        owner = self.view().catalog.find_database(database)
        taken = () if owner is None else owner.triggers
        name = f"test-{re.sub(r'[^A-Za-z0-9_.-]', '-', plugin)}"
        while name in taken:
            name += "-"
        return name

    def _part(
        self, stage: Stage, trigger: Trigger, spec: Spec, asked: Rehearsal, commits: Sequence[Commit] | None
    ) -> Part:
        if asked.kind == "request":
            if asked.request is None:
                raise InvalidRequest("on_request needs a request")
            return request_part(asked.request)
        if asked.kind == "schedule":
            assert isinstance(spec, EverySpec | CronSpec)
            return self._tick(stage, trigger, spec, asked)
        if asked.kind == "service":
            if not 0 < asked.seconds <= MOST_SECONDS:
                raise InvalidRequest(
                    f"a source cannot be tried for {asked.seconds:g} s; give more than 0 s, and at most {MOST_SECONDS:g} s"
                )
            return service_part(asked.seconds)
        if asked.kind == "snapshot":
            assert isinstance(spec, SnapshotSpec)
            return self._files(stage, trigger, spec, asked)
        if commits is None:
            commits = [self._given(stage, asked)]
        tables = [part.table for commit in commits for part in commit.rows]
        wanted = Subscriptions(stage.view().catalog).tables_of(trigger, tables)
        if not wanted:
            names = sorted(stage.view().catalog.tables[table].schema.name for table in tables)
            raise InvalidRequest(
                f"none of the rows is for the spec {str(spec)!r}; they are in {', '.join(names) or 'no table'}"
            )
        return batch_part(stage, trigger, commits, wanted, asked.database)

    def _files(self, stage: Stage, trigger: Trigger, spec: SnapshotSpec, asked: Rehearsal) -> Part:
        """The files that a trigger of this spec would be told of; the stage's view holds them as long as the run goes on."""
        view, after = stage.view(), asked.after
        if after is None:
            after = (view.cursors.get(trigger.id) or Cursor()).through
        found = new_files(view, trigger.database_id, spec, after)
        if not found:
            raise InvalidRequest(
                f"the database {asked.database!r} has no file with rows of a commit after {after} for the spec {str(spec)!r}: "
                "write some and take a snapshot (`walmill create snapshot`), or begin earlier"
            )
        stage.place(trigger.id, Cursor(through=after))
        return snapshot_part(record_of(view, portion(found, MOST_FILES), after, self._mill.place))

    def _tick(self, stage: Stage, trigger: Trigger, spec: EverySpec | CronSpec, asked: Rehearsal) -> Part:
        now = self._mill.now_ns()
        due = now if asked.at is None else asked.at
        schedule = spec.schedule()
        previous = (stage.view().cursors.get(trigger.id) or Cursor()).fired
        if previous is not None and previous >= due:
            previous = None
        before = due_before(schedule, due)
        tick = Tick(
            scheduled_for=to_datetime(due),
            fired_at=to_datetime(now),
            previous=None if previous is None else to_datetime(previous),
            missed=0,
            timezone=schedule.zone,
            since=None if before is None else to_datetime(before),
        )
        return tick_part(tick, due)

    def _given(self, stage: Stage, asked: Rehearsal) -> Commit:
        """The commit that brings the rows; only the stage has it."""
        data: Any = asked.rows
        if (data is None) == (asked.query is None):
            raise InvalidRequest(
                "on_write needs rows, or SQL that gives them, or a commit to wait for: one of the three"
            )
        table, tags = asked.table, asked.tags
        if asked.query is not None:
            if table is None:
                raise InvalidRequest("the rows of a query need the name of the table that they stand for")
            data = self._mill.query(self.view(), asked.database, asked.query, None)
            owner = self.view().catalog.find_database(asked.database)
            if tags is None and self.view().catalog.find_table(owner, table) is None:
                tags = [one.name for one in data.schema if pa.types.is_dictionary(one.type)]
        submission = self._writer.submission(
            data, asked.database, table=table, tags=tags, precision=asked.precision, accept_partial=False
        )
        written, commit = stage.set_up(submission.prepare)
        if written.errors:
            first = written.errors[0]
            raise InvalidRequest(f"line {first.line_number}: {first.message}: {first.original_line[:60]!r}")
        if commit is None or not commit.rows:
            raise InvalidRequest("there are no rows: on_write is not called without any")
        made: Commit = commit
        return made

    def _next_commits(self, asked: Rehearsal) -> list[Commit]:
        """The next commit that a trigger of this spec would be given."""
        given = [name for name, value in (("rows", asked.rows), ("query", asked.query)) if value is not None]
        if given:
            raise InvalidRequest(f"either {given[0]}, or the next commit: not both")
        text = asked.spec
        if text is None and asked.trigger is not None:
            text = self.view().catalog.trigger(asked.database, asked.trigger).spec
        spec = parse_spec(text or DEFAULT_SPECS["write"])
        if not isinstance(spec, AllTables | TableSpec):
            raise InvalidRequest(f"the spec {str(spec)!r} is not for rows; give all_tables, or table:NAME")
        seconds = WAIT_SECONDS if asked.live is None else asked.live
        waiting = self._mill.run(self._wait(asked.database, spec))
        try:
            found: list[Commit] = [waiting.result(seconds)]
        except TooSlow:
            waiting.cancel()
            raise LimitReached(
                f"no rows for {str(spec)!r} were written to {asked.database!r} within {seconds:g} s; write some, or wait longer"
            ) from None
        except asyncio.CancelledError:
            raise Conflict("the engine stops") from None
        return found

    def follow(
        self, database: str, tables: frozenset[str] | None = None, after: int | None = None
    ) -> AsyncGenerator[Commit, None]:
        """The commits that hold rows of a database, as they become durable; see `walmill.dispatch.tail.Tails.follow`."""
        return self._tails.follow(database, tables, after)

    async def _wait(self, database: str, spec: AllTables | TableSpec) -> Commit:
        following = self._tails.follow(database)
        try:
            async for commit in following:
                tables = self.view().catalog.tables
                if any(spec.matches(tables[part.table].schema.name) for part in commit.rows if part.table in tables):
                    return commit
        finally:
            await following.aclose()
        raise AssertionError  # it has no end
