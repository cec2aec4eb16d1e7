"""The root of the command line, and what becomes of errors: one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from walmill.cli.lazy import Lazy, LazyGroup
from walmill.errors import WalmillError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_DATA = "In the database"
_SERVER = "Server"
_HERE = "On this machine"

CLI = "walmill.cli"
_GROUPS: dict[str, tuple[str, dict[str, Lazy]]] = {
    "create": (
        "Create a database, a table, a trigger, a token or a snapshot.",
        {
            "database": Lazy(f"{CLI}.database:create_database", "Create a database."),
            "distinct_cache": Lazy(f"{CLI}.valuecache:create_distinct_cache", "Create a cache of distinct values."),
            "last_cache": Lazy(f"{CLI}.valuecache:create_last_cache", "Create a cache of last values."),
            "snapshot": Lazy(f"{CLI}.storage:create_snapshot", "Take everything into files now."),
            "table": Lazy(f"{CLI}.table:create_table", "Create a table."),
            "token": Lazy(f"{CLI}.token:create_token", "Create a token and show it once."),
            "trigger": Lazy(f"{CLI}.trigger:create_trigger", "Create a trigger."),
        },
    ),
    "show": (
        "Show databases, tables, triggers, tokens, the server's plugins, or where the data is.",
        {
            "caches": Lazy(f"{CLI}.valuecache:show_caches", "List the caches of values of a database."),
            "databases": Lazy(f"{CLI}.database:show_databases", "List the databases."),
            "plugin": Lazy(f"{CLI}.plugin:show_of_server", "Show one plugin of the server."),
            "plugins": Lazy(f"{CLI}.plugin:show_plugins", "List the plugins of the server."),
            "queries": Lazy(f"{CLI}.query:show_queries", "List the queries of the server."),
            "storage": Lazy(f"{CLI}.storage:show_storage", "Show where the data is."),
            "tables": Lazy(f"{CLI}.table:show_tables", "List the tables of a database."),
            "tokens": Lazy(f"{CLI}.token:show_tokens", "List the tokens, without their values."),
            "trigger": Lazy(f"{CLI}.trigger:show_trigger", "Show one trigger."),
            "triggers": Lazy(f"{CLI}.trigger:show_triggers", "List the triggers."),
        },
    ),
    "update": (
        "Change how long rows are kept, what a token may ask, or the code of a trigger.",
        {
            "database": Lazy(f"{CLI}.database:update_database", "Change how long the rows of a database are kept."),
            "table": Lazy(f"{CLI}.table:update_table", "Change how long the rows of a table are kept."),
            "token": Lazy(f"{CLI}.token:update_token", "Change what the queries of a token may take."),
            "trigger": Lazy(f"{CLI}.plugin_files:update_trigger", "Replace the code of a trigger."),
        },
    ),
    "restore": (
        "Take the deletion of a database or a table back.",
        {
            "database": Lazy(f"{CLI}.database:restore_database", "Take the deletion of a database back."),
            "table": Lazy(f"{CLI}.table:restore_table", "Take the deletion of a table back."),
        },
    ),
    "enable": (
        "Enable a trigger.",
        {"trigger": Lazy(f"{CLI}.trigger:enable_trigger", "Enable a trigger that was disabled or paused.")},
    ),
    "disable": ("Disable a trigger.", {"trigger": Lazy(f"{CLI}.trigger:disable_trigger", "Disable a trigger.")}),
    "run": (
        "Run a schedule trigger now.",
        {"trigger": Lazy(f"{CLI}.trigger:run_trigger", "Run a schedule trigger now.")},
    ),
    "replay": (
        "Have a trigger go through the log again.",
        {"trigger": Lazy(f"{CLI}.trigger:replay_trigger", "Have an on_write trigger go through the log again.")},
    ),
    "delete": (
        "Delete a database, a table, a trigger or a token.",
        {
            "database": Lazy(f"{CLI}.database:delete_database", "Delete a database with all its data."),
            "table": Lazy(f"{CLI}.table:delete_table", "Delete a table."),
            "distinct_cache": Lazy(f"{CLI}.valuecache:delete_distinct_cache", "Delete a cache of distinct values."),
            "last_cache": Lazy(f"{CLI}.valuecache:delete_last_cache", "Delete a cache of last values."),
            "rows": Lazy(f"{CLI}.table:delete_rows", "Delete the rows that SQL finds."),
            "token": Lazy(f"{CLI}.token:delete_token", "Delete a token."),
            "trigger": Lazy(f"{CLI}.trigger:delete_trigger", "Delete a trigger with its state."),
        },
    ),
    "plugin": (
        "List, show, start, try, install, upgrade, upload and remove plugins.",
        {
            "list": Lazy(f"{CLI}.plugin:list_plugins", "List the installed plugins."),
            "show": Lazy(f"{CLI}.plugin:show_plugin", "Show a plugin with its settings."),
            "enable": Lazy(f"{CLI}.plugin:enable_plugin", "Create the triggers that a plugin suggests."),
            "install": Lazy(f"{CLI}.plugin_install:install_plugin", "Install a plugin in an environment of its own."),
            "outdated": Lazy(f"{CLI}.plugin_install:outdated_plugins", "List what could be upgraded."),
            "upgrade": Lazy(f"{CLI}.plugin_install:upgrade_plugin", "Install newer versions."),
            "rollback": Lazy(f"{CLI}.plugin_install:rollback_plugin", "Use the version before the last upgrade."),
            "sync": Lazy(f"{CLI}.plugin_install:sync_plugins", "Install what walmill.lock declares."),
            "upload": Lazy(f"{CLI}.plugin_files:upload_plugin", "Upload a plugin into the server's plugin directory."),
            "remove": Lazy(f"{CLI}.plugin_files:remove_plugin", "Remove a plugin from the server."),
            "new": Lazy(f"{CLI}.plugin:new_plugin", "Start a plugin package from the template."),
            "dev": Lazy(f"{CLI}.rehearse:dev", "Run a plugin each time that it is saved."),
            "check": Lazy(f"{CLI}.plugin_check:check_plugin", "Try a plugin with contract tests."),
            "test": Lazy(f"{CLI}.main:plugin_test", "Run a plugin once, and keep nothing of it."),
        },
    ),
    "install": (
        "Install packages into the server's environment.",
        {"package": Lazy(f"{CLI}.plugin_install:install_package", "Install packages into the server's environment.")},
    ),
    "test": (
        "Run a plugin once, for real, and keep nothing of what it does in the engine.",
        {
            "write": Lazy(f"{CLI}.rehearse:test_write", "Give it rows."),
            "schedule": Lazy(f"{CLI}.rehearse:test_schedule", "Give it a due time."),
            "request": Lazy(f"{CLI}.rehearse:test_request", "Give it a request."),
            "service": Lazy(f"{CLI}.rehearse:test_service", "Have it run for a while."),
            "snapshot": Lazy(f"{CLI}.rehearse:test_snapshot", "Tell it of files."),
        },
    ),
    "backup": (
        "Make, verify and restore backups.",
        {
            "create": Lazy(f"{CLI}.backup:create_backup", "Make a backup of a running server."),
            "list": Lazy(f"{CLI}.backup:list_backups", "List the backups in a place."),
            "verify": Lazy(f"{CLI}.backup:verify_backup", "Read all that backups have, and check it."),
            "restore": Lazy(f"{CLI}.backup:restore_backup", "Restore a backup into an empty data directory."),
            "delete": Lazy(f"{CLI}.backup:delete_backups", "Delete backups."),
            "prune": Lazy(f"{CLI}.backup:prune_backups", "Delete all backups but the newest."),
        },
    ),
    "wal": (
        "Look into the log of a data directory.",
        {
            "dump": Lazy(f"{CLI}.wal:dump", "Print what the log holds."),
            "verify": Lazy(f"{CLI}.wal:verify", "Check the log and say where it is damaged."),
        },
    ),
    "config": (
        "Show the settings of the server.",
        {"show": Lazy(f"{CLI}.config:show", "Show the settings, and where each came from.")},
    ),
}


def _group(name: str) -> LazyGroup:
    summary, lazy = _GROUPS[name]
    return LazyGroup(name=name, help=summary, lazy=lazy, no_args_is_help=True)


create, show, update, enable, disable, run_group, replay, delete, restore = (
    _group(name) for name in ("create", "show", "update", "enable", "disable", "run", "replay", "delete", "restore")
)
plugin, plugin_test, wal, config, backup, install = (
    _group(name) for name in ("plugin", "test", "wal", "config", "backup", "install")
)

cli = LazyGroup(
    name="walmill",
    help=(
        "Walmill: a processing engine for time-series data. Plugins run when a write is durable, when a schedule ticks, and "
        "when a request comes.\n\nStart with `walmill demo`, or `walmill serve` and `walmill write`."
    ),
    context_settings=_CONTEXT,
    no_args_is_help=True,
    lazy={
        "serve": Lazy(f"{CLI}.serve:serve", "Start the server.", _SERVER),
        "demo": Lazy(f"{CLI}.demo:demo", "Watch a year of weather flow through plugins.", _SERVER),
        "write": Lazy(f"{CLI}.write:write", "Write line protocol.", _DATA),
        "export": Lazy(f"{CLI}.export:export", "Write the tables of a database to files.", _DATA),
        "import": Lazy(f"{CLI}.importing:import_files", "Write files to a database.", _DATA),
        "query": Lazy(f"{CLI}.query:query", "Run SQL that reads.", _DATA),
        "tail": Lazy(f"{CLI}.tail:tail", "Print rows as they become durable.", _DATA),
        "create": Lazy(f"{CLI}.main:create", "Create a database, a table, a trigger, a token or a snapshot.", _DATA),
        "show": Lazy(
            f"{CLI}.main:show", "Show databases, tables, triggers, tokens, plugins, where the data is.", _DATA
        ),
        "update": Lazy(f"{CLI}.main:update", "Change how long rows are kept, or what a token may ask.", _DATA),
        "enable": Lazy(f"{CLI}.main:enable", "Enable a trigger.", _DATA),
        "disable": Lazy(f"{CLI}.main:disable", "Disable a trigger.", _DATA),
        "top": Lazy(f"{CLI}.top:top", "Show live what triggers are doing.", _DATA),
        "run": Lazy(f"{CLI}.main:run_group", "Run a schedule trigger now.", _DATA),
        "replay": Lazy(f"{CLI}.main:replay", "Have a trigger go through the log again.", _DATA),
        "delete": Lazy(f"{CLI}.main:delete", "Delete a database, a table, a trigger or a token.", _DATA),
        "restore": Lazy(f"{CLI}.main:restore", "Take the deletion of a database or a table back.", _DATA),
        "backup": Lazy(f"{CLI}.main:backup", "Make, verify and restore backups.", _SERVER),
        "install": Lazy(f"{CLI}.main:install", "Install packages into the server's environment.", _SERVER),
        "plugin": Lazy(f"{CLI}.main:plugin", "List, show, start, try, install and upload plugins.", _HERE),
        "wal": Lazy(f"{CLI}.main:wal", "Look into the log of a data directory.", _HERE),
        "config": Lazy(f"{CLI}.main:config", "Show the settings of the server.", _HERE),
        "doctor": Lazy(f"{CLI}.doctor:doctor", "Check that a server can run here.", _HERE),
        "completion": Lazy(f"{CLI}.completion:completion", "Print a completion script for a shell.", _HERE),
    },
)


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"walmill {version('walmill')}")
        except PackageNotFoundError:
            click.echo("walmill (not installed as a package)")
        ctx.exit()


cli.params.append(
    click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
    )
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Without the name of the program; None takes those of the process.

    Returns:
        The exit code: 0, 1 (it failed), 2 (it was called wrongly), 130 (Ctrl-C).
    """
    try:
        given = None if arguments is None else list(arguments)
        result = cli.main(args=given, prog_name="walmill", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return FAILED
    except SystemExit as end:  # click ends the process itself when the reader of a pipe has gone
        return end.code if isinstance(end.code, int) else FAILED
    except WalmillError as error:
        return _fail(error.message)
    except UnicodeEncodeError as error:
        return _fail(
            f"a text holds characters that are not UTF-8 (near {error.object[error.start : error.end]!r}); give UTF-8"
        )
    except OSError as error:
        return _fail(_sentence(error))
    except Exception as error:
        if os.environ.get("WALMILL_DEBUG"):
            raise
        return _fail(
            f"something that should not happen did: {type(error).__name__}: {error}; please report it, with what "
            "`WALMILL_DEBUG=1` and the same command print"
        )
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _fail(message: str) -> int:
    from walmill.cli.output import clean

    click.echo(f"Error: {clean(message)}", err=True)
    return FAILED


def _sentence(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _close_stdout() -> None:
    """The reader of a pipe has gone: what is left in the buffer must not fail once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)


def main() -> None:
    """The entry point of the `walmill` command."""
    sys.exit(run())
