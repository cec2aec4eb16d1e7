"""What an engine offers about triggers and the requests that triggers answer. Any thread may call it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve

from walmill.backfill import job_of
from walmill.dispatch.mill import Mill
from walmill.dispatch.requests import Exchange
from walmill.dispatch.tally import NOTHING, Tally
from walmill.errors import Conflict, InvalidRequest, WalmillError
from walmill.install_calls import Installs
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.store.view import View
from walmill.triggers import manage
from walmill.triggers.manage import NewTrigger
from walmill.triggers.shown import show
from walmill.triggers.spec import Spec
from walmill.units import parse_time
from walmill.wal.log import Log
from walmill_worker.replies import Answer

log = get_logger("walmill.engine")


class Triggers(Installs):
    """Triggers of an engine.

    Attributes:
        request_triggers: The triggers that answer requests.
        executors: The executors by name, and whether each runs hooks in other processes.
        default_executor: Where hooks of installed plugins run, unless a trigger says otherwise.
    """

    request_triggers: tuple[Trigger, ...]
    executors: Mapping[str, bool]
    default_executor: str
    _mill: Mill
    _wal: Log
    _routes_changed: list[Callable[[Sequence[Trigger]], None]]

    def pass_lost(self) -> None:
        """Says of each trigger whose log is gone what it will not see; usually there is none: such a trigger holds its log."""
        view, first = self.view(), self._wal.first_sequence
        for number in view.catalog.triggers:
            if (view.cursors.get(number) or Cursor()).through + 1 < first:
                decide = partial(manage.warn_of_lost, trigger=number, first=first)
                made: Trigger | None = self.define(decide)
                if made is not None:
                    log.warning("a trigger has lost a part of its log", trigger=made.name, warning=made.warning)

    # ---- triggers

    def create_trigger(self, new: NewTrigger | None = None, **members: Any) -> Trigger:
        """Creates a trigger; when it returns, the definition is durable and the trigger gets events.

        Args:
            new: What is asked for.
            **members: Members of `NewTrigger`, by name, instead.

        Raises:
            InvalidRequest: With all problems at once.
            NotFound: If the plugin is not installed.
            Conflict: If the plugin is broken, or the name, or the path of a request trigger, is taken.
        """
        asked, spec, problems = self._checked(new if new is not None else NewTrigger(**members))
        if problems:
            raise InvalidRequest("; ".join(problems))
        made: Trigger = self.define(
            lambda draft: manage.create_trigger(draft, asked, spec, self._start_at, self._wal.first_sequence)
        )
        return made

    def _checked(self, asked: NewTrigger) -> tuple[NewTrigger, Spec, list[str]]:
        """What is asked for, with the name and the executor that are meant; its event; and all problems of it."""
        description = self.registry.inspect(self.registry.resolve(asked.plugin))
        asked = evolve(asked, plugin=description.name)
        if asked.executor is None:
            asked = evolve(asked, executor=self.default_executor if description.installed else "inline")
        spec, problems = manage.check_new(asked, description, self.executors)
        if not problems:
            own = self._check_settings(description, asked.arguments)
            problems = [] if own is None else [own]
        return asked, spec, problems

    def enable_plugin(
        self,
        name: str,
        database: str,
        *,
        arguments: Mapping[str, Any] | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, list[str]]:
        """Creates the triggers that a plugin suggests, those that are not there yet.

        Args:
            name: Name of the plugin.
            database: Name of the database in which they are created.
            arguments: Arguments for all of them, in place of what the plugin suggests.
            only: Names of those that are wanted; none for all.

        Returns:
            The names of those that were `created`, and of those that were `there` already.

        Raises:
            NotFound: If there is no such plugin.
            InvalidRequest: If it suggests none, or something is wrong with them: then none is created.
            Conflict: If the plugin is broken, or a name is taken by a trigger of another plugin.
        """
        description = self.registry.inspect(self.registry.resolve(name))
        if description.status == "broken":
            raise Conflict(f"the plugin {description.name!r} is broken: {description.cause}")
        suggested = {str(one["name"]): one for one in description.suggests}
        unknown = [one for one in only if one not in suggested]
        if not suggested or unknown:
            what = f"the trigger {unknown[0]!r}" if suggested else "no trigger"
            hint = (
                f"it suggests {', '.join(sorted(suggested))}"
                if suggested
                else "create one with `walmill create trigger`"
            )
            raise InvalidRequest(
                f"the plugin {description.name!r} suggests {'not ' if suggested else ''}{what}; {hint}"
            )
        catalog = self.view().catalog
        owned = {one.name: one for one in catalog.triggers.values() if catalog.names.get(database) == one.database_id}
        wanted: list[NewTrigger] = []
        there: list[str] = []
        problems: list[str] = []
        for one in suggested.values():
            if only and one["name"] not in only:
                continue
            if one["name"] in owned:
                if owned[one["name"]].plugin != description.name:
                    raise Conflict(f"there is a trigger {one['name']!r} of another plugin in the database {database!r}")
                there.append(one["name"])
                continue
            new = NewTrigger(
                database=database,
                name=one["name"],
                plugin=description.name,
                spec=one["spec"],
                arguments={**one["arguments"], **(arguments or {})},
                policy=one["error_policy"] or "retry",
                max_concurrency=one["max_concurrency"],
                methods=one["methods"],
            )
            _, _, wrong = self._checked(new)
            problems += [f"{one['name']}: {problem}" for problem in wrong]
            wanted.append(new)
        if problems:
            raise InvalidRequest("; ".join(problems))
        for new in wanted:
            self.create_trigger(new)
        return {"created": [new.name for new in wanted], "there": there}

    def _start_at(self, start: str | int) -> int:
        if start == "start":
            return self._wal.first_sequence
        if isinstance(start, int) or start.isdigit():
            return int(start)
        return self._wal.sequence_at(parse_time(start))

    def enable_trigger(self, database: str, name: str) -> Trigger:
        """Enables a trigger that a person, its policy or the engine stopped.

        It goes on where it was; if the log from there is gone, where the log begins: then its `warning` says what it passed by.
        """
        made: Trigger = self.define(
            lambda draft: manage.enable_trigger(draft, database, name, self._wal.first_sequence)
        )
        return made

    def disable_trigger(self, database: str, name: str) -> Trigger:
        """Disables a trigger; its cursor stays where it is."""
        made: Trigger = self.define(lambda draft: manage.disable_by_person(draft, database, name))
        return made

    def delete_trigger(self, database: str, name: str, *, force: bool = False) -> None:
        """Deletes a trigger with its cursor and its state."""
        self.define(lambda draft: manage.delete_trigger(draft, database, name, force=force))

    def run_trigger(
        self, database: str, name: str, *, at: int | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Runs a schedule trigger now, once, by hand, and waits for it.

        Args:
            database: Name of its database.
            name: Its name.
            at: The due time that the plugin is told, ns; now if None.
            timeout: Seconds to wait.

        Returns:
            `status`, `error`, `sequence` and `run_id` of the run.

        Raises:
            InvalidRequest: If it is not a schedule trigger.
            Conflict: If it is not enabled.
        """
        trigger = self.view().catalog.trigger(database, name)
        ran: dict[str, Any] = self._mill.run(self._mill.run_now(trigger, at)).result(timeout)
        return ran

    def triggers(self, database: str | None = None) -> list[dict[str, Any]]:
        """All triggers, or those of a database: definition, cursor and what they are doing, as plain data."""
        view = self.view()
        self._mill.wait_until_current()  # what was written before this call counts as lag
        found = []
        for trigger in view.catalog.triggers.values():
            owner = view.catalog.databases[trigger.database_id]
            if owner.deleted is None and database in (None, owner.name):
                found.append(self._shown(trigger, owner.name, view))
        return sorted(found, key=lambda one: (one["database"], one["trigger_name"]))

    def trigger(self, database: str, name: str) -> dict[str, Any]:
        """One trigger, as in `triggers`.

        Raises:
            NotFound: If there is none.
        """
        view = self.view()
        self._mill.wait_until_current()
        return self._shown(view.catalog.trigger(database, name), database, view)

    def _shown(self, trigger: Trigger, database: str, view: View) -> dict[str, Any]:
        cursor, status = view.cursors.get(trigger.id), self._mill.status(trigger.id)
        tally = self._mill.ledger.tallies.get((database, trigger.name))
        shown = show(trigger, database, cursor, status, NOTHING if tally is None else tally.show(), self.registry)
        job = job_of(view, trigger.id)
        if job is not None:
            shown["backfill"] = {"rows": job.rows, "total": job.total}
        return shown

    def tallies(self) -> dict[tuple[str, str], Tally]:
        """What the runs came to since the start, by database and trigger."""
        return dict(self._mill.ledger.tallies)

    # ---- requests

    def on_routes(self, changed: Callable[[Sequence[Trigger]], None]) -> None:
        """Has `changed` called with the request triggers, now and whenever they change; from any thread."""
        self._routes_changed.append(changed)
        changed(self.request_triggers)

    def _set_routes(self, triggers: Sequence[Trigger], view: View) -> None:
        del view
        self.request_triggers = tuple(triggers)
        for changed in self._routes_changed:
            changed(self.request_triggers)

    async def reads_body(self, plugin: str) -> bool:
        """Whether a plugin reads the bodies of requests as they come; for an event loop of the server's."""
        known = self.registry.takes(plugin, "on_request", "body")
        if known is None:  # a server that has just started may not have looked at it yet, and that takes a while
            with contextlib.suppress(WalmillError):  # its run says what is wrong with it
                await asyncio.get_running_loop().run_in_executor(None, self.registry.inspect, plugin)
            known = self.registry.takes(plugin, "on_request", "body")
        return bool(known)

    async def answer(self, trigger: int, exchange: Exchange) -> Answer:
        """Answers a request through a trigger; for an event loop of the server's."""
        return await asyncio.wrap_future(self._mill.run(self._mill.answer(trigger, exchange)))

    async def next_piece(self, stream: Any) -> bytes | None:
        """The next piece of a streamed answer; None at its end."""
        piece: bytes | None = await asyncio.wrap_future(self._mill.run(self._mill.next_piece(stream)))
        return piece

    async def end_stream(self, stream: Any) -> None:
        """Ends a streamed answer before its last piece: the caller went away."""
        await asyncio.wrap_future(self._mill.run(stream.aclose()))

    def cancel(self, exchange: Exchange, reason: str) -> None:
        """The caller of a request went away: its run is asked to end."""
        exchange.cancelled = True
        if exchange.cancel is not None:
            self._mill.loop.call_soon_threadsafe(exchange.cancel, reason)
