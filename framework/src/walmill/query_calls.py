"""What an engine offers to ask questions. Any thread may call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from walmill import system
from walmill.buffer.source import Locate, TableSource, no_store
from walmill.cache_calls import Caches
from walmill.errors import NotFound
from walmill.model.catalog import INTERNAL
from walmill.options import EngineOptions
from walmill.query.desk import Asked, Desk
from walmill.query.engine import QueryEngine
from walmill.query.plan import GIVEN_SCHEMA, GIVEN_TABLE, Extra, Made
from walmill.query.results import ResultStream
from walmill.store.view import View
from walmill.values.tables import cache_tables

if TYPE_CHECKING:
    import pyarrow as pa

PLUGIN = "plugin"
"""Who asks what runs of plugins ask: they do not wait for a turn, since they may hold a stream while they ask again."""


class Queries(Caches):
    """Queries over an engine."""

    options: EngineOptions
    _desk: Desk
    _queries: QueryEngine

    def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str, timeout: float | None = None
    ) -> pa.Table:
        """Runs SQL that reads.

        Args:
            sql: One statement.
            params: Values for `$name`, bound as typed values.
            database: Name of the database.
            timeout: Seconds, with the time that it waits for its turn; None takes the engine's.

        Raises:
            NotFound: If there is no such database or table.
            InvalidRequest: If the statement cannot be planned.
            Unavailable: If too many queries wait.
        """
        return self._query(self.view(), database, sql, params, timeout=timeout)

    def stream(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        database: str,
        timeout: float | None = None,
        asked: Asked | None = None,
        given: pa.Table | None = None,
    ) -> ResultStream:
        """Runs SQL that reads, batch by batch; see `query`. Close it, or read it to its end.

        Args:
            sql: As in `query`.
            params: As in `query`.
            database: As in `query`.
            timeout: As in `query`.
            asked: From `ask`, by which it can be stopped before there is a stream.
            given: Rows that are a table for this statement, `given.measurement`.
        """
        return self._stream(self.view(), database, sql, params, timeout=timeout, asked=asked, given=given)

    def ask(self, database: str, text: str, *, kind: str = "sql", origin: str = "") -> Asked:
        """Notes a query that is to come.

        Args:
            database: The database that it names.
            text: The statement.
            kind: How it is asked.
            origin: Who asks; if it is the name of a token, its limits hold.
        """
        token = self.view().catalog.tokens.get(origin) if origin else None
        limits = None if token is None else token.limits
        return self._desk.ask(database, text, kind=kind, origin=origin, limits=limits)

    def schema_of(self, sql: str, params: Mapping[str, Any] | None = None, *, database: str) -> pa.Schema:
        """The columns that a query would give; it is planned and not run.

        Args:
            sql: One statement that reads.
            params: Values of its `$name` placeholders.
            database: Name of the database.

        Raises:
            WalmillError: As `query` does.
        """
        view = self.view()
        return self._queries.schema(
            self._tables_of(view, database),
            sql,
            params,
            timeout=self.options.query_timeout,
            extra=self._extra(view, database, sql),
        )

    def queries(self) -> list[Asked]:
        """The queries that wait or run, and the last thousand that have ended, oldest first."""
        return self._desk.all()

    def cancel_query(self, number: int) -> None:
        """Stops a query.

        Raises:
            NotFound: If none of that number waits or runs.
        """
        if not self._desk.cancel(number):
            raise NotFound(f"no query {number} waits or runs; system.queries lists them")

    def _query(
        self,
        view: View,
        database: str,
        sql: str,
        params: Mapping[str, Any] | None,
        *,
        timeout: float | None = None,
        origin: str = "",
    ) -> pa.Table:
        seconds = self.options.query_timeout if timeout is None else timeout
        with self._desk.ask(database, sql, origin=origin) as asked:
            self._desk.enter(asked, seconds, waits=origin != PLUGIN)
            return self._queries.query(
                self._tables_of(view, database),
                sql,
                params,
                timeout=asked.left(seconds),
                extra=self._extra(view, database, sql),
                watch=asked,
            )

    def _stream(
        self,
        view: View,
        database: str,
        sql: str,
        params: Mapping[str, Any] | None,
        *,
        timeout: float | None = None,
        origin: str = "",
        asked: Asked | None = None,
        given: pa.Table | None = None,
    ) -> ResultStream:
        seconds = self.options.query_timeout if timeout is None else timeout
        if asked is None:
            asked = self._desk.ask(database, sql, origin=origin)
        seconds = asked.allowed(seconds)
        try:
            self._desk.enter(asked, seconds, waits=origin != PLUGIN)
            return self._queries.stream(
                self._tables_of(view, database),
                sql,
                params,
                timeout=asked.left(seconds),
                extra=self._extra(view, database, sql, given),
                watch=asked,
                limits=asked.limits,
            )
        except BaseException as error:
            asked.end(error)
            raise

    def _extra(self, view: View, database: str, sql: str, given: pa.Table | None = None) -> Extra:
        """The schemas of a query beside that of its database."""
        found = system.tables(self, view, database)
        if given is not None:
            found = {**found, GIVEN_SCHEMA: {GIVEN_TABLE: Made(lambda: given.schema, lambda: given)}}
        if view.catalog.caches or "_cache" in sql:
            if "_cache" in sql.lower():
                self.warm_caches(view, database)
            found = {**found, **cache_tables(view, database, self._values)}
        return found

    def _tables_of(self, view: View, database: str) -> Mapping[str, TableSource]:
        if database == INTERNAL and INTERNAL not in view.catalog.names:
            return {}  # nothing has run yet; `system` can be asked all the same
        return view.tables_of(database, self.locate(), self.options.clock.now_ns())

    def locate(self) -> Locate:
        """What gives files on this machine."""
        return no_store if self._keeper is None else self._keeper.locate
