"""A deadman switch: an alert for each series of a table that has not been heard of for a while."""

from __future__ import annotations

from walmill_hookspecs import (
    Context,
    Duration,
    Line,
    TableName,
    TableNotFound,
    Tick,
    hookimpl,
    series_key,
    setting,
    settings,
)


@settings
class Deadman:
    """What has to be heard, and how often."""

    table: TableName = setting("the table that is watched")
    timeout: Duration = setting("a series is silent when its newest row is older than this", minimum="1ms")
    severity: str = setting("a tag of the alert", default="critical")
    target: TableName = setting("the table of alerts", default=TableName("alerts"))


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Deadman


@hookimpl
def on_schedule(tick: Tick, ctx: Context[Deadman]) -> None:
    """Compares the newest time of each series with the due time."""
    chosen = ctx.settings
    now = int(tick.scheduled_for.timestamp() * 1e6) * 1_000
    for tags, newest in _newest(ctx):
        key = series_key(tags)
        silent = now - newest > chosen.timeout
        was = bool(ctx.cache.get(key, False))
        if silent == was:
            continue
        if silent:
            ctx.cache.put(key, True)
        else:
            ctx.cache.delete(key)
        where = f"{chosen.table},{key}" if key else str(chosen.table)
        age = Duration((now - newest) // 1_000_000_000 * 1_000_000_000)
        words = f"{where} has been silent for {age}" if silent else f"{where} is heard again"
        ctx.write(
            Line(
                chosen.target,
                tags={**tags, "rule": ctx.trigger.name, "severity": chosen.severity},
                fields={
                    "state": "firing" if silent else "resolved",
                    "value": (now - newest) / 1e9,
                    "limit": chosen.timeout.total_seconds(),
                    "message": words,
                    "since": newest,
                },
                time=now,
            )
        )


def _newest(ctx: Context[Deadman]) -> list[tuple[dict[str, str], int]]:
    """The newest time of each series; nothing while the table does not exist."""
    table = str(ctx.settings.table)
    columns = ctx.query(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_name = $table AND table_schema = 'iox' AND data_type LIKE 'Dictionary%'",
        {"table": table},
    )
    tags = [str(name) for name in columns.column(0).to_pylist()]
    quoted = ['"' + name.replace('"', '""') + '"' for name in tags]
    source = '"' + table.replace('"', '""') + '"'
    group = f" GROUP BY {', '.join(quoted)}" if quoted else ""
    try:
        found = ctx.query(f"SELECT {', '.join([*quoted, 'CAST(max(time) AS BIGINT)'])} FROM {source}{group}")  # noqa: S608 - quoted
    except TableNotFound:
        ctx.log.info("the table %s does not exist yet; nothing is watched", table)
        return []
    rows = zip(*(column.to_pylist() for column in found.columns), strict=True)
    return [
        ({tag: value for tag, value in zip(tags, row, strict=False) if value is not None}, row[-1])
        for row in rows
        if row[-1] is not None
    ]
