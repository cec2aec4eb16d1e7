"""Runs SQL over the tables of one view. Read-only; DataFusion is imported with the first query."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from attrs import evolve

from walmill.buffer.source import TableSource
from walmill.errors import Internal, InvalidRequest
from walmill.model.catalog import QueryLimits
from walmill.model.files import DataFile
from walmill.query.asked import SLACK, Simple, asked_of, simple
from walmill.query.bounds import Bounds, bounds_of
from walmill.query.brake import MAY_JOIN
from walmill.query.driver import Driver, wait
from walmill.query.errors import out_of_time, translate
from walmill.query.parameters import bind, check_used
from walmill.query.plan import Extra, Plan, Ready
from walmill.query.results import Nobody, ResultStream, Running, Watch, cancel, drain, read_here
from walmill.query.rewrite import rewrite
from walmill.query.sessions import Sessions
from walmill.scarcity import scarce
from walmill_hookspecs import SqlFunction

if TYPE_CHECKING:
    from datafusion import SessionContext
    from datafusion.catalog import Table

    from walmill.query.brake import Brake
    from walmill.query.opened import OpenFiles
    from walmill.query.provider import ExtraSchema, QuerySchema, TableCache


MEMORY_LIMIT = 256 * 2**20
_MOVING = re.compile(r"now|current_|today", re.IGNORECASE)  # what a query may say whose meaning depends on the clock
_NAMES_OTHERS = re.compile(r"system|show|information_schema|_cache|given\.", re.IGNORECASE)
"""What a statement says that may concern further schemas; one that says nothing of it cannot name them."""
QUICK_ROWS = 500_000
"""A simple statement over so few rows is read without a way to stop it: to have one costs more than to run it."""
_SLOW = re.compile(
    r"\b(?:with|over)\b|select.*select|(?:series|range|unnest|repeat|pad|space)\s*\(",
    re.IGNORECASE | re.DOTALL,
)
"""What a statement says that may go on for long over few rows; one that says nothing of it takes milliseconds."""
_EXPLAINS = ("Explain", "Analyze")  # the plans of EXPLAIN
_LOGICAL = re.compile(
    r"format\s+'?(?:pgjson|graphviz)", re.IGNORECASE
)  # forms of EXPLAIN that plan no reading of files


class QueryEngine:
    """Runs queries for all threads at once; each has a session, and a memory pool, of its own.

    A query sees the tables that it is given and nothing else: what the planner allows is SELECT, EXPLAIN, SHOW and DESCRIBE.

    Args:
        memory_limit: Bytes that sorts, joins and groups of one query may use, at least 1 MB.
        partitions: So many cores may work for one query; None takes those of the machine, at most 4.
        most_rows: So many rows may be the answer to a query; None for no limit.
        most_files: So many files may be read for a query; None for no limit.
        short: Whether few rows of files are read here, and not by DataFusion.
    """

    def __init__(
        self,
        *,
        memory_limit: int = MEMORY_LIMIT,
        partitions: int | None = None,
        most_rows: int | None = None,
        most_files: int | None = None,
        short: bool = True,
    ) -> None:
        if memory_limit < 2**20:
            raise InvalidRequest(f"the memory limit for queries is {memory_limit} bytes; give at least {2**20}")
        self._memory_limit = memory_limit
        self._most_rows = most_rows
        self._most_files = most_files
        self._driver = Driver()
        self._lock = threading.Lock()
        self._cache: TableCache | None = None
        self._aggregating: frozenset[str] | None = None
        self._sessions = Sessions(partitions or min(os.cpu_count() or 1, 4))
        self._short = short

    def query(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        extra: Extra | None = None,
        watch: Watch | None = None,
        limits: QueryLimits | None = None,
    ) -> pa.Table:
        """Runs a query and returns all rows.

        Args:
            tables: The tables of the database, by name; looked up only as the query names them.
            sql: One statement.
            params: Values for its `$name` placeholders: None, bool, int, float, str, bytes, or an aware datetime.
            timeout: Seconds after which the query is stopped; None never.
            extra: Further schemas beside that of the database.
            watch: Told how far it is, and how to stop it.
            limits: Of who asks; the tighter of these and the engine's hold.

        Returns:
            The rows; `time` is timestamp[ns] without zone, in UTC.

        Raises:
            TableNotFound: If a table does not exist; the message names those spelled alike.
            InvalidRequest: If the query or a parameter is wrong, or the query would change something.
            NotSupported: If the SQL is right and DataFusion cannot do it.
            QueryTooLarge: If it needs more memory than the limit.
            QueryTimeout: If it was stopped at the timeout.
            QueryStopped: If the engine was closed meanwhile.
            DataCorruption: If a file of a table is missing or damaged; the message names it.
        """
        watch = watch or Nobody()
        bounds = self._bounds(timeout, limits)
        plan = self._plan(tables, sql, params, extra, bounds)
        try:
            watch.planned(plan.num_files)
            if plan.quick:
                self._driver.check()
                batches = read_here(plan.start(), watch, bounds)
                if bounds.is_late():
                    raise out_of_time(bounds.timeout)
                self._used(plan)
            else:
                future = self._driver.submit(drain(plan.start(), watch, bounds))  # type: ignore[arg-type] # of a Plan
                watch.started(lambda: cancel(future))
                batches = wait(future, bounds.deadline, bounds.timeout)
        except BaseException as error:  # noqa: BLE001 - a panic of DataFusion is no Exception
            raise self._meaning_for(plan, error, bounds) from None
        finally:
            plan.close()
        return pa.Table.from_batches(batches + plan.last(), None if batches else plan.columns)

    def stream(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        extra: Extra | None = None,
        watch: Watch | None = None,
        limits: QueryLimits | None = None,
    ) -> ResultStream:
        """Runs a query and hands out its rows as they come; what is read is not kept.

        Args:
            tables: As in `query`.
            sql: As in `query`.
            params: As in `query`.
            timeout: Seconds from now after which the stream fails, whoever is slow; None never.
            extra: As in `query`.
            watch: As in `query`; it is told of the end of the stream.
            limits: As in `query`.

        Returns:
            A stream of batches. Close it, or read it to its end.

        Raises:
            WalmillError: As `query` does, if it goes wrong before the first batch; later errors come from the stream.
        """
        watch = watch or Nobody()
        bounds = self._bounds(timeout, limits)
        plan = self._plan(tables, sql, params, extra, bounds)
        try:
            watch.planned(plan.num_files)
            stream = plan.start()
        except BaseException as error:  # noqa: BLE001 - a panic of DataFusion is no Exception
            plan.close()
            raise self._meaning_for(plan, error, bounds) from None
        running = Running(
            plan,
            stream,
            self._driver,
            bounds,
            lambda error: self._meaning_for(plan, error, bounds),
            watch,
            lambda: self._used(plan),
        )
        return ResultStream(running)

    def schema(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        extra: Extra | None = None,
        limits: QueryLimits | None = None,
    ) -> pa.Schema:
        """The columns of a query, which is planned and not run.

        Args:
            tables: As in `query`.
            sql: As in `query`.
            params: As in `query`.
            timeout: As in `query`.
            extra: As in `query`.
            limits: As in `query`.

        Raises:
            WalmillError: As `query` does.
        """
        bounds = self._bounds(timeout, limits)
        plan = self._plan(tables, sql, params, extra, bounds)
        try:
            return plan.columns
        finally:
            plan.close()

    def close(self) -> None:
        """Stops all queries and streams that still run. A second call does nothing."""
        self._driver.close()

    def _bounds(self, timeout: float | None, limits: QueryLimits | None) -> Bounds:
        return bounds_of(self._memory_limit, self._most_rows, self._most_files, timeout, limits)

    def _plan(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        params: Mapping[str, Any] | None,
        extra: Extra | None,
        bounds: Bounds,
    ) -> Plan | Ready:
        try:
            return self._plan_all(tables, sql, params, extra, bounds)
        except OSError as error:  # also of an import
            raise scarce(error) or error from None

    def _plan_all(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        params: Mapping[str, Any] | None,
        extra: Extra | None,
        bounds: Bounds,
    ) -> Plan | Ready:
        bound = bind(params)
        if self._short and not bound:
            from walmill.query import ready

            if (answered := ready.of_number(sql)) is not None:
                return answered
        sql, brake = rewrite(sql, self._aggregates, tables)
        one = simple(sql) if self._short and brake is None else None
        if one is not None and (short := self._plan_short(tables, sql, one, params, bound, extra, bounds)) is not None:
            return short

        def probe() -> Plan:
            if brake is not None:
                context = self._sessions.make(bounds.memory, brake=brake)
                return self._plan_once(tables, sql, bound, extra, bounds, context=context)
            context, kind = self._sessions.take(bounds.memory)
            return evolve(self._plan_once(tables, sql, bound, extra, bounds, context=context), kind=kind)

        plan = probe()
        if not plan.schema.probes:
            return evolve(plan, brake=brake, quick=self._is_quick(sql, plan.rows))
        from walmill.query.opened import OpenFiles

        opened = OpenFiles()
        try:
            found = self._plan_files(tables, sql, bound, extra, plan, opened, bounds, brake, probe)
        except BaseException:
            opened.folder.close()
            raise
        return evolve(found, brake=brake, quick=self._is_quick(sql, found.rows))

    def _plan_short(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        one: Simple,
        params: Mapping[str, Any] | None,
        bound: Mapping[str, Any],
        extra: Extra | None,
        bounds: Bounds,
    ) -> Plan | Ready | None:
        """The answer of a plain statement, or the plan of one that can need few rows of the files of one table, over these rows;
        None for others."""
        from walmill.query import provider, ready
        from walmill.query.groups import few_rows
        from walmill.query.opened import OpenFiles

        began, given = time.time_ns(), params or {}
        if one.schema not in (None, provider.SCHEMA):
            others = (extra or {}).get(str(one.schema), {})
            return ready.of_made(others[one.table], one, given, began, bounds) if one.table in others else None
        if one.table not in tables:
            return None
        source, cache = tables[one.table], self._tables()
        if not source.files:
            return ready.of_rows(None, cache, source, one, given, began, bounds)
        wanted = asked_of(one, source.schema, given, began)
        few = few_rows(cache, source, wanted, OpenFiles(), bounds)
        if few is None:
            return None
        if (answered := ready.of_rows(few, cache, source, one, given, began, bounds)) is not None:
            return answered
        try:
            context, kind = self._sessions.take(bounds.memory, 1)  # there are few rows
            made = {one.table: few.table(cache, source)}
            plan = self._plan_once(tables, sql, bound, extra, bounds, context=context, made=made)
        except InvalidRequest:
            return None  # a plan of the whole table says what is wrong, and which columns there are
        if _MOVING.search(sql) and not 0 <= time.time_ns() - began < SLACK:
            return None  # files that took long to come, or a clock that was set: the plan has another now()
        rows = sum(batch.num_rows for batch in few.batches) + (source.buffer.num_rows if few.buffer else 0)
        return evolve(plan, num_files=few.files, rows=rows, quick=self._is_quick(sql, rows), kind=kind)

    def _is_quick(self, sql: str, rows: int) -> bool:
        return (
            rows <= QUICK_ROWS and not self._sessions.has_functions and not (_SLOW.search(sql) or MAY_JOIN.search(sql))
        )

    def _plan_files(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        bound: Mapping[str, Any],
        extra: Extra | None,
        probed: Plan,
        opened: OpenFiles,
        bounds: Bounds,
        brake: Brake | None,
        probe: Callable[[], Plan],
    ) -> Plan:
        """The plan of a query over the files that it needs, which its plan with probes tells."""
        from walmill.query.files import plan_table

        cache = self._tables()
        needed = self._needed(probed, bounds)
        while True:
            count = sum(len(files) for _, files in needed.values())
            bounds.check_files(count)
            context = self._sessions.make(bounds.memory, files=True, brake=brake)
            plans = {
                name: plan_table(context, cache, source, files, opened, bounds.check_time)
                for name, (source, files) in needed.items()
            }
            made = {name: one.table for name, one in plans.items()}
            plan = self._plan_once(tables, sql, bound, extra, bounds, context=context, made=made, files=opened)
            if plan.schema.probes:
                raise Internal(f"the query named other tables when it was planned again: {sorted(plan.schema.probes)}")
            if plan.frame.logical_plan().display() in _EXPLAINS and not _LOGICAL.search(sql):
                told = [one.told(name, len(needed[name][0].files)) for name, one in sorted(plans.items())]
                plan = evolve(plan, told="\n".join(told))
            rows = sum(file.rows for _, files in needed.values() for file in files)
            plan = evolve(plan, num_files=count, rows=plan.rows + rows)
            if not _MOVING.search(sql):
                return plan
            # now() of this plan lies between that of the probes before it and of those after it: if both need the same
            # files, so does the plan
            again = self._needed(probe(), bounds)
            if all(
                set(files) <= set(needed[name][1]) and source.buffer.num_rows <= needed[name][0].buffer.num_rows
                for name, (source, files) in again.items()
            ):
                return plan
            needed = again

    def _plan_once(
        self,
        tables: Mapping[str, TableSource],
        sql: str,
        bound: Mapping[str, Any],
        extra: Extra | None,
        bounds: Bounds,
        *,
        context: SessionContext,
        made: Mapping[str, Table] | None = None,
        files: OpenFiles | None = None,
    ) -> Plan:
        """Plans a query; without `made`, tables that have files are probes."""
        from datafusion import SQLOptions

        from walmill.query import provider

        cache = self._tables()
        catalog = context.catalog(provider.CATALOG)
        catalog.deregister_schema(provider.SCHEMA)
        schema = provider.QuerySchema(cache, tables, made)
        catalog.register_schema(provider.SCHEMA, schema)
        wanted = extra if extra and _NAMES_OTHERS.search(sql) else {}  # registering them costs a tenth of a small query
        others = {name: provider.ExtraSchema(cache, makers) for name, makers in wanted.items()}
        for name, other in others.items():
            catalog.register_schema(name, other)
        options = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
        try:
            if bound:
                unbound = context.sql(sql, options=options)
                check_used(bound, unbound.logical_plan().display_indent())
            if bound or "$" in sql:
                # a value that no query can use makes DataFusion check for placeholders without one
                frame = context.sql(sql, options=options, param_values={**bound, "": None})
            else:
                frame = context.sql(sql, options=options)
        except BaseException as error:  # noqa: BLE001 - a panic of DataFusion is no Exception
            raise self._meaning(error, schema, others, files, bounds) from None
        schema.planned = True
        for other in others.values():
            other.planned = True
        rows = schema.rows + sum(other.rows for other in others.values())
        return Plan(context, schema, others, frame, files, rows=rows)

    def _needed(self, plan: Plan, bounds: Bounds) -> dict[str, tuple[TableSource, tuple[DataFile, ...]]]:
        """The tables that a plan with probes names, without the rows in memory if it needs none, and the files it needs."""
        try:
            plan.frame.execution_plan()
        except BaseException as error:  # noqa: BLE001 - a panic of DataFusion is no Exception
            if "pyarrow.lib.BooleanScalar" not in str(error):
                raise self._meaning(error, plan.schema, plan.extra, None, bounds) from None
            # it cannot give a data set a condition that is known without any row together with another one
            for _, probe in plan.schema.probes.values():
                probe.filters.append(None)
        return plan.schema.needed()

    def _aggregates(self) -> frozenset[str]:
        """The names of DataFusion's functions that aggregate."""
        if self._aggregating is None:
            asked = "SELECT DISTINCT routine_name FROM information_schema.routines WHERE function_type = 'AGGREGATE'"
            found = self._sessions.make(self._memory_limit).sql(asked).to_arrow_table()
            self._aggregating = frozenset(found.column(0).to_pylist())
        return self._aggregating

    def _tables(self) -> TableCache:
        from walmill.query import provider

        with self._lock:
            if self._cache is None:
                self._cache = provider.TableCache()
            return self._cache

    def functions(self) -> frozenset[str]:
        """Names of the functions that SQL has, those that are rewritten included."""
        from walmill.query import functions, gapfill

        asked = "SELECT DISTINCT routine_name FROM information_schema.routines"
        found = self._sessions.make(self._memory_limit).sql(asked).to_arrow_table()
        return frozenset((*found.column(0).to_pylist(), *functions.NAMES, *gapfill.NAMES))

    def add_functions(self, functions: Sequence[SqlFunction]) -> None:
        """Gives further functions to all queries that come."""
        if functions:
            from datafusion import udf

            self._sessions.add_functions(
                [udf(one.function, list(one.arguments), one.returns, one.volatility, one.name) for one in functions]
            )

    def _used(self, plan: Plan | Ready) -> None:
        """All of an answer was read: the next query can have its session."""
        if isinstance(plan, Plan) and plan.quick and plan.kind is not None:
            from walmill.query.provider import SCHEMA

            self._sessions.give_back(plan.context, plan.kind, (SCHEMA, *plan.extra))

    def _meaning_for(self, plan: Plan | Ready, error: BaseException, bounds: Bounds) -> BaseException:
        return error if isinstance(plan, Ready) else self._meaning(error, plan.schema, plan.extra, plan.files, bounds)

    def _meaning(
        self,
        error: BaseException,
        schema: QuerySchema,
        extra: Mapping[str, ExtraSchema],
        files: OpenFiles | None,
        bounds: Bounds,
    ) -> BaseException:
        """What to raise for an error of DataFusion, or of a table that it asked for."""
        from walmill.query import provider

        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return error
        made_by: list[QuerySchema | ExtraSchema] = [schema, *extra.values()]
        for made in made_by:
            # DataFusion holds the schema, and the error holds the frames that hold DataFusion: a ring that nobody would find
            failure, made.failure = made.failure, None
            if failure is not None:
                return failure
        names = {name: other.table_names for name, other in extra.items()}
        names[provider.SCHEMA] = schema.table_names
        meaning = translate(
            error,
            catalog=provider.CATALOG,
            schema=provider.SCHEMA,
            tables=names,
            memory_limit=bounds.memory,
            of=bounds.of("memory"),
        )
        if files is not None and isinstance(meaning, Internal):
            return files.trouble() or meaning
        return meaning
