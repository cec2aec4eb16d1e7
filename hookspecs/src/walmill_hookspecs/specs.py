"""The hooks. Every docstring answers, in this order: when it is called, once or many, what the return value means, the
delivery promise, which thread or process, may it be async, since which version.

An implementation names the parameters that it wants; it may take fewer than the hook has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from walmill_hookspecs._markers import hookspec

if TYPE_CHECKING:
    from walmill_hookspecs.body import AsyncBody, Body
    from walmill_hookspecs.context import BaseContext
    from walmill_hookspecs.types import (
        Reply,
        Request,
        RunRecord,
        SnapshotRecord,
        SqlFunction,
        SuggestedTrigger,
        Tick,
        WriteBatch,
    )


@hookspec
def on_write(batch: WriteBatch, ctx: BaseContext[Any]) -> None:
    """New rows are durable.

    When: after commits that hold rows of the trigger's tables were synced (specs `table:…`, `all_tables`).
    How often: once for each batch; a batch is one or more whole commits of one origin, in the order of the log.
    Return value: ignored.
    Delivery: after the acknowledgement, so a plugin cannot refuse a row. What the run writes, the state that it changes
        and its cursor are one commit: inside the database effectively once, outside it at least once (`ctx.run.key`).
        A failed run is repeated, skipped, or disables the trigger, as its error policy says.
    Runs where: `process` (default): in a worker process of the trigger, in its main thread; async hooks of one worker share one
        loop for its life. `inline`: `async def` on the mill's event loop, shared with other plugins; `def` on a thread of the
        trigger. Never in the thread that writes the log. One batch at a time unless `max_concurrency` says more.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_schedule(tick: Tick, ctx: BaseContext[Any]) -> None:
    """A schedule is due.

    When: at the due times of `every:…` and `cron:…`; after a stop or an overrun as the policy for missed times says.
    How often: once for each due time that is not dropped; `tick.missed` counts the dropped ones.
    Return value: ignored.
    Delivery: the due time is the cursor and part of the run's commit: a due time that has a commit never comes again.
    Runs where: as `on_write`.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_request(request: Request, body: Body | AsyncBody, ctx: BaseContext[Any]) -> Reply:
    """An HTTP request came for the trigger's path.

    When: for the methods and the path of `request:…`.
    How often: once for each request, up to the trigger's `max_concurrency` (4) at a time; the rest waits in a bounded queue.
    Return value: the answer: a `Response`; str (text/html); bytes; dict or list (JSON); `(body, status)` or
        `(body, status, headers)`; an iterator of str or bytes (streamed); None (204); or anything with `status_code`,
        `headers` and `body`. A tuple of another shape is an error.
    Body: a hook that does not name `body` begins when the whole body is there, as `request.body`. One that names it begins at
        once and reads the body while it comes: a `def` hook as a binary file (`Body`), an `async def` hook as pieces
        (`AsyncBody`); `request.body` is empty then, the server's limit for bodies does not hold, and what is not read does
        not come. An answer that is an iterator may go on reading. Compressed bodies come decompressed.
    Delivery: at most once; the commit precedes the first byte of the answer, and a refused commit is the answer.
        An exception answers 500 with the id of the run (`HTTPError` answers its own status) and keeps nothing.
    Runs where: `process`: one request at a time in each of up to `max_concurrency` workers. `inline`: `async def` on the mill's
        event loop; `def` on a thread of the trigger. Never on the server's loop.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_service(ctx: BaseContext[Any]) -> None:
    """A source is to run: it waits for what comes from elsewhere and writes it, until it is asked to end.

    When: as long as the trigger is enabled (spec `service`); it is called again after it returned or failed.
    How often: one call at a time, for as long as the engine runs. It returns soon after `ctx.stopping` became true: when the
        engine stops, the trigger is disabled or changed, or its plugin has changed. One that does not is cancelled after 10
        seconds, and killed 5 seconds later.
    Return value: ignored. One that returns or fails without being asked to end is called again after 1.5 s, then 4.5 s, and so
        on up to a minute, from the beginning after it has run for a minute; `RetryLater` says another time, `DisableTrigger` ends
        it for good. The error policy `disable` ends it at its first failure; `attempts` and the other policies do not apply.
    Delivery: `ctx.checkpoint()` commits the rows and the state since the last one, all or none; what was not committed when
        it ends otherwise is lost, so a source takes it from the other side again: it acknowledges there in `ctx.on_commit`,
        whose functions are called when the checkpoint is durable. What comes twice all the same is told by its id in
        `ctx.cache`, which is part of the same commit.
    Limits: rows and lines of the log are counted from checkpoint to checkpoint; time and processor time have no bound.
    Runs where: as `on_write`; `ctx.now()` and queries are as of the moment.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_snapshot(record: SnapshotRecord, ctx: BaseContext[Any]) -> None:
    """Rows went from memory and log into Parquet files.

    When: after files with rows of the trigger's tables count (specs `snapshot`, `snapshot:…`). Never in an engine without a data
        directory, which has no files.
    How often: once for the files since the last run that was finished; several snapshots are told together where they came
        while a run went on, or while the trigger was disabled; of very many about a thousand files at a time, the oldest first.
    Return value: ignored.
    Delivery: the sequence is the cursor and part of the run's commit: what a plugin does inside the database comes effectively
        once, outside at least once, and nothing is left out, also after a kill. A failed run is repeated until it succeeds
        (policy `retry`; attempts do not count), skipped, or disables the trigger. What is deleted later is not told.
    Repeated rows: files that were joined before a trigger saw them hold older rows as well: merge by tags and time where that
        matters.
    Files: they are there as long as the hook runs; later they may be joined with others and deleted, so whoever wants to keep one
        copies it. Rows may be in several files; of two with the same tags and time the one with the higher sequences counts.
    Runs where: as `on_write`; one run at a time.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_startup(ctx: BaseContext[Any]) -> None:
    """A trigger starts.

    When: before the trigger's first event after the engine started, after it was enabled, and in a replacement worker.
    How often: once for each such start.
    Return value: ignored.
    Delivery: its writes and its state are one commit, made before the first event; a failure counts as a failure of the
        event that waits, and it is called again before the next attempt.
    Runs where: as the trigger's other hooks.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def on_shutdown(ctx: BaseContext[Any]) -> None:
    """A trigger stops.

    When: when the engine stops in order, or the trigger is disabled or deleted, if `on_startup` or an event came before.
    How often: at most once for each start.
    Return value: ignored.
    Delivery: best effort: not after a kill, and cut off by the shutdown time-out. Its writes are committed if it returns.
    Runs where: as the trigger's other hooks.
    May be async: yes.
    Since: 0.1.
    """


@hookspec
def register_settings() -> type:
    """Which arguments a trigger of this plugin takes.

    When: when the plugin is inspected, and in each of its workers.
    How often: once for each of those.
    Return value: a class made with `@settings`; its instance is `ctx.settings`.
    Delivery: does not apply.
    Runs where: in a fresh worker process that inspects the plugin, and in its workers.
    May be async: no.
    Since: 0.1.
    """
    return dict


@hookspec
def register_triggers() -> Sequence[SuggestedTrigger]:
    """Which triggers a plugin suggests, so that who installs it need not think them up.

    When: when the plugin is inspected.
    How often: once for each of those.
    Return value: the triggers; `walmill plugin enable NAME` creates them, and nothing creates them by itself.
    Delivery: does not apply.
    Runs where: in a fresh worker process that inspects the plugin.
    May be async: no.
    Since: 0.1.
    """
    raise NotImplementedError  # a specification is never called


@hookspec
def on_run_end(record: RunRecord) -> None:
    """A run has ended, of any trigger.

    When: after its commit, or after its failure was recorded.
    How often: once for each attempt.
    Return value: ignored.
    Delivery: at most once, best effort; an exception is logged and changes nothing.
    Runs where: in the engine, on the mill's loop: it must not block.
    May be async: no.
    Since: 0.1.
    """


@hookspec
def register_executors(host: Any) -> Mapping[str, Any]:
    """The engine opens, and asks for places where hooks can run.

    When: once while the engine opens, of its own plugins and of those that the setting `executor_plugins` names.
    How often: once for each engine.
    Return value: executors by the names by which triggers choose them; `walmill.isolation.base.Executor` is what one has to be.
        `host` is a `walmill.isolation.builtin.ExecutorHost`: it finds and binds plugins, and has the log.
    Delivery: an exception, or a name that is taken, keeps the engine from opening.
    Runs where: in the engine, on the thread that opens it.
    May be async: no.
    Since: 0.1.
    """
    raise NotImplementedError  # a specification is never called


@hookspec
def register_functions() -> Sequence[SqlFunction]:
    """The engine opens, and asks for functions that SQL is to have.

    When: once while the engine opens, of those plugins that the setting `function_plugins` names.
    How often: once for each engine.
    Return value: the functions; they are known in every query, of people, triggers and caches.
    Delivery: an exception, or a name that is taken, keeps the engine from opening.
    Runs where: in the engine, on the thread that opens it; the functions themselves on the threads of queries. They
        run without limits, and a query that is stopped waits for the call that runs.
    May be async: no.
    Since: 0.1.
    """
    raise NotImplementedError  # a specification is never called
