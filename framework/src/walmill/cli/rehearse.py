"""`plugin test`: a plugin is run once, for real, and nothing of what it does in the engine is kept."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from walmill.cli import incoming
from walmill.cli.options import server_options, shown_format_option
from walmill.cli.output import clean
from walmill.cli.trigger import body_of, headers_of, parse_arguments
from walmill.errors import InvalidRequest, LimitReached, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

    from walmill.cli.client import Client
    from walmill.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])
SHOWN = 20
"""So many rows are shown for each database."""


def _common(command: F) -> F:
    """Adds what all of them have in common."""
    for option in (
        click.argument("plugin", required=False),
        click.option("-d", "--database", default="test", show_default=True, metavar="NAME", help="The database."),
        click.option(
            "--trigger", metavar="NAME", help="Take plugin, arguments, limits, grants and state of this trigger."
        ),
        click.option(
            "--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument for the plugin. May be repeated."
        ),
        click.option("--grant", "grants", multiple=True, metavar="DATABASE", help="Another database that it may use."),
        click.option("--executor", metavar="process|inline", help="Where it runs; else as a trigger would."),
        click.option("--timeout", metavar="DURATION|none", help="How long it may take."),
        click.option("--memory", metavar="SIZE|none", help="Memory that it may use."),
        click.option("--local", is_flag=True, help="Run an installed plugin here, not in the server."),
        click.option("--ask-server", is_flag=True, help="Run it here; its queries are answered by the server."),
        click.option("--watch", is_flag=True, help="Run a file or a directory again each time that it is saved."),
        click.option(
            "--data",
            "data",
            multiple=True,
            type=click.Path(path_type=Path),
            help="Rows that are in the database before, if it runs here: line protocol, CSV or Parquet. May be repeated.",
        ),
        shown_format_option,
    ):
        command = option(command)
    return command


@click.command("write")
@_common
@click.option(
    "--rows", "rows", type=click.Path(path_type=Path), help="Give it the rows of a file: .lp, .csv or .parquet."
)
@click.option("--lp", metavar="LINES", help="Give it these lines of line protocol.")
@click.option("--query", metavar="SQL", help="Give it the rows that the server answers; name their --table.")
@click.option(
    "--live",
    metavar="DURATION",
    help="Wait so long for the next rows that are written to the server.",
)
@click.option("--table", metavar="NAME", help="The table of rows that do not name theirs.")
@click.option("--tags", metavar="NAME,...", help="Which of their columns are tags, if the table is new.")
@click.option("--trigger-spec", "spec", metavar="SPEC", help="all_tables, or table:NAME; else all_tables.")
@server_options
def test_write(
    *,
    client: Client,
    rows: Path | None,
    lp: str | None,
    query: str | None,
    live: str | None,
    table: str | None,
    tags: str | None,
    **common: Any,
) -> int:
    """Run on_write of PLUGIN: the name of an installed one, a file, or the directory of a package.

    An installed plugin runs in the server, on its data; a file or a directory runs here. Nothing is kept. Exits with 1 if it
    fails.
    """
    given = [name for name, value in (("--rows", rows), ("--lp", lp), ("--query", query), ("--live", live)) if value]
    if len(given) != 1:
        raise click.UsageError("say what it is given: one of --rows, --lp, --query and --live")
    listed = None if tags is None else [one for one in tags.split(",") if one]
    members: dict[str, Any] = {}
    if rows is not None:
        members["input_lp"] = _text(rows, table, listed)
    elif lp is not None:
        members["input_lp"] = lp.replace("\\n", "\n")
    else:
        members.update(query=query, live=live, table=table, tags=listed)
    return _run("write", client, members, common)


@click.command("schedule")
@_common
@click.option("--schedule", "spec", metavar="SPEC", help="every:DURATION or cron:EXPRESSION; else every:1m.")
@click.option("--at", metavar="TIME", help="The due time that it is told, such as 2026-01-31T09:30:00Z; else now.")
@server_options
def test_schedule(*, client: Client, at: str | None, **common: Any) -> int:
    """Run on_schedule of PLUGIN: the name of an installed one, a file, or the directory of a package.

    An installed plugin runs in the server, on its data; a file or a directory runs here. Nothing is kept. Exits with 1 if it
    fails.
    """
    return _run("schedule", client, {"at": at}, common)


@click.command("request")
@_common
@click.option("--trigger-spec", "spec", metavar="SPEC", help="request:PATH; else request:test.")
@click.option("-X", "--method", default="GET", show_default=True, help="The HTTP method.")
@click.option(
    "--path", metavar="PATH", help="The path below /api/v3/engine/, with its query string; else that of the spec."
)
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header. May be repeated.")
@click.option("--body", metavar="TEXT|@FILE", help="The body.")
@server_options
def test_request(
    *, client: Client, method: str, path: str | None, headers: tuple[str, ...], body: str | None, **common: Any
) -> int:
    """Run on_request of PLUGIN: the name of an installed one, a file, or the directory of a package.

    An installed plugin runs in the server, on its data; a file or a directory runs here. Nothing is kept. Exits with 1 if it
    fails, or answers with 500 or more.
    """
    members: dict[str, Any] = {"method": method, "path": path, "headers": [list(pair) for pair in headers_of(headers)]}
    if body is not None and body.startswith("@"):
        members["body_base64"] = base64.b64encode(body_of(body)).decode()
    elif body is not None:
        members["body"] = body
    return _run("request", client, members, common)


@click.command("service")
@_common
@click.option("--trigger-spec", "spec", metavar="SPEC", help="service, which is what it is without this.")
@click.option(
    "--for", "lasts", default="10s", show_default=True, metavar="DURATION", help="Ask it to end after so long."
)
@server_options
def test_service(*, client: Client, lasts: str, **common: Any) -> int:
    """Run on_service of PLUGIN: the name of an installed one, a file, or the directory of a package.

    An installed plugin runs in the server, on its data; a file or a directory runs here. Nothing is kept, and no function that
    it gave to on_commit is called. Exits with 1 if it fails, or does not end when it is asked to.
    """
    return _run("service", client, {"for": lasts}, common)


@click.command("snapshot")
@_common
@click.option("--trigger-spec", "spec", metavar="SPEC", help="snapshot, or snapshot:TABLE,...; else snapshot.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Tell it of files with rows of later commits; else of those that --trigger has not had, or of all.",
)
@server_options
def test_snapshot(*, client: Client, after: int | None, **common: Any) -> int:
    """Run on_snapshot of PLUGIN: the name of an installed one, a file, or the directory of a package.

    An installed plugin runs in the server, and is told of its files; a file or a directory runs here, on files with the rows
    of --data. Nothing is kept. Exits with 1 if it fails.
    """
    return _run("snapshot", client, {"after": after}, common)


dev = click.Command(
    "dev",
    params=test_write.params,
    callback=lambda **given: test_write.callback(**_for_dev(given)),  # type: ignore[misc] # it has one
    help=(
        "Run on_write of PLUGIN, a file or a directory, each time that it is saved: on the rows that are given, or on the next "
        "ones that are written to the server. Nothing is kept."
    ),
)


def _for_dev(given: dict[str, Any]) -> dict[str, Any]:
    if not any(given[name] for name in ("rows", "lp", "query", "live")):
        given = {**given, "live": "1d"}
    return {**given, "watch": True}


def _watched(place: str, once: Callable[[], int]) -> int:
    """Runs something now, and each time that a file or a directory is saved, until the user has enough."""
    from watchfiles import watch

    from walmill.errors import WalmillError
    from walmill.plugins.content import Signature, paths_of, signature_of

    path = Path(place.partition("#")[0])

    def look() -> Signature | None:
        try:
            return signature_of(paths_of(path))
        except OSError:  # editors take files away for a moment
            return None

    def attempt() -> Signature | None:
        seen = look()  # before, so that what is saved meanwhile is not missed
        try:
            once()
        except WalmillError as error:  # it is being written, and will be better
            click.echo(f"Error: {clean(error.message)}", err=True)
        click.echo(f"--- {path} is watched; Ctrl-C ends it", err=True)
        return seen

    with contextlib.suppress(KeyboardInterrupt):
        seen = attempt()
        for _ in watch(path, debounce=200, step=30, rust_timeout=500, yield_on_timeout=True, raise_interrupt=True):
            now = look()
            if now is not None and now != seen:
                click.echo(f"--- {path} was saved", err=True)
                seen = attempt()
    return 0


def _run(kind: Any, client: Client, members: Mapping[str, Any], common: dict[str, Any]) -> int:
    from walmill.plugins.places import is_place

    if common.pop("watch"):
        plugin = common["plugin"]
        if plugin is None or not is_place(plugin):
            raise click.UsageError("--watch is for a PLUGIN that is a file or a directory; name one")
        return _watched(plugin, lambda: _run(kind, client, members, {**common, "watch": False}))
    plugin, output_format = common.pop("plugin"), common.pop("output_format")
    local, ask, data = common.pop("local"), common.pop("ask_server"), common.pop("data")
    fields = {
        **members,
        "plugin": plugin,
        "database": common["database"],
        "trigger": common["trigger"],
        "spec": common["spec"],
        "input_arguments": parse_arguments(common["args"]) or None,
        "grants": list(common["grants"]) or None,
        "executor": common["executor"],
        "limits": {name: common[name] for name in ("timeout", "memory") if common[name] is not None} or None,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if plugin is None and common["trigger"] is None:
        raise click.UsageError("name a PLUGIN, or a --trigger that has one")
    if plugin is not None and (local or ask or data or is_place(plugin)):
        if common["trigger"] is not None:
            raise click.UsageError("--trigger is one of the server's; it cannot be used with what runs here")
        report = _here(kind, client, fields, data, ask=ask)
    else:
        if local or ask or data:
            raise click.UsageError("--local, --ask-server and --data are for a PLUGIN that runs here; name one")
        report = client.rehearse(kind, fields)
    if output_format == "json":
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _show(report)
    failed = report["status"] not in ("ok", "skipped") or (report.get("answer") or {}).get("status", 0) >= 500
    return 1 if failed else 0


def _here(kind: Any, client: Client, fields: dict[str, Any], data: tuple[Path, ...], *, ask: bool) -> dict[str, Any]:
    """Runs it in an engine of its own, in memory."""
    from attrs import evolve

    from walmill.engine import Engine
    from walmill.http.rehearsals import rehearsal_of
    from walmill.plugins.places import find_plugin, is_place

    database = fields["database"]
    name, place = fields["plugin"], None
    if is_place(name):
        place = find_plugin(name)
        fields = {**fields, "plugin": place.name}

    def answer(asked: str, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        return client.query_table(asked, sql, params)

    query, live = fields.pop("query", None), fields.pop("live", None)
    asked = rehearsal_of(kind, fields)
    if query is not None:
        if asked.table is None:
            raise InvalidRequest("the rows of a query need the name of the table that they stand for: --table")
        asked = evolve(asked, rows=answer(database, query, None), tags=asked.tags or [])
    if live is not None:
        asked = evolve(asked, rows=_next_rows(client, database, live))
    with contextlib.ExitStack() as rest:
        directory = None
        if kind == "snapshot":  # an engine in memory has no files
            if not data:
                raise InvalidRequest(
                    "a plugin that runs here is told of files with the rows of --data; name some, or an installed plugin"
                )
            directory = rest.enter_context(tempfile.TemporaryDirectory(prefix="walmill-test-"))
        rest.enter_context(_quiet())
        engine = rest.enter_context(Engine.open(data_dir=directory, discover_plugins=place is None))
        if place is not None:
            engine.registry.add(place.name, place.value)
        for path in data:
            _load(engine, database, path)
        if directory is not None:
            engine.snapshot()
        return engine.rehearse(asked, ask=answer if ask else None).to_json()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The engine's own log is left out: what the run says is in the report."""
    logger = logging.getLogger("walmill")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _next_rows(client: Client, database: str, wait: str) -> str:
    """The next rows that are written to the server, as line protocol."""
    for commit in client.commits(database, wait=wait):
        if commit is not None:
            return "\n".join(commit["lines"])
    raise LimitReached(f"no rows were written to {database!r} within {wait}; write some, or wait longer")


