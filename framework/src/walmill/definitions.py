"""What an engine offers about databases, tables and tokens. Any thread may call it; each call waits until it is durable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve

from walmill import databases
from walmill.auth.tokens import hash_token, new_token
from walmill.databases import Gone
from walmill.errors import Conflict, NotFound
from walmill.model.catalog import QueryLimits, Token, put_token
from walmill.store.draft import Draft
from walmill.store.view import View


class Definitions(ABC):
    """Databases, tables and tokens of an engine."""

    delete_grace: int
    """How long what is deleted can be restored, unless the call says otherwise, ns."""

    @abstractmethod
    def view(self) -> View:
        """The newest view."""

    @abstractmethod
    def define(self, decide: Callable[[Draft], Any]) -> Any:
        """Changes definitions; waits until that is durable."""

    @abstractmethod
    def pass_lost(self) -> None:
        """Says of each trigger whose log is gone what it will not see."""

    # ---- databases

    def create_database(self, name: str, *, retention: int | None = None) -> None:
        """Creates a database.

        Args:
            name: Its name.
            retention: How long rows of its tables are kept, ns; None for ever.

        Raises:
            Conflict: If it exists.
            InvalidRequest: If the name breaks the rules.
        """
        self.define(partial(databases.create, name=name, retention=retention))

    def set_retention(self, database: str, table: str | None = None, *, period: int | None) -> None:
        """Sets how long rows are kept. Rows that are older are not seen from now on, and their space comes back.

        Args:
            database: Name of the database.
            table: Name of the table; None for all tables of the database that have no period of their own.
            period: ns. None: for a database for ever, for a table as long as its database says; `FOR_EVER` for a table.

        Raises:
            NotFound: If there is no such database or table.
        """
        self.define(partial(databases.set_retention, database=database, table=table, period=period))

    def delete_database(self, name: str, gone: Gone | None = None) -> None:
        """Deletes a database with its tables and its triggers; it can be restored until its grace ends.

        Args:
            name: Its name.
            gone: When its rows go; None after the engine's `delete_grace`.

        Raises:
            NotFound: If there is none.
            Forbidden: For the engine's own.
        """
        self.define(partial(databases.delete_database, name=name, gone=gone or Gone(after=self.delete_grace)))

    def restore_database(self, name: str, *, number: int | None = None, new_name: str | None = None) -> str:
        """Takes the deletion of a database back; its triggers go on where they were.

        Args:
            name: The name that it had.
            number: Its id, if it is not the newest one of that name.
            new_name: The name that it gets; None for the one that it had.

        Returns:
            Its name.

        Raises:
            NotFound: If no such database is deleted, or its grace has ended.
            Conflict: If there is another one of that name by now.
        """
        called: str = self.define(partial(databases.restore_database, name=name, number=number, new_name=new_name))
        self.pass_lost()
        return called

    def databases(self) -> list[str]:
        """The names of the databases, sorted."""
        return sorted(self.view().catalog.names)

    def show_databases(self, *, deleted: bool = False) -> list[dict[str, Any]]:
        """The databases as plain data, by name; with `deleted` those that can be restored."""
        return databases.show_databases(self.view().catalog, deleted=deleted)

    # ---- tables

    def create_table(
        self,
        database: str,
        name: str,
        *,
        tags: Sequence[str] = (),
        fields: Mapping[str, str],
        retention: int | None = None,
    ) -> None:
        """Creates a table, and its database if there is none; a write would do it as well.

        Args:
            database: Name of the database.
            name: Its name.
            tags: Names of its tags.
            fields: Types of its fields, by name: int64, uint64, float64, string, bool.
            retention: How long its rows are kept, ns; None as long as the database says, `FOR_EVER` for ever.

        Raises:
            Conflict: If it exists.
            InvalidRequest: With all problems at once.
        """
        self.define(
            partial(databases.create_table, database=database, name=name, tags=tags, fields=fields, retention=retention)
        )

    def delete_table(self, database: str, name: str, gone: Gone | None = None) -> None:
        """Deletes a table; it can be restored until its grace ends. See `delete_database`."""
        self.define(
            partial(databases.delete_table, database=database, name=name, gone=gone or Gone(after=self.delete_grace))
        )

    def restore_table(self, database: str, name: str, *, number: int | None = None, new_name: str | None = None) -> str:
        """Takes the deletion of a table back. See `restore_database`."""
        called: str = self.define(
            partial(databases.restore_table, database=database, name=name, number=number, new_name=new_name)
        )
        return called

    def show_tables(self, database: str, *, deleted: bool = False) -> list[dict[str, Any]]:
        """The tables of a database as plain data, by name; with `deleted` those that can be restored.

        Raises:
            NotFound: If there is no such database.
        """
        return databases.show_tables(self.view().catalog, database, deleted=deleted)

    # ---- tokens

    def create_token(self, name: str, *, expires_at: int | None = None, limits: QueryLimits | None = None) -> str:
        """Makes a token; only its hash is kept, so this is the only time that it can be read.

        Args:
            name: Unique.
            expires_at: When it ends, ns; None never.
            limits: What one query with it may take, within the server's limits.

        Raises:
            Conflict: If the name is taken.
        """
        token = new_token()

        def decide(draft: Draft) -> None:
            if name in draft.catalog.tokens:
                raise Conflict(f"there is a token {name!r} already; delete it first, or take another name")
            draft.define(
                put_token(Token(name, hash_token(token), draft.time, expires_at, limits=limits or QueryLimits()))
            )

        self.define(decide)
        return token

    def update_token(self, name: str, limits: QueryLimits) -> None:
        """Gives a token other limits; they hold for queries that come.

        Args:
            name: Of the token.
            limits: As in `create_token`; those that are not given are the server's.

        Raises:
            NotFound: If there is none.
        """

        def decide(draft: Draft) -> None:
            token = draft.catalog.tokens.get(name)
            if token is None:
                raise no_token(name)
            draft.define(put_token(evolve(token, limits=limits)))

        self.define(decide)

    def delete_token(self, name: str) -> None:
        """Deletes a token.

        Raises:
            NotFound: If there is none.
        """

        def decide(draft: Draft) -> None:
            if name not in draft.catalog.tokens:
                raise no_token(name)
            draft.define({"op": "drop_token", "name": name})

        self.define(decide)

    def tokens(self) -> list[Token]:
        """The tokens as they are kept, by name."""
        tokens = self.view().catalog.tokens
        return [tokens[name] for name in sorted(tokens)]


def no_token(name: str) -> NotFound:
    """The error for a name that no token has."""
    return NotFound(f"there is no token {name!r}; `walmill show tokens` lists them")
