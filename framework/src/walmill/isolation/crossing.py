"""What crosses between engine and worker as plain types: ticks, requests and records there, what a hook returned back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from walmill.errors import PluginFailure
from walmill_hookspecs import Request, SnapshotFile, SnapshotRecord, Tick
from walmill_worker.given import pack_given
from walmill_worker.replies import checked_answer


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A tick, a request, or a record of files, as plain types."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name == "body":
            continue  # a request says whether it arrives; the hook asks for its pieces
        if isinstance(value, Tick):
            found[name] = {
                "scheduled_for": _nanoseconds(value.scheduled_for),
                "fired_at": _nanoseconds(value.fired_at),
                "previous": None if value.previous is None else _nanoseconds(value.previous),
                "missed": value.missed,
                "since": None if value.since is None else _nanoseconds(value.since),
                "timezone": getattr(value.timezone, "key", "UTC"),
            }
        elif isinstance(value, Request):
            found[name] = {
                "method": value.method,
                "path": value.path,
                "path_params": pack_given(dict(value.path_params)),
                "query_params": [list(pair) for pair in value.query_params.multi_items()],
                "headers": [list(pair) for pair in value.headers.multi_items()],
                "client": None if value.client is None else list(value.client),
                "identity": value.identity,
                "body": value.body,
                "arrives": "body" in values,
            }
        elif isinstance(value, SnapshotRecord):
            found[name] = {
                "sequence": value.sequence,
                "previous_sequence": value.previous_sequence,
                "tables": [
                    {
                        "database": table.database,
                        "name": table.name,
                        "tags": list(table.tags),
                        "fields": dict(table.fields),
                        "files": [
                            [
                                one.path,
                                one.rows,
                                one.bytes,
                                *one.time_range,
                                *one.sequences,
                                [list(span) for span in one.late],
                            ]
                            for one in table.files
                        ],
                        "time_range": list(table.time_range),
                    }
                    for table in value.tables
                ],
            }
        else:
            raise PluginFailure(f"a {type(value).__name__} cannot be given to a worker")
    return found


def _file(one: SnapshotFile) -> list[Any]:
    return [one.path, one.rows, one.bytes, *one.time_range, *one.sequences, [list(span) for span in one.late]]


def _nanoseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1e6) * 1000


def result_of(hook: str, result: Any, limit: int, place: object) -> Any:
    """What a worker says that a hook returned.

    Args:
        hook: The hook.
        result: What came.
        limit: Most bytes of an answer.
        place: Where pieces of a streamed answer come from.

    Raises:
        PluginFailure: If that means nothing.
    """
    if hook == "on_request":
        status, headers, body, streams = result
        if len(body) > limit:
            raise PluginFailure(
                f"the answer has {len(body):,} bytes; the limit is {limit:,}: stream it, or raise the limit"
            )
        return checked_answer(status, headers, body, place if streams else None)
    if result == "coroutine":
        raise PluginFailure(f"{hook} returned a coroutine that nobody awaits: write `async def {hook}`, or await it")
    if result == "generator":
        raise PluginFailure(f"{hook} has a `yield`, so calling it ran nothing of it: take the yield out")
    return None