def _load(engine: Engine, database: str, path: Path) -> None:
    for batch in _batches(path, incoming.Options()):
        if isinstance(batch, incoming.Lines):
            engine.write(batch.data, database=database, accept_partial=False)
        else:
            _check(path, batch)
            engine.write(batch.rows, database=database, table=batch.table, tags=batch.tags or ())


def _batches(path: Path, options: incoming.Options) -> Iterator[incoming.Lines | incoming.Columns]:
    if not path.is_file():
        raise NotFound(f"the file {str(path)!r} is not there")
    form = incoming.form_of(path)
    if form == "lp":
        return incoming.read_lines(path)
    return (incoming.read_parquet if form == "parquet" else incoming.read_csv)(path, options)


def _check(path: Path, batch: incoming.Columns) -> None:
    if batch.refused:
        number, why = batch.refused[0]
        raise InvalidRequest(f"{path.name} line {number:,}: {why}")


def _text(path: Path, table: str | None, tags: list[str] | None) -> str:
    """The rows of a file as line protocol."""
    options = incoming.Options(table, None if tags is None else tuple(tags))
    lines: list[str] = []
    for batch in _batches(path, options):
        if isinstance(batch, incoming.Lines):
            lines.append(batch.data.decode("utf-8", "surrogateescape"))
            continue
        _check(path, batch)
        lines += _rendered(batch)
    return "\n".join(lines)


