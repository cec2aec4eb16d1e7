"""A client for the public HTTP routes; what the command line and the demo talk through."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from walmill.cli.connection import CannotReach, Connection, Refused

if TYPE_CHECKING:
    import httpx2
    import pyarrow as pa

TRIGGERS = "/api/v3/configure/processing_engine_trigger"
DATABASES = "/api/v3/configure/database"
TABLES = "/api/v3/configure/table"
ROWS = "/api/v3/delete_rows"
TOKENS = "/api/v3/configure/token"
STORAGE = "/api/v3/storage"
SNAPSHOT = "/api/v3/snapshot"
BACKUP = "/api/v3/backup"
REHEARSALS = {
    "write": "wal",
    "schedule": "schedule",
    "request": "request",
    "service": "service",
    "snapshot": "snapshot",
}


class Client(Connection):
    """What a server offers, call by call. Threads may share it."""

    # ---- data

    def write(
        self,
        database: str,
        body: bytes,
        *,
        precision: str = "auto",
        accept_partial: bool = True,
        no_sync: bool = False,
        gzip: bool = False,
    ) -> None:
        """Writes line protocol.

        Args:
            database: Name of the database.
            body: The lines.
            precision: Unit of the timestamps.
            accept_partial: Whether the good lines are kept when others are refused.
            no_sync: Whether the answer may come before the data is on disk.
            gzip: Whether the body is sent compressed.

        Raises:
            Refused: Lines were refused; `body["data"]` says which.
        """
        params = {"db": database, "precision": precision, "accept_partial": accept_partial, "no_sync": no_sync}
        encoding = None
        if gzip:
            # wbits 31 is gzip. Level 1: each further level costs more time than it saves on a network.
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body, encoding = packer.compress(body) + packer.flush(), "gzip"
        self.request("POST", "/api/v3/write_lp", params=params, content=body, encoding=encoding)

    def write_arrow(self, database: str, table: str, tags: Sequence[str] | None, rows: pa.RecordBatch) -> None:
        """Writes rows that are in columns; the good ones are kept when others are refused.

        Args:
            database: Name of the database.
            table: Name of the table.
            tags: Which columns are tags; None as the table has it.
            rows: The rows.

        Raises:
            Refused: Rows were refused; `body["data"]` says which.
        """
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
        params: dict[str, Any] = {"db": database, "table": table, "accept_partial": True}
        if tags is not None and not any("," in tag for tag in tags):  # else the table must be there, and knows them
            params["tags"] = ",".join(tags)
        self.request("POST", "/api/v3/write_arrow", params=params, content=sink.getvalue().to_pybytes())

    @contextmanager
    def query(
        self,
        database: str,
        sql: str,
        *,
        output_format: str = "json",
        params: Mapping[str, Any] | None = None,
        language: str = "sql",
    ) -> Iterator[httpx2.Response]:
        """Runs a statement; the answer streams, see `pieces`.

        Args:
            database: Name of the database.
            sql: One statement.
            output_format: json, jsonl or arrow.
            params: Values for `$name`.
            language: sql or influxql.
        """
        body: dict[str, Any] = {"db": database, "q": sql, "format": output_format}
        if params:
            body["params"] = dict(params)
        with self.stream("POST", f"/api/v3/query_{language}", body=body) as response:
            yield response

    def queries(self) -> list[dict[str, Any]]:
        """The queries that wait or run, and the last ones that have ended, oldest first."""
        return self.rows_of(self.request("GET", "/api/v3/queries"))

    def cancel_query(self, number: int) -> None:
        """Stops a query that waits or runs."""
        self.request("DELETE", "/api/v3/queries", params={"id": number})

    def caches(self, kind: str, database: str) -> list[dict[str, Any]]:
        """The caches of `last` or `distinct` values of a database."""
        return self.rows_of(self.request("GET", f"/api/v3/configure/{kind}_cache", params={"db": database}))

    def create_cache(self, kind: str, database: str, table: str, name: str | None, body: Mapping[str, Any]) -> str:
        """Creates one; gives its name."""
        whole = {"db": database, "table": table, "name": name, **body}
        given = {member: value for member, value in whole.items() if value is not None}
        return str(self.object_of(self.request("POST", f"/api/v3/configure/{kind}_cache", body=given))["name"])

    def delete_cache(self, kind: str, database: str, table: str, name: str) -> None:
        """Deletes one."""
        params = {"db": database, "table": table, "name": name}
        self.request("DELETE", f"/api/v3/configure/{kind}_cache", params=params)

    def query_table(self, database: str, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Runs SQL; all rows as an Arrow table.

        Args:
            database: Name of the database.
            sql: One statement.
            params: Values for `$name`.
        """
        import pyarrow as pa

        with self.query(database, sql, output_format="arrow", params=params) as response:
            body = b"".join(self.pieces(response))
        return pa.ipc.open_stream(body).read_all()

    def query_rows(self, database: str, sql: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Runs SQL and gives all rows; members that are null may be missing."""
        with self.query(database, sql, params=params) as response, self._reaching():
            response.read()
            return self.rows_of(response)

    # ---- databases

    def databases(self, *, deleted: bool = False) -> list[dict[str, Any]]:
        """The databases; each has a `db`. With `deleted` also those that can be restored, which have a `deleted_at`."""
        params = {"format": "json", "show_deleted": True} if deleted else {"format": "json"}
        body = self._json(self.request("GET", DATABASES, params=params))
        found = body.get("databases") if isinstance(body, dict) else body
        if not isinstance(found, list):
            raise Refused(f"the answer of {self.url} to {DATABASES} is no list", 200, body)
        return [one if isinstance(one, dict) else {"db": one} for one in found]

    def create_database(self, name: str, *, if_missing: bool = False, retention_period: str | None = None) -> None:
        """Creates a database.

        Args:
            name: Its name.
            if_missing: Whether one that is there is as good.
            retention_period: How long its rows are kept, such as `30d`; None for ever.
        """
        body = {"db": name} if retention_period is None else {"db": name, "retention_period": retention_period}
        try:
            self.request("POST", DATABASES, body=body)
        except Refused as error:
            if not (if_missing and error.code == 409):
                raise

    def update_database(self, name: str, *, retention_period: str) -> None:
        """Changes how long the rows of a database are kept."""
        self.request("PUT", DATABASES, body={"db": name, "retention_period": retention_period})

    def delete_database(self, name: str, *, hard_delete_at: str | None = None) -> None:
        """Deletes a database with everything in it.

        Args:
            name: Its name.
            hard_delete_at: When it can be restored no more: `now`, `never`, a time, a duration; None as the server has it.
        """
        self.request("DELETE", DATABASES, params={"db": name, "hard_delete_at": hard_delete_at})

    def restore_database(self, name: str, *, number: int | None = None, new_name: str | None = None) -> str:
        """Takes the deletion of a database back; gives its name."""
        body = {"db": name, "id": number, "new_name": new_name}
        return str(self.object_of(self.request("POST", f"{DATABASES}/restore", body=body))["db"])

    # ---- tables

    def tables(self, database: str, *, deleted: bool = False) -> list[dict[str, Any]]:
        """The tables of a database; with `deleted` also those that can be restored."""
        params = {"db": database, "show_deleted": True} if deleted else {"db": database}
        return self.rows_of(self.request("GET", TABLES, params=params))

    def create_table(
        self, database: str, name: str, tags: Sequence[str], fields: Mapping[str, str], retention_period: str | None
    ) -> None:
        """Creates a table."""
        columns = [{"name": one, "type": kind} for one, kind in fields.items()]
        body: dict[str, Any] = {"db": database, "table": name, "tags": list(tags), "fields": columns}
        if retention_period is not None:
            body["retention_period"] = retention_period
        self.request("POST", TABLES, body=body)

    def update_table(self, database: str, name: str, *, retention_period: str) -> None:
        """Changes how long the rows of a table are kept."""
        self.request("PUT", TABLES, body={"db": database, "table": name, "retention_period": retention_period})

    def delete_table(self, database: str, name: str, *, hard_delete_at: str | None = None) -> None:
        """Deletes a table; see `delete_database`."""
        self.request("DELETE", TABLES, params={"db": database, "table": name, "hard_delete_at": hard_delete_at})

    def restore_table(self, database: str, name: str, *, number: int | None = None, new_name: str | None = None) -> str:
        """Takes the deletion of a table back; gives its name."""
        body = {"db": database, "table": name, "id": number, "new_name": new_name}
        return str(self.object_of(self.request("POST", f"{TABLES}/restore", body=body))["table"])

    def delete_rows(self, database: str, table: str, where: str, *, dry_run: bool) -> dict[str, Any]:
        """Deletes the rows that SQL finds, or counts them: `rows`, `earliest`, `latest`."""
        body = {"db": database, "table": table, "where": where, "dry_run": dry_run}
        return self.object_of(self.request("POST", ROWS, body=body))

    # ---- triggers

    def triggers(self, database: str | None = None) -> list[dict[str, Any]]:
        """The triggers of a database, or of all."""
        return self.rows_of(self.request("GET", TRIGGERS, params={"db": database}))

    def trigger(self, database: str, name: str) -> dict[str, Any]:
        """One trigger."""
        return self.object_of(self.request("GET", TRIGGERS, params={"db": database, "trigger_name": name}))

    def create_trigger(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates a trigger.

        Args:
            body: `db`, `plugin`, `trigger_name`, `trigger_specification`, and what else the route knows.

        Returns:
            `warning`, if there is something to be warned of; `next`, the next due times of a schedule, `utc` and `local`.
        """
        answer = self.request("POST", TRIGGERS, body=dict(body))
        return self.object_of(answer) if answer.content else {}

    def enable_trigger(self, database: str, name: str) -> str | None:
        """Enables a trigger; what there is to be warned of, or None."""
        answer = self.request("POST", f"{TRIGGERS}/enable", params={"db": database, "trigger_name": name})
        return self.warning_of(answer)

    def disable_trigger(self, database: str, name: str) -> None:
        """Disables a trigger."""
        self.request("POST", f"{TRIGGERS}/disable", params={"db": database, "trigger_name": name})

    def delete_trigger(self, database: str, name: str, *, force: bool = False) -> None:
        """Deletes a trigger; one that is enabled only with `force`."""
        self.request("DELETE", TRIGGERS, params={"db": database, "trigger_name": name, "force": force})

    def run_trigger(self, database: str, name: str, *, at: str | None = None) -> dict[str, Any]:
        """Runs a schedule trigger now.

        Args:
            database: Its database.
            name: Its name.
            at: The due time that it is told: RFC 3339, or ns since the epoch; None is now.

        Returns:
            `status`, `error`, `sequence` and `run_id` of the run.
        """
        params = {"db": database, "trigger_name": name, "at": at}
        return self.object_of(self.request("POST", f"{TRIGGERS}/run", params=params))

    def replay_trigger(self, database: str, name: str, *, start: str, to: str | None = None) -> dict[str, Any]:
        """Has an on_write trigger go through a part of the log again.

        Args:
            database: Its database.
            name: Its name.
            start: `start`, a sequence, a time, or `dead-letters`.
            to: A sequence or a time; None for all that it has had.

        Returns:
            `from`, `to` and `resume`, sequences, and `backfill`, rows of files that come first; or `rows`, `letters`,
            `through` and `refused`.
        """
        params = {"db": database, "trigger_name": name, "from": start, "to": to}
        return self.object_of(self.request("POST", f"{TRIGGERS}/replay", params=params))

    def stop_replay(self, database: str, name: str) -> bool:
        """Ends what `replay_trigger` began; whether there was anything to end."""
        params = {"db": database, "trigger_name": name, "stop": True}
        return bool(self.object_of(self.request("POST", f"{TRIGGERS}/replay", params=params))["stopped"])

    def rehearse(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Runs a plugin once, for real, and has nothing kept; see `walmill.dispatch.rehearsal.Report.to_json`.

        Args:
            kind: `write`, `schedule`, `request`, `service` or `snapshot`.
            fields: What the route knows.
        """
        return self.object_of(self.request("POST", f"/api/v3/plugin_test/{REHEARSALS[kind]}", body=dict(fields)))

    def commits(
        self, database: str, tables: Sequence[str] = (), *, after: int | None = None, wait: str | None = None
    ) -> Iterator[dict[str, Any] | None]:
        """The commits with rows of a database, as they become durable, without end.

        Args:
            database: Its name.
            tables: Only rows of these; empty for all.
            after: Commits after this sequence; None for those to come.
            wait: It ends when none came for so long, a duration; None for never.

        Yields:
            `sequence`, `time` (ns), `origin`, `lines`; None now and then, as a sign of life.
        """
        params: list[tuple[str, Any]] = [("db", database), *(("table", table) for table in tables)]
        params += [("after", after), ("wait", wait)]
        with self.stream("GET", "/api/v3/commits", params=params) as response:
            rest = b""
            for piece in self.pieces(response):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield json.loads(line) if line else None

    # ---- storage

    def storage(self) -> dict[str, Any]:
        """What the server keeps, and where."""
        return self.object_of(self.request("GET", STORAGE))

    def snapshot(self) -> dict[str, Any] | None:
        """Has everything taken from memory and log into files, and waits for it.

        Returns:
            Number and sequence of the newest snapshot; None if nothing was ever written.
        """
        answer = self.object_of(self.request("POST", SNAPSHOT))
        made: dict[str, Any] | None = answer.get("snapshot")
        return made

    def backup(self, to: str) -> Iterator[dict[str, Any]]:
        """Has a backup made, and tells how far it is; the last thing it gives has a `done`.

        Raises:
            Refused: If it was not made.
        """
        yield from self._followed(BACKUP, {"to": to}, "the backup was there; the next one goes on with what is there")

    def _followed(self, path: str, body: Mapping[str, Any], until: str) -> Iterator[dict[str, Any]]:
        """Asks for what takes its time, and gives what is told line by line; the last line has a `done`.

        Raises:
            Refused: If it was not done.
        """
        with self.stream("POST", path, body=dict(body)) as response:
            rest = b""
            for piece in self.pieces(response):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    if "error" in said:
                        raise Refused(str(said["error"]), 200, said)
                    yield said
                    if "done" in said:
                        return
        raise CannotReach(f"{self.address} ended its answer before {until}")

    # ---- tokens, plugins, the server

    def tokens(self) -> list[dict[str, Any]]:
        """The tokens, without values and hashes."""
        return self.rows_of(self.request("GET", TOKENS))

    def create_token(
        self, name: str, *, expiry_secs: int | None = None, limits: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Creates a token; the answer holds it, this once."""
        body: dict[str, Any] = {"token_name": name, **(limits or {})}
        if expiry_secs is not None:
            body["expiry_secs"] = expiry_secs
        return self.object_of(self.request("POST", TOKENS, body=body))

    def update_token(self, name: str, limits: Mapping[str, Any]) -> None:
        """Gives the queries of a token other limits."""
        self.request("PUT", TOKENS, body={"token_name": name, **limits})

    def delete_token(self, name: str) -> None:
        """Deletes a token."""
        self.request("DELETE", TOKENS, params={"token_name": name})

    def plugins(self) -> list[dict[str, Any]]:
        """The plugins that the server knows."""
        return self.rows_of(self.request("GET", "/api/v3/plugins"))

    def plugin(self, name: str) -> dict[str, Any]:
        """One plugin, with its files and the triggers that use it."""
        return self.object_of(self.request("GET", f"/api/v3/plugins/{quote(name, safe='')}"))

    def _work(self, what: str, wheels: str | None, **body: Any) -> Iterator[dict[str, Any]]:
        more = {} if wheels is None else {"wheels": wheels}
        return self._followed(f"/api/v3/{what}", {**body, **more}, "it was done; it may go on in the server")

    def install(self, source: str, wheels: str | None) -> Iterator[dict[str, Any]]:
        """Installs a plugin; tells what is said meanwhile."""
        return self._work("plugins/install", wheels, source=source)

    def upgrade(self, name: str, wheels: str | None) -> Iterator[dict[str, Any]]:
        """Installs the newest version of a plugin."""
        return self._work("plugins/upgrade", wheels, name=name)

    def outdated(self, wheels: str | None) -> Iterator[dict[str, Any]]:
        """What could be upgraded."""
        return self._work("plugins/outdated", wheels)

    def sync(self, wheels: str | None) -> Iterator[dict[str, Any]]:
        """Installs what the lock file declares."""
        return self._work("plugins/sync", wheels)

    def install_packages(self, packages: Sequence[str], wheels: str | None) -> Iterator[dict[str, Any]]:
        """Installs packages into the server's environment."""
        return self._work("configure/plugin_environment/install_packages", wheels, packages=list(packages))

    def rollback(self, name: str) -> dict[str, Any]:
        """Uses an older version of a plugin again."""
        return self.object_of(self.request("POST", "/api/v3/plugins/rollback", body={"name": name}))

    def enable_plugin(
        self, name: str, database: str, arguments: Mapping[str, str], only: Sequence[str]
    ) -> dict[str, list[str]]:
        """Creates the triggers that a plugin suggests."""
        body = {"name": name, "db": database, "trigger_arguments": dict(arguments), "only": list(only)}
        return self.object_of(self.request("POST", "/api/v3/plugins/enable", body=body))

    def upload_plugin(self, name: str, content: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Uploads a plugin: the text of a file, or the files of a directory."""
        kind, what = ("files", "content") if isinstance(content, str) else ("directory", "files")
        return self.object_of(
            self.request("POST", f"/api/v3/plugins/{kind}", body={"plugin_name": name, what: content})
        )

    def update_plugin(self, database: str, trigger: str, content: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Replaces the plugin of a trigger."""
        kind, what = ("files", "content") if isinstance(content, str) else ("directory", "files")
        body = {"plugin_name": trigger, "db": database, what: content}
        return self.object_of(self.request("PUT", f"/api/v3/plugins/{kind}", body=body))

    def remove_plugin(self, name: str, *, force: bool = False) -> None:
        """Removes a plugin from the plugin directory."""
        self.request("DELETE", "/api/v3/plugins/files", params={"plugin_name": name, "force": force})

    def ping(self) -> dict[str, Any]:
        """Product, version and process of the server."""
        return self.object_of(self.request("GET", "/ping"))
