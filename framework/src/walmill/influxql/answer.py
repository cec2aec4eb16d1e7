"""Answers of InfluxQL in the form of InfluxDB 1: results with series, each with a name, tags, columns and values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
from attrs import evolve, frozen

from walmill.errors import InvalidRequest, NotFound
from walmill.influxql.parse import By, Pattern, Select, Show, Source
from walmill.influxql.translate import AGGREGATES, TRANSFORMS, Translation, has_call, quoted
from walmill.influxql.within import measurements, split
from walmill.model.catalog import Catalog, Database, Table
from walmill.model.schema import TIME
from walmill.query.plan import GIVEN
from walmill.units import format_time

DIVISORS = {"ns": 1, "n": 1, "u": 1_000, "us": 1_000, "µ": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000,
            "h": 3_600_000_000_000, "d": 86_400_000_000_000, "w": 7 * 86_400_000_000_000}  # fmt: skip
KINDS = {"float64": "float", "int64": "integer", "uint64": "unsigned", "string": "string", "bool": "boolean"}
DEFAULT_POLICIES = ("", "autogen", "default")


class Ask(Protocol):
    """Runs SQL over a database, or over rows that it is given, which SQL calls `GIVEN`."""

    def __call__(self, database: str, sql: str, own: pa.Table | None = None, /) -> pa.Table: ...


@frozen(kw_only=True)
class Asker:
    """Answers statements.

    Attributes:
        catalog: The definitions.
        ask: Runs SQL.
        database: The database of statements that name none; None if the client named none.
        now: The time, ns.
        epoch: Unit of times as numbers; None for RFC 3339.
    """

    catalog: Catalog
    ask: Ask
    database: str | None
    now: int
    epoch: str | None = None

    def series(self, statement: Select | Show) -> Iterator[dict[str, Any]]:
        """The series of the answer.

        Raises:
            WalmillError: If the statement cannot be run.
        """
        if isinstance(statement, Select):
            yield from self._select(statement)
            return
        makers: dict[str, Callable[[Show], Iterator[dict[str, Any]]]] = {
            "databases": self._databases,
            "retention": self._retention,
            "measurements": self._measurements,
            "tag_keys": self._tag_keys,
            "field_keys": self._field_keys,
            "tag_values": self._tag_values,
        }
        yield from makers[statement.what](statement)

    # ---- SELECT

    def _select(self, select: Select) -> Iterator[dict[str, Any]]:
        found = self._all_series(select)
        limits = select.limits
        start = limits.get("soffset", 0)
        end = None if "slimit" not in limits else start + limits["slimit"]
        for number, one in enumerate(found):
            if end is not None and number >= end:
                return
            if number >= start:
                yield one

    def _all_series(self, select: Select) -> Iterator[dict[str, Any]]:
        for source in select.sources:
            if isinstance(source, Select):
                asked = split(select, source, self.now)
                database = self._innermost(source)
                for schema, own in measurements(evolve(self, epoch="ns")._select(asked.inner)):
                    made = Translation(asked.outer, schema, self.now, asked.low, asked.high, GIVEN)
                    yield from self._series_of(made, database, own)
                continue
            database = self._database(source.database, source.policy)
            for table in self._tables(database, (source,)):
                yield from self._series_of(Translation(select, table.schema, self.now), database)

    def _innermost(self, select: Select) -> Database:
        """The database of the first measurement that a SELECT reads, however deep it is within."""
        source = select.sources[0]
        return self._innermost(source) if isinstance(source, Select) else self._database(source.database, source.policy)

    def _series_of(
        self, translation: Translation, database: Database, own: pa.Table | None = None
    ) -> Iterator[dict[str, Any]]:
        """The series of one measurement; of rows of our own, if there are any."""
        plan = translation.plan()
        if plan is None:
            return
        rows = self.ask(database.name, plan.sql, own)
        tags = [rows.column(f"tag_{place}").to_pylist() for place in range(len(plan.tags))]
        times = self._times(rows.column(TIME).cast(pa.int64()).to_pylist())
        values = [_json(rows.column(f"value_{place}").to_pylist()) for place in range(len(plan.names))]
        for first, end in _groups(tags, rows.num_rows):
            named = {tag: tags[place][first] or "" for place, tag in enumerate(plan.tags)}
            made = list(zip(times[first:end], *(one[first:end] for one in values), strict=True))
            series: dict[str, Any] = {"name": translation.schema.name}
            if plan.grouped:
                series["tags"] = {tag: named.get(tag, "") for tag in plan.grouped}
            series["columns"] = [TIME, *plan.names]
            limited = self._limited(made, translation.select, inside=bool(plan.tags))
            series["values"] = [list(row) for row in limited]
            if series["values"]:
                yield series

    def _limited(self, rows: list[Any], select: Select, *, inside: bool) -> list[Any]:
        """LIMIT and OFFSET of one series; SQL has done them if there are no series."""
        limits = select.limits
        if not inside and not (set(limits) and _whole(select)):
            return rows
        start = limits.get("offset", 0)
        return rows[start : None if "limit" not in limits else start + limits["limit"]]

    def _times(self, times: Sequence[int]) -> list[Any]:
        if self.epoch is None:
            return [format_time(one) for one in times]
        divisor = DIVISORS[self.epoch]
        return [one // divisor for one in times]

    def _database(self, named: str | None, policy: str | None = None) -> Database:
        name = named or self.database
        if not name:
            raise InvalidRequest("database name required")
        if policy is not None and policy.lower() not in DEFAULT_POLICIES:
            name = f"{name}/{policy.lower()}"
        found = self.catalog.find_database(name)
        if found is None:
            raise NotFound(f"database not found: {name}")
        return found

    def _tables(self, database: Database, sources: Sequence[Source]) -> list[Table]:
        """The tables that are meant, by name; none for a measurement that is not there."""
        tables = list(self.catalog.tables_of(database))
        if not sources:
            return tables
        return [one for one in tables if any(_meant(source.name, one.schema.name) for source in sources)]

    # ---- SHOW

    def _databases(self, show: Show) -> Iterator[dict[str, Any]]:
        yield {
            "name": "databases",
            "columns": ["name"],
            "values": _cut([[one] for one in sorted(self.catalog.names)], show),
        }

    def _retention(self, show: Show) -> Iterator[dict[str, Any]]:
        database = self._database(show.database)
        hours = 0 if database.retention is None else database.retention // DIVISORS["h"]
        yield {
            "columns": ["name", "duration", "shardGroupDuration", "replicaN", "default"],
            "values": [["autogen", f"{hours}h0m0s" if hours else "0s", "168h0m0s", 1, True]],
        }

    def _measurements(self, show: Show) -> Iterator[dict[str, Any]]:
        database = self._database(show.database)
        names = [one.schema.name for one in self._tables(database, ()) if _chosen(show.measurement, one.schema.name)]
        if show.where is not None:
            names = [one for one in names if self._any(database, self.catalog.table(database.name, one), show)]
        if names:
            yield {"name": "measurements", "columns": ["name"], "values": _cut([[one] for one in names], show)}

    def _tag_keys(self, show: Show) -> Iterator[dict[str, Any]]:
        database = self._database(show.database)
        for table in self._tables(database, show.sources):
            if table.schema.tags and (show.where is None or self._any(database, table, show)):
                keys = [[one] for one in sorted(table.schema.tags)]
                yield {"name": table.schema.name, "columns": ["tagKey"], "values": _cut(keys, show)}

    def _field_keys(self, show: Show) -> Iterator[dict[str, Any]]:
        database = self._database(show.database)
        for table in self._tables(database, show.sources):
            keys = [[name, KINDS[kind]] for name, kind in sorted(table.schema.fields.items())]
            if keys:
                yield {"name": table.schema.name, "columns": ["fieldKey", "fieldType"], "values": _cut(keys, show)}

    def _tag_values(self, show: Show) -> Iterator[dict[str, Any]]:
        database = self._database(show.database)
        for table in self._tables(database, show.sources):
            found: list[list[str]] = []
            for tag in sorted(one for one in table.schema.tags if _chosen(show.key, one)):
                condition = self._condition(table, show)
                sql = (
                    f"SELECT DISTINCT {quoted(tag)} AS v FROM {quoted(table.schema.name)} "  # noqa: S608 - quoted names
                    f"WHERE {quoted(tag)} IS NOT NULL{f' AND {condition}' if condition else ''} ORDER BY v"
                )
                found += [[tag, value] for value in self.ask(database.name, sql).column(0).to_pylist()]
            if found:
                yield {"name": table.schema.name, "columns": ["key", "value"], "values": _cut(found, show)}

    def _condition(self, table: Table, show: Show) -> str | None:
        if show.where is None:
            return None
        select = Select(columns=(), sources=(), where=show.where)
        return Translation(select, table.schema, self.now).condition(show.where)

    def _any(self, database: Database, table: Table, show: Show) -> bool:
        """Whether a measurement has a row of which the condition holds."""
        condition = self._condition(table, show)
        sql = f"SELECT 1 FROM {quoted(table.schema.name)} WHERE {condition} LIMIT 1"  # noqa: S608 - quoted names
        return bool(self.ask(database.name, sql).num_rows)


def _whole(select: Select) -> bool:
    """Whether SQL leaves LIMIT to us even without series: where it is not at its end."""
    binned = any(isinstance(one, By) for one in select.dimensions)
    trees = [tree for tree, _ in select.columns]
    return (
        any(has_call(one, AGGREGATES) for one in trees)
        and not binned
        and not any(has_call(one, TRANSFORMS) for one in trees)
    )


def _meant(name: str | Pattern, table: str) -> bool:
    return re.search(name.text, table) is not None if isinstance(name, Pattern) else name == table


def _chosen(wanted: tuple[Any, bool] | None, name: str) -> bool:
    """Whether WITH KEY or WITH MEASUREMENT chooses a name."""
    if wanted is None:
        return True
    names, others = wanted
    found = re.search(names.text, name) is not None if isinstance(names, Pattern) else name in names
    return found != others


def _cut(rows: list[Any], show: Show) -> list[Any]:
    start = show.limits.get("offset", 0)
    return rows[start : None if "limit" not in show.limits else start + show.limits["limit"]]


def _groups(tags: Sequence[Sequence[Any]], count: int) -> Iterator[tuple[int, int]]:
    """First and end of the rows of each series; the rows of one lie together."""
    first = 0
    for place in range(1, count + 1):
        if place == count or any(one[place] != one[first] for one in tags):
            yield first, place
            first = place


def _json(values: list[Any]) -> list[Any]:
    """Values as JSON has them: what is no number there is null."""
    return [None if isinstance(one, float) and not math.isfinite(one) else one for one in values]