def _rendered(batch: incoming.Columns) -> Iterator[str]:
    from walmill.ingest.arrow import from_arrow
    from walmill.ingest.render import render_row
    from walmill.isolation.batch import table_batch
    from walmill.model.schema import TableSchema

    found = from_arrow(batch.rows, batch.table, None, batch.tags or (), default_time=0)
    schema = TableSchema(batch.table).with_columns(found.new_tags, found.new_fields)
    made = table_batch(schema, [found.batch])
    for row in made.rows():
        yield render_row(made.name, made.tags, made.fields, row)


# ---- what is shown


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _show(report: Mapping[str, Any]) -> None:
    lines = list(_shown(report))
    click.echo("\n".join(lines))


def _shown(report: Mapping[str, Any]) -> Iterator[str]:
    logs = report["log_lines"]
    if logs:
        yield "log"
        for at, text in zip(report["log_times"], logs, strict=True):
            yield f"  {at:7.3f}  {clean(text)}"
    for database, rows in report["database_writes"].items():
        count = sum(one["rows"] for one in report["rows_written"] if one["database"] == database)
        yield f"would write to {database}: {plural(count, 'row')}"
        yield from (f"  {clean(row)}" for row in rows[:SHOWN])
        if count > SHOWN:
            yield f"  … and {count - min(SHOWN, len(rows)):,} more"
    if report["created"]:
        yield "would create"
        yield from (f"  {clean(one)}" for one in report["created"])
    if report["state"]:
        yield "would remember"
        for one in report["state"]:
            where = "shared " if one["shared"] else ""
            value = "(deleted)" if one["op"] == "delete" else json.dumps(one["value"], ensure_ascii=False)
            yield f"  {where}{clean(one['key'])} = {clean(value)}"
    answer = report.get("answer")
    if answer is not None:
        yield f"would answer {answer['status']}"
        yield from (f"  {name}: {clean(value)}" for name, value in answer["headers"])
        body = answer.get("body")
        if body is None:
            yield f"  ({len(base64.b64decode(answer['body_base64'])):,} bytes)"
        elif body:
            yield "  " + clean(body).replace("\n", "\n  ")
        if not answer["whole"]:
            yield "  … (cut off)"
    if report["callbacks"]:
        yield f"{plural(report['callbacks'], 'function')} given to on_commit: not called, since nothing is committed"
    if report["traceback"]:
        yield clean(report["traceback"]).rstrip()
    yield _summary(report)


def _summary(report: Mapping[str, Any]) -> str:
    parts = [str(report["status"])]
    if report["errors"]:
        parts.append(clean(str(report["errors"][0])).split("\n")[0])
    figures = [f"{report['seconds'] * 1000:.1f} ms"]
    if report["cpu_seconds"] is not None:
        figures.append(f"{report['cpu_seconds'] * 1000:.1f} ms of processor time")
    if report["memory_bytes"] is not None:
        figures.append(f"{report['memory_bytes'] / 2**20:.0f} MiB at most")
    if report["rows_in"]:
        figures.insert(0, f"{plural(report['rows_in'], 'row')} given")
    return f"{': '.join(parts)} ({', '.join(figures)}; nothing was committed)"
