"""Plugins that copy and count what they are given, for tests that kill everything."""

from __future__ import annotations

from typing import Any

from walmill_hookspecs import RetryLater, hookimpl


def copies(batch: Any) -> list[dict[str, Any]]:
    return [{"k": row["k"], "v": row["v"], "time": row["time"]} for row in batch.tables["src"].rows()]


class Copy:
    """A plain hook."""

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.write(copies(batch), table="copy", tags=["k"])


class AsyncCopy:
    """An async one."""

    @hookimpl
    async def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.write(copies(batch), table="async_copy", tags=["k"])


class Wild:
    """Four at a time: they change the same key, put some batches off, and fail for good with some rows."""

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        rows = copies(batch)
        ctx.cache.incr("rows", len(rows))
        ctx.cache.put("last", [ctx.cache.get("last", [0])[-1] + 1])
        ctx.write(rows, table="wild", tags=["k"])
        if ctx.run.attempt == 1 and any(row["v"] % 31 == 0 for row in rows):
            raise RetryLater("not at the first attempt", after=0.005)
        if any(row["v"] % 97 == 0 for row in rows):
            raise ValueError("not this one")
