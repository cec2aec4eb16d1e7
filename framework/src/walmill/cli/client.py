"""A client for the public HTTP routes; what the command line and the demo talk through."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from walmill.errors import InvalidRequest, WalmillError
from walmill.settings.model import is_loopback

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
_SHOWN = 300


class CannotReach(WalmillError):
    """No answer came from the server.

    Attributes:
        arrived: Whether the server may have got the request, and done what it says.
    """

    def __init__(self, message: str, *, arrived: bool = True) -> None:
        super().__init__(message)
        self.arrived = arrived


class Refused(WalmillError):
    """The server answered with an error.

    Attributes:
        code: HTTP status of the answer.
        body: The answer as JSON; None if it is none.
        retry_after: Seconds after which the server wants to be asked again; None if it does not say.
    """

    def __init__(self, message: str, code: int, body: Any, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = body
        self.retry_after = retry_after


def is_local(host: str) -> bool:
    """Whether a URL names this machine by a loopback address.

    Raises:
        InvalidRequest: It is no URL.
    """
    return is_loopback(check_url(host).hostname or "")


def check_url(host: str) -> Any:
    """The parts of the URL of a server.

    Raises:
        InvalidRequest: It is no http or https URL.
    """
    try:
        parts = urlsplit(host)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_fits = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.query or parts.fragment:
        raise InvalidRequest(f"the host {host!r} is not a URL of a server: write for example http://127.0.0.1:8181")
    return parts


class Client:
    """Speaks with one server. Threads may share it.

    Args:
        host: URL of the server; a path (of a mount) is kept.
        token: Sent as Bearer token, if there is one.
        token_hint: What to say after "the server refused the token".
        timeout: Seconds to wait for an answer, or for its next piece.

    Attributes:
        url: The URL, without a slash at its end.
        address: The URL without a name and a password.

    Raises:
        InvalidRequest: The URL or the token cannot be one.
    """

    def __init__(
        self, host: str, token: str | None = None, *, token_hint: str = "", timeout: float | None = 300.0
    ) -> None:
        parts = check_url(host)
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise InvalidRequest("the token holds characters that no token has; give it without blanks and quotes")
        import httpx2

        self.url = host.rstrip("/")
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self.token_hint = token_hint
        self._has_token = token is not None
        self._http = httpx2.Client(
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(timeout, connect=10.0),
            # A proxy of the environment cannot reach this machine's loopback address.
            trust_env=not is_loopback(parts.hostname or ""),
        )

    @classmethod
    def local(cls, url: str, data_dir: Path) -> Self:
        """A client with the operator token of a data directory.

        Raises:
            WalmillError: The token cannot be read.
        """
        from walmill.auth.tokens import read_token_file

        return cls(url, read_token_file(data_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # ---- requests

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        encoding: str | None = None,
    ) -> httpx2.Response:
        """Sends a request and reads the whole answer.

        Args:
            method: HTTP method.
            path: From the root of the server on.
            params: The query string; bools become `true` and `false`, None is left out.
            body: Sent as JSON, if it is not None.
            content: Sent as it is, instead.
            encoding: How the content is compressed, as HTTP names it.

        Raises:
            CannotReach: No answer came.
            Refused: The answer is an error.
        """
        with (
            self.stream(method, path, params=params, body=body, content=content, encoding=encoding) as response,
            self._reaching(),
        ):
            response.read()
            return response

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        encoding: str | None = None,
    ) -> Iterator[httpx2.Response]:
        """Sends a request and gives the answer before its body is read; else as `request`."""
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = self._http.build_request(
            method, self.url + path, params=_query(params or {}), content=content, headers=headers
        )
        with self._reaching():
            response = self._http.send(request, stream=True)
        try:
            if response.status_code >= 300:
                with self._reaching():
                    response.read()
                raise self._refused(response)
            yield response
        finally:
            response.close()

    def pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        """The body of a streamed answer, piece by piece.

        Raises:
            CannotReach: The connection ended before the body did.
        """
        with self._reaching():
            yield from response.iter_bytes()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns what can happen to a connection into a sentence."""
        import httpx2

        try:
            yield
        except httpx2.ConnectError as error:
            raise CannotReach(
                f"no server answers at {self.url} ({_reason(error)}); start one with `walmill serve`, or name another with "
                "--host or WALMILL_HOST_URL",
                arrived=False,
            ) from None
        except httpx2.ConnectTimeout:
            raise CannotReach(f"{self.url} cannot be reached: it does not take the connection", arrived=False) from None
        except httpx2.TimeoutException:
            raise CannotReach(
                f"the server at {self.url} did not answer in time; look at its log, and try again"
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise CannotReach(
                f"the connection to {self.url} broke ({_reason(error)}); look at the server's log, and try again"
            ) from None
        except httpx2.InvalidURL as error:
            raise InvalidRequest(f"the host {self.url!r} is not a URL of a server: {error}") from None

    def _refused(self, response: httpx2.Response) -> Refused:
        code = response.status_code
        body: Any = None
        message = ""
        try:
            body = json.loads(response.content)
        except ValueError:
            if "html" in response.headers.get("content-type", ""):
                message = f"the server at {self.url} answered {code} with a web page; is a Walmill there?"
            else:
                text = " ".join(response.text.split())
                message = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        if isinstance(body, dict) and isinstance(body.get("error"), str):
            message = body["error"]
        if code == 401:
            what = "refused the token" if self._has_token else "wants a token"
            message = f"the server at {self.url} {what}" + (f"; {self.token_hint}" if self.token_hint else "")
        elif code == 404 and not isinstance(body, dict):
            message = f"{self.url} does not know {response.request.url.path}; is a Walmill of this version there?"
        elif not message:
            message = f"the server at {self.url} answered {code} and did not say why; look at its log"
        asked = response.headers.get("retry-after", "")
        retry_after = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
        if code == 503 and retry_after is not None:
            message += f" (it says: try again after {retry_after} s)"
        return Refused(message, code, body, retry_after)

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return json.loads(response.content)
        except ValueError:
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is not JSON; is a Walmill there?",
                response.status_code,
                None,
            ) from None

    def _rows(self, response: httpx2.Response) -> list[dict[str, Any]]:
        body = self._json(response)
        if not isinstance(body, list) or not all(isinstance(one, dict) for one in body):
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is no list; is a Walmill of this version there?",
                response.status_code,
                body,
            )
        return body

    def _warning(self, response: httpx2.Response) -> str | None:
        warning = self._object(response).get("warning") if response.content else None
        return None if warning is None else str(warning)

    def _object(self, response: httpx2.Response) -> dict[str, Any]:
        body = self._json(response)
        if not isinstance(body, dict):
            raise Refused(
                f"the answer of {self.url} to {response.request.url.path} is no object; is a Walmill of this version there?",
                response.status_code,
                body,
            )
        return body

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
        self, database: str, sql: str, *, output_format: str = "json", params: Mapping[str, Any] | None = None
    ) -> Iterator[httpx2.Response]:
        """Runs SQL; the answer streams, see `pieces`.

        Args:
            database: Name of the database.
            sql: One statement.
            output_format: json, jsonl or arrow.
            params: Values for `$name`.
        """
        body: dict[str, Any] = {"db": database, "q": sql, "format": output_format}
        if params:
            body["params"] = dict(params)
        with self.stream("POST", "/api/v3/query_sql", body=body) as response:
            yield response

    def query_rows(self, database: str, sql: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Runs SQL and gives all rows; members that are null may be missing."""
        with self.query(database, sql, params=params) as response, self._reaching():
            response.read()
            return self._rows(response)

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
        return str(self._object(self.request("POST", f"{DATABASES}/restore", body=body))["db"])

    # ---- tables

    def tables(self, database: str, *, deleted: bool = False) -> list[dict[str, Any]]:
        """The tables of a database; with `deleted` also those that can be restored."""
        params = {"db": database, "show_deleted": True} if deleted else {"db": database}
        return self._rows(self.request("GET", TABLES, params=params))

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
        return str(self._object(self.request("POST", f"{TABLES}/restore", body=body))["table"])

    def delete_rows(self, database: str, table: str, where: str, *, dry_run: bool) -> dict[str, Any]:
        """Deletes the rows that SQL finds, or counts them: `rows`, `earliest`, `latest`."""
        body = {"db": database, "table": table, "where": where, "dry_run": dry_run}
        return self._object(self.request("POST", ROWS, body=body))

    # ---- triggers

    def triggers(self, database: str | None = None) -> list[dict[str, Any]]:
        """The triggers of a database, or of all."""
        return self._rows(self.request("GET", TRIGGERS, params={"db": database}))

    def trigger(self, database: str, name: str) -> dict[str, Any]:
        """One trigger."""
        return self._object(self.request("GET", TRIGGERS, params={"db": database, "trigger_name": name}))

    def create_trigger(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates a trigger.

        Args:
            body: `db`, `plugin`, `trigger_name`, `trigger_specification`, and what else the route knows.

        Returns:
            `warning`, if there is something to be warned of; `next`, the next due times of a schedule, `utc` and `local`.
        """
        answer = self.request("POST", TRIGGERS, body=dict(body))
        return self._object(answer) if answer.content else {}

    def enable_trigger(self, database: str, name: str) -> str | None:
        """Enables a trigger; what there is to be warned of, or None."""
        answer = self.request("POST", f"{TRIGGERS}/enable", params={"db": database, "trigger_name": name})
        return self._warning(answer)

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
        return self._object(self.request("POST", f"{TRIGGERS}/run", params=params))

    def replay_trigger(self, database: str, name: str, *, start: str, to: str | None = None) -> dict[str, Any]:
        """Has an on_write trigger go through a part of the log again.

        Args:
            database: Its database.
            name: Its name.
            start: `start`, a sequence, or a time.
            to: A sequence or a time; None for all that it has had.

        Returns:
            `from`, `to` and `resume`: sequences.
        """
        params = {"db": database, "trigger_name": name, "from": start, "to": to}
        return self._object(self.request("POST", f"{TRIGGERS}/replay", params=params))

    # ---- storage

    def storage(self) -> dict[str, Any]:
        """What the server keeps, and where."""
        return self._object(self.request("GET", STORAGE))

    def snapshot(self) -> dict[str, Any] | None:
        """Has everything taken from memory and log into files, and waits for it.

        Returns:
            Number and sequence of the newest snapshot; None if nothing was ever written.
        """
        answer = self._object(self.request("POST", SNAPSHOT))
        made: dict[str, Any] | None = answer.get("snapshot")
        return made

    def backup(self, to: str) -> Iterator[dict[str, Any]]:
        """Has a backup made, and tells how far it is; the last thing it gives has a `done`.

        Raises:
            Refused: If it was not made.
        """
        with self.stream("POST", BACKUP, body={"to": to}) as response:
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
        raise CannotReach(
            f"{self.address} ended its answer before the backup was there; the next one goes on with what is there"
        )

    # ---- tokens, plugins, the server

    def tokens(self) -> list[dict[str, Any]]:
        """The tokens, without values and hashes."""
        return self._rows(self.request("GET", TOKENS))

    def create_token(self, name: str, *, expiry_secs: int | None = None) -> dict[str, Any]:
        """Creates a token; the answer holds it, this once."""
        body: dict[str, Any] = {"token_name": name}
        if expiry_secs is not None:
            body["expiry_secs"] = expiry_secs
        return self._object(self.request("POST", TOKENS, body=body))

    def delete_token(self, name: str) -> None:
        """Deletes a token."""
        self.request("DELETE", TOKENS, params={"token_name": name})

    def plugins(self) -> list[dict[str, Any]]:
        """The plugins that the server knows."""
        return self._rows(self.request("GET", "/api/v3/plugins"))

    def ping(self) -> dict[str, Any]:
        """Product, version and process of the server."""
        return self._object(self.request("GET", "/ping"))


def _query(params: Mapping[str, Any]) -> dict[str, str]:
    """A query string's members: bools in lower case, without those that are None."""
    shown = {}
    for name, value in params.items():
        if value is not None:
            shown[name] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return shown


def _reason(error: Exception) -> str:
    """Why a connection failed, without Python's wrapping."""
    text = str(error)
    if text.startswith("[Errno ") and "] " in text:
        text = text.partition("] ")[2]
    return text[:1].lower() + text[1:] if text else type(error).__name__
