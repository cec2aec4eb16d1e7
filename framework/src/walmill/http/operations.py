"""What each route does and takes, as data: `openapi.json` and the reference are made from it, and a test holds it to them."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from walmill.http.requests import PREFIX

CONFIGURE = "/api/v3/configure"
TRIGGER = f"{CONFIGURE}/processing_engine_trigger"
PLUGINS = "/api/v3/plugins"
TEST = "/api/v3/plugin_test"


@frozen
class Operation:
    """A method of a path.

    Attributes:
        method: The method.
        path: The path, with parameters in braces.
        summary: What it does, one sentence.
        members: Names of what it takes, in the query string or, where there is a body of JSON, as its members.
        required: Those of them that have to be there.
        body: Media type of a body that is something else; None if what it takes is members.
        status: Of the answer if all goes well.
        answer: Media type of the answer; None if it is empty.
        shelf: Heading under which it stands.
        open: Whether it wants no token.
    """

    method: str
    path: str
    summary: str
    members: tuple[str, ...]
    required: frozenset[str]
    body: str | None
    status: int
    answer: str | None
    shelf: str
    open: bool

    @property
    def takes_json(self) -> bool:
        """Whether its members may be those of a JSON object in the body."""
        return self.method not in ("GET", "HEAD") and self.body is None and bool(self.members)


JSON, LINES, TEXT = "application/json", "application/x-ndjson", "text/plain"
ARROW = "application/vnd.apache.arrow.stream"
OPEN = frozenset({"/health", "/ready", "/metrics", "/ping"})


def _table(
    shelf: str, *rows: tuple[str, str, str, str] | tuple[str, str, str, str, int, str | None]
) -> list[Operation]:
    """Operations from rows: methods, path, members (`!` behind those that have to be there), summary, status, answer."""
    found = []
    for row in rows:
        methods, path, members, summary = row[:4]
        status, answer = row[4:] if len(row) > 4 else (200, JSON)
        body = {"write_lp": TEXT, "write": TEXT, "write_rows": JSON, "write_arrow": ARROW}.get(path.rpartition("/")[2])
        names = members.split()
        for method in methods.split():
            found.append(
                Operation(
                    method,
                    path,
                    summary,
                    tuple(name.removesuffix("!") for name in names),
                    frozenset(name.removesuffix("!") for name in names if name.endswith("!")),
                    body,
                    status,
                    answer,
                    shelf,
                    path in OPEN,
                )
            )
    return found


_TRIED = "plugin filename database! trigger spec input_arguments grants limits executor"
_CREATED = (
    "db! plugin plugin_filename trigger_name! trigger_specification! trigger_settings trigger_arguments disabled methods "
    "max_concurrency max_batch_rows max_batch_wait jitter breaker attempts missed grants derived from executor limits run_async "
    "error_behavior"
)
_LIMITS = "query_timeout query_memory_limit query_max_rows query_max_files"
_SQL = "format params"

OPERATIONS: tuple[Operation, ...] = (
    *_table(
        "Write",
        (
            "POST",
            "/api/v3/write_lp",
            "db! precision accept_partial no_sync",
            "Writes line protocol; 204 means that it is on disk.",
            204,
            None,
        ),
        (
            "POST",
            "/api/v2/write",
            "bucket! precision org",
            "Writes line protocol from clients of InfluxDB 2.",
            204,
            None,
        ),
        ("POST", "/write", "db! rp precision u p consistency", "The same from clients of InfluxDB 1.", 204, None),
        ("POST", "/api/v3/write_rows", "db! table! tags accept_partial no_sync", "Writes rows of JSON.", 204, None),
        (
            "POST",
            "/api/v3/write_arrow",
            "db! table! tags accept_partial no_sync",
            "Writes the batches of an Arrow IPC stream.",
            204,
            None,
        ),
        ("POST", "/api/v3/delete_rows", "db! table! where! dry_run", "Deletes the rows that SQL finds."),
    ),
    *_table(
        "Query",
        ("GET POST", "/api/v3/query_sql", f"db! q! {_SQL}", "Answers SQL."),
        (
            "GET POST",
            "/api/v3/query_influxql",
            f"db q! {_SQL}",
            "Answers one statement of InfluxQL as rows; `db` may be left out where the statement names it.",
        ),
        (
            "GET POST",
            "/query",
            "q! db rp epoch chunked chunk_size params u p",
            "Answers InfluxQL as InfluxDB 1 does, and knows `CREATE DATABASE`.",
        ),
        ("GET", "/api/v3/queries", "", "Lists the queries that wait or run, and the last thousand."),
        ("DELETE", "/api/v3/queries", "id!", "Stops a query.", 200, None),
        (
            "GET",
            "/api/v3/commits",
            "db! table after wait",
            "Tells rows as they become durable, a JSON object a line; `table` may be repeated.",
            200,
            LINES,
        ),
    ),
    *_table(
        "Triggers",
        ("GET", TRIGGER, "db trigger_name", "Lists triggers, or shows one."),
        ("POST", TRIGGER, _CREATED, "Creates a trigger; what it takes has to be in the body."),
        ("DELETE", TRIGGER, "db! trigger_name! force", "Deletes a trigger.", 200, None),
        ("POST", f"{TRIGGER}/enable", "db! trigger_name!", "Enables a trigger."),
        ("POST", f"{TRIGGER}/disable", "db! trigger_name!", "Disables a trigger.", 200, None),
        ("POST", f"{TRIGGER}/run", "db! trigger_name! at", "Runs a schedule now, and answers when it has ended."),
        (
            "POST",
            f"{TRIGGER}/replay",
            "db! trigger_name! from to stop",
            "Has a trigger go through rows again; with `stop` ends that.",
        ),
        (
            "GET POST PUT DELETE",
            f"{PREFIX}/{{path}}",
            "",
            "Whatever the trigger of this path answers, to the methods that it has.",
        ),
    ),
    *_table(
        "Plugins",
        (
            "GET",
            PLUGINS,
            "",
            "Lists the plugins with hooks, settings, status, cause and hash, and the triggers that use each.",
        ),
        ("GET", f"{PLUGINS}/{{name}}", "", "Shows a plugin, with its files."),
        (
            "POST",
            f"{PLUGINS}/enable",
            "name! db! trigger_arguments only",
            "Creates the triggers that a plugin suggests, those that are not there yet.",
        ),
        ("POST", f"{PLUGINS}/files", "plugin_name! content!", "Puts a file into the plugin directory."),
        (
            "PUT",
            f"{PLUGINS}/files",
            "plugin_name! content! db",
            "The same; `plugin_name` may be a trigger (with `db`), whose plugin's file is meant.",
        ),
        (
            "DELETE",
            f"{PLUGINS}/files",
            "plugin_name! force",
            "Removes a file or a directory from the plugin directory.",
            200,
            None,
        ),
        (
            "POST PUT",
            f"{PLUGINS}/directory",
            "plugin_name! files! db",
            "Puts a directory into the plugin directory, in place of the one that is there.",
        ),
        (
            "POST",
            f"{PLUGINS}/install",
            "source! wheels",
            "Installs a plugin into an environment of its own. Lines tell what is said (`line`); the last has `done` or `error`.",
            200,
            LINES,
        ),
        ("POST", f"{PLUGINS}/upgrade", "name! wheels", "Upgrades an installed plugin, told as lines.", 200, LINES),
        (
            "POST",
            f"{PLUGINS}/outdated",
            "wheels",
            "Finds newer versions of installed plugins, told as lines.",
            200,
            LINES,
        ),
        ("POST", f"{PLUGINS}/sync", "wheels", "Installs what `walmill.lock` declares, told as lines.", 200, LINES),
        ("POST", f"{PLUGINS}/rollback", "name!", "Uses the version of a plugin again that was there before."),
        (
            "POST",
            f"{CONFIGURE}/plugin_environment/install_packages",
            "packages! wheels",
            "Installs packages into the server's environment, told as lines.",
            200,
            LINES,
        ),
        (
            "POST",
            f"{TEST}/wal",
            f"{_TRIED} input_lp precision query table tags live",
            "Runs `on_write` once, and keeps nothing.",
        ),
        ("POST", f"{TEST}/schedule", f"{_TRIED} schedule at", "Runs `on_schedule` once, and keeps nothing."),
        (
            "POST",
            f"{TEST}/request",
            f"{_TRIED} method path query_params headers body body_base64",
            "Runs `on_request` once, and keeps nothing.",
        ),
        ("POST", f"{TEST}/service", f"{_TRIED} for", "Runs `on_service` for a while, and keeps nothing."),
        ("POST", f"{TEST}/snapshot", f"{_TRIED} after", "Runs `on_snapshot` once, and keeps nothing."),
    ),
    *_table(
        "Databases and tables",
        ("GET", f"{CONFIGURE}/database", "format show_deleted", "Lists databases."),
        ("POST", f"{CONFIGURE}/database", "db! retention_period", "Creates a database.", 200, None),
        ("PUT", f"{CONFIGURE}/database", "db! retention_period!", "Changes how long a database keeps rows.", 200, None),
        ("DELETE", f"{CONFIGURE}/database", "db! hard_delete_at", "Deletes a database.", 200, None),
        ("POST", f"{CONFIGURE}/database/restore", "db! id new_name", "Takes the deletion of a database back."),
        (
            "POST",
            f"{CONFIGURE}/database/retention_period",
            "db! duration!",
            "Changes how long a database keeps rows, as InfluxDB has it.",
            204,
            None,
        ),
        (
            "DELETE",
            f"{CONFIGURE}/database/retention_period",
            "db!",
            "Has a database keep its rows for ever.",
            204,
            None,
        ),
        ("GET", f"{CONFIGURE}/table", "db! show_deleted", "Lists the tables of a database."),
        ("POST", f"{CONFIGURE}/table", "db! table! tags fields retention_period", "Creates a table.", 200, None),
        (
            "PUT",
            f"{CONFIGURE}/table",
            "db! table! retention_period!",
            "Changes how long a table keeps rows; `database`: as long as its database.",
            200,
            None,
        ),
        ("DELETE", f"{CONFIGURE}/table", "db! table! hard_delete_at", "Deletes a table.", 200, None),
        ("POST", f"{CONFIGURE}/table/restore", "db! table! id new_name", "Takes the deletion of a table back."),
    ),
    *_table(
        "Caches",
        ("GET", f"{CONFIGURE}/last_cache", "db", "Lists the caches of last values."),
        (
            "POST",
            f"{CONFIGURE}/last_cache",
            "db! table! name key_columns value_columns count ttl",
            "Creates a cache of last values.",
            201,
            JSON,
        ),
        ("DELETE", f"{CONFIGURE}/last_cache", "db! table! name!", "Deletes a cache of last values.", 200, None),
        ("GET", f"{CONFIGURE}/distinct_cache", "db", "Lists the caches of distinct values."),
        (
            "POST",
            f"{CONFIGURE}/distinct_cache",
            "db! table! name columns max_cardinality max_age",
            "Creates a cache of distinct values.",
            201,
            JSON,
        ),
        ("DELETE", f"{CONFIGURE}/distinct_cache", "db! table! name!", "Deletes a cache of distinct values.", 200, None),
    ),
    *_table(
        "Tokens",
        ("GET", f"{CONFIGURE}/token", "", "Lists the tokens, without what they are."),
        (
            "POST",
            f"{CONFIGURE}/token",
            f"token_name! expiry_secs {_LIMITS}",
            "Creates a token, and shows it once.",
            201,
            JSON,
        ),
        ("PUT", f"{CONFIGURE}/token", f"token_name! {_LIMITS}", "Changes the bounds of a token's queries.", 200, None),
        ("DELETE", f"{CONFIGURE}/token", "token_name!", "Deletes a token.", 200, None),
    ),
    *_table(
        "Storage",
        (
            "GET",
            "/api/v3/storage",
            "",
            "Shows the log, the newest snapshot, and the rows of each table in memory and in files.",
        ),
        ("POST", "/api/v3/snapshot", "", "Takes everything from memory and log into files, and answers then."),
        (
            "POST",
            "/api/v3/backup",
            "to!",
            "Makes a backup. Lines tell how far it is; the last has `done` or `error`.",
            200,
            LINES,
        ),
    ),
    *_table(
        "Watching",
        ("GET", "/health", "", "Whether the server lives.", 200, TEXT),
        ("GET", "/ready", "", "Whether it can work; 503 says why not."),
        ("GET", "/metrics", "", "Metrics, for Prometheus.", 200, TEXT),
        ("GET POST", "/ping", "", "Who answers; 204 without a body for a client that does not take JSON."),
        ("GET", "/api/v3/openapi.json", "", "This description of the routes."),
    ),
)

MEANINGS: Mapping[str, tuple[str, str]] = {
    "accept_partial": ("boolean", "Whether good lines or rows are kept where others are refused"),
    "after": ("integer", "Sequence behind which it begins"),
    "for": ("string", "A duration: how long a source runs before it is asked to end; 10 s if it is left out"),
    "at": ("time", "Due time of the run; now if it is left out"),
    "attempts": ("integer", "Attempts before a batch is a dead letter"),
    "body": ("string", "Body of the request, as text"),
    "body_base64": ("string", "Body of the request, as base64"),
    "breaker": ("integer", "Different commits that fail in a row before the trigger is paused"),
    "bucket": ("string", "Name of the database"),
    "chunk_size": ("integer", "Rows in a piece"),
    "chunked": ("boolean", "Whether the answer comes in pieces"),
    "columns": ("list", "Columns whose values are kept"),
    "consistency": ("string", "Changes nothing"),
    "content": ("string", "Text of the file"),
    "count": ("integer", "Values kept for each key"),
    "database": ("string", "Name of the database"),
    "db": ("string", "Name of the database"),
    "derived": ("boolean", "Whether rows that plugins wrote come to it as well"),
    "disabled": ("boolean", "Whether it is created disabled"),
    "dry_run": ("boolean", "Whether it only counts"),
    "duration": ("string", "A duration such as `30d`"),
    "epoch": ("string", "Unit of times as numbers: `ns`, `u`, `ms`, `s`, `m`, `h`"),
    "error_behavior": ("string", "`retry`, `log` or `disable`"),
    "executor": ("string", "Where the hook runs: `process`, `inline`, or another that was registered"),
    "expiry_secs": ("integer", "Seconds after which it does not count any more"),
    "fields": ("list", 'Fields of the new table: `[{"name": …, "type": …}]`'),
    "filename": ("string", "InfluxDB's name for `plugin`"),
    "files": ("list", 'The files: `[{"relative_path": …, "content": …}]`, or `content_base64` for what is no text'),
    "force": ("boolean", "Whether it is done although it is in use"),
    "format": ("string", "`json`, `jsonl`, `csv`, `pretty`, `parquet` or `arrow`"),
    "from": ("any", "Where it begins: `start`, a sequence, a time; for a replay `dead-letters` as well"),
    "grants": ("list", "Further databases that it may read or write"),
    "hard_delete_at": ("string", "When it is gone for good: `default`, `now`, `never`, a time, a duration"),
    "headers": ("any", "Headers of the request"),
    "id": ("integer", "Its number"),
    "input_arguments": ("object", "Arguments for the plugin"),
    "input_lp": ("string", "Rows, as line protocol"),
    "jitter": ("string", "Longest random delay of a schedule, a duration"),
    "key_columns": ("list", "Columns that make a key; all tags if left out"),
    "limits": ("object", "What a run may use: `timeout`, `memory`, `cpu` and others"),
    "live": ("string", "Wait so long for the next rows that come in, a duration"),
    "max_age": ("any", "How long a value is kept, seconds or a duration"),
    "max_batch_rows": ("integer", "Most rows in a batch"),
    "max_batch_wait": ("string", "How long it is waited for more rows, a duration"),
    "max_cardinality": ("integer", "Most combinations of values"),
    "max_concurrency": ("integer", "Runs at a time"),
    "method": ("string", "Method of the request"),
    "methods": ("list", "HTTP methods that a request trigger answers"),
    "missed": ("string", "What is done about due times that were missed"),
    "name": ("string", "Its name"),
    "new_name": ("string", "Another name, if its own is taken"),
    "no_sync": ("boolean", "Whether it is answered before it is on disk"),
    "only": ("list", "Only these of them"),
    "org": ("string", "Changes nothing"),
    "p": ("string", "A token"),
    "packages": ("list", "Requirements such as `pandas==2.2`"),
    "params": ("object", "Values of the parameters in the statement"),
    "path": ("string", "Path of the request"),
    "plugin": ("string", "Name of the plugin"),
    "plugin_filename": ("string", "InfluxDB's name for `plugin`"),
    "plugin_name": ("string", "Path in the plugin directory"),
    "precision": ("string", "`auto`, `second`, `millisecond`, `microsecond`, `nanosecond`, or in short"),
    "q": ("string", "The statement"),
    "query": ("string", "SQL whose rows it gets"),
    "query_max_files": ("integer", "Most files that a query with it may read"),
    "query_max_rows": ("integer", "Most rows that a query with it may answer"),
    "query_memory_limit": ("string", "Memory of a query with it, such as `256MB`"),
    "query_params": ("any", "Query parameters of the request"),
    "query_timeout": ("string", "Longest time of a query with it, a duration"),
    "retention_period": ("string", "How long rows are kept: a duration such as `30d`, or `none`"),
    "rp": ("string", "Retention policy of InfluxDB 1: another database, `db/rp`, if it is not the default"),
    "run_async": ("boolean", "Whether runs may overlap"),
    "schedule": ("string", "When: `every:…` or `cron:…`"),
    "show_deleted": ("boolean", "Whether deleted ones are listed as well"),
    "source": ("string", "A requirement, `git+…`, or a directory"),
    "spec": ("string", "The trigger's event, as for a new trigger"),
    "stop": ("boolean", "Whether the replay ends"),
    "table": ("string", "Name of the table"),
    "tags": ("list", "Columns that are tags; with commas in a query string"),
    "to": ("any", "Where it ends; for a backup, a directory or the address of an object store"),
    "token_name": ("string", "Name of the token"),
    "trigger": ("string", "A trigger, with whose state and arguments it runs"),
    "trigger_arguments": ("object", "Arguments for the plugin"),
    "trigger_name": ("string", "Name of the trigger"),
    "trigger_settings": ("object", "`run_async` and `error_behavior`"),
    "trigger_specification": (
        "string",
        "`table:NAME`, `all_tables`, `every:DURATION`, `cron:FIELDS`, `request:PATH`, `service`, `snapshot` or `snapshot:NAME`",
    ),
    "ttl": ("any", "How long a value counts, seconds or a duration, or `none`"),
    "u": ("string", "Changes nothing"),
    "value_columns": ("list", "Columns that are kept; all others if left out"),
    "wait": ("string", "Ends after so long without rows, a duration"),
    "wheels": ("string", "A directory of the server's machine with wheels, in place of an index"),
    "where": ("string", "A condition in SQL"),
}
"""Type and meaning of every member. A name means the same wherever it occurs."""
