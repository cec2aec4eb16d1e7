"""What an engine offers to have triggers go through rows again: the log, files where the log is gone, dead letters."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from walmill.backfill import KEY, Backfiller, Job, job_of, new_job
from walmill.cache.state import Wish, backfill_space
from walmill.dispatch.again import GiveAgain, read_letters
from walmill.dispatch.history import DEAD_LETTERS
from walmill.errors import Conflict, InvalidRequest
from walmill.keeper import Keeper
from walmill.model.catalog import INTERNAL
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.rehearsals import Rehearsals
from walmill.store.draft import Draft
from walmill.store.submission import Flush, Submission
from walmill.store.view import View
from walmill.triggers import manage
from walmill.triggers.spec import parse_spec
from walmill.units import parse_time

LETTERS = "dead-letters"


class Replays(Rehearsals):
    """Going through rows again."""

    _keeper: Keeper | None
    _backfiller: Backfiller
    _replaying: threading.Lock

    def replay_trigger(self, database: str, name: str, start: str | int, to: str | int | None = None) -> dict[str, Any]:
        """Has an on_write trigger go through rows again; what comes in meanwhile waits, and all of it survives a restart.

        What the log has comes commit by commit, with `batch.kind` and `run.source` set to `replay`. What it has not got any more
        comes from files, as rows are in tables now, table by table in the order of their times, as `backfill`; a file that
        holds one of the commits is given whole. Dead letters come once: those that were given again are marked.

        Args:
            database: Name of its database.
            name: Its name.
            start: `start`, a sequence, or a time: the first commit at or after it. `dead-letters` for those of the trigger.
            to: The last sequence, or a time: the last commit before it (for dead letters, the last one written before it). None
                for all that the trigger has had.

        Returns:
            `from`, `to` and `resume`: the first and last sequence, and after which one it goes on then; `backfill`, how many
            rows come from files first. For dead letters `rows`, `letters` (batches), `through` (their last commit), and
            `refused`, why some cannot be given.

        Raises:
            InvalidRequest: If it is no on_write trigger, or there is nothing to be done again.
            Conflict: If it is not enabled, or a backfill of it goes on.
        """
        with self._replaying:
            trigger = self.view().catalog.trigger(database, name)
            if job_of(self.view(), trigger.id) is not None:
                raise Conflict(
                    f"the trigger {name!r} is being given rows from files; wait for the end of that, or end it "
                    f"(`walmill replay trigger -d {database} {name} --stop`)"
                )
            if start == LETTERS:
                return self._replay_letters(database, trigger, to)
            self._mill.submit(Flush()).result()  # where it is by now
            begin = 1 if start == "start" else self._start_at(start)
            last = None
            if to is not None:
                last = int(to) if isinstance(to, int) or to.isdigit() else self._wal.sequence_at(parse_time(to)) - 1
            first = self._wal.first_sequence
            if begin < first and self._keeper is not None:
                return self._fill(database, trigger, begin, last, first)
            begin = max(begin, first) if start == "start" else begin
            made: Trigger = self.define(lambda draft: manage.replay_trigger(draft, database, name, begin, last, first))
            assert made.replay is not None
            return {**dict(zip(("from", "to", "resume"), made.replay, strict=True)), "backfill": 0}

    def _fill(self, database: str, trigger: Trigger, begin: int, last: int | None, first: int) -> dict[str, Any]:
        """Begins with files, and goes on with the log."""
        if parse_spec(trigger.spec).kind != "write":
            raise InvalidRequest(f"a replay is for on_write triggers; the spec of {trigger.name!r} is {trigger.spec!r}")
        if not trigger.enabled:
            raise Conflict(f"the trigger {trigger.name!r} is {trigger.state}; enable it first, then replay it")
        view, through = self.view(), self.in_files()
        done = manage.has_had(trigger, view.cursors.get(trigger.id) or Cursor())
        end = done if last is None else min(last, done)
        if begin > end:
            raise InvalidRequest(
                f"there is nothing from {begin} to {end} that the trigger {trigger.name!r} has had: it is at {done}; begin at or "
                "before it"
            )
        job = new_job(view, trigger, begin, min(through, end), (through + 1, end) if through < end else None)
        if not job.tables and job.then is None:
            raise InvalidRequest(
                f"the log begins with the commit {first}, and no file holds rows of the commits {begin} to {end} for the trigger "
                f"{trigger.name!r}"
            )
        wish = Wish(KEY, "put", job.to_bytes())

        def decide(draft: Draft) -> None:
            draft.change_state(backfill_space(trigger.id), [wish])

        self.define(decide)
        self._backfiller.wake()
        return {"from": begin, "to": end, "resume": done, "backfill": job.total}

    def stop_replay(self, database: str, name: str) -> bool:
        """Ends what `replay_trigger` began, where it is now; the trigger goes on with what is new.

        Returns:
            Whether there was anything to end.
        """
        trigger = self.view().catalog.trigger(database, name)
        self._mill.submit(Flush()).result()

        def decide(draft: Draft) -> bool:
            entry = draft.view.state.space(backfill_space(trigger.id)).entries.get(KEY)
            if entry is not None:
                draft.change_state(backfill_space(trigger.id), [Wish(KEY, "delete", version=entry.version)])
            return manage.stop_replay(draft, database, name) or entry is not None

        ended: bool = self.define(decide)
        return ended

    def backfill(self, trigger: int) -> Job | None:
        """How far a backfill of a trigger is; None if there is none."""
        return job_of(self.view(), trigger)

    def _replay_letters(self, database: str, trigger: Trigger, to: str | int | None) -> dict[str, Any]:
        if not trigger.enabled:
            raise Conflict(f"the trigger {trigger.name!r} is {trigger.state}; enable it first, then replay it")
        if isinstance(to, int) or (to is not None and to.isdigit()):
            raise InvalidRequest(f"dead letters have no sequence of their own, so {to!r} ends nothing; give a time")
        view = self.view()
        owner = view.catalog.find_database(INTERNAL)
        table = view.catalog.find_table(owner, DEAD_LETTERS.name)
        found: pa.Table | None = None
        if table is not None:
            params: dict[str, Any] = {"database": database, "trigger": trigger.name}
            condition = "database = $database AND trigger = $trigger"
            if "replayed_at" in table.schema.fields:
                condition += " AND replayed_at IS NULL"
            if to is not None:
                condition += " AND time < to_timestamp_nanos($until)"
                params["until"] = parse_time(to)
            found = self._mill.query(
                view,
                INTERNAL,
                f'SELECT database, trigger, "table", line, run_key, time FROM {DEAD_LETTERS.name} '  # noqa: S608 - names of ours
                f"WHERE {condition} ORDER BY time",
                params,
            )
        if found is None or not found.num_rows:
            raise InvalidRequest(
                f"the trigger {trigger.name!r} has no dead letters that were not given again; the table {DEAD_LETTERS.name!r} of "
                f"{INTERNAL!r} has all"
            )
        rows = letters = 0
        refused: list[str] = []
        through: int | None = None
        tickets = []
        for one in read_letters(found, database, view.catalog, self._mill.now_ns()):
            refused += one.refused
            if one.count:
                again = GiveAgain(trigger=trigger.id, kind="replay", rows=one.rows, notes=one.notes)
                tickets.append(self._mill.submit(again))
                rows, letters = rows + one.count, letters + 1
        for ticket in tickets:
            through = ticket.result().sequence
        return {"rows": rows, "letters": letters, "through": through, "refused": refused}

    # ---- what a backfill needs

    def rows_of(self, view: View, database: str, sql: str, params: Mapping[str, Any]) -> pa.Table:
        """Runs SQL on a view."""
        return self._mill.query(view, database, sql, params)

    def commit(self, submission: Submission) -> int | None:
        """Commits something, and waits; its sequence."""
        sequence = self._mill.submit(submission).result().sequence
        self._mill.wait_until_current()
        return sequence

    def behind(self, trigger: int) -> bool:
        """Whether a trigger has not done all that it was given."""
        self._mill.wait_until_current()
        lag: int | None = self._mill.status(trigger)["lag_commits"]
        return lag != 0

    def first_sequence(self) -> int:
        """The first sequence that the log has."""
        return self._wal.first_sequence

    def in_files(self) -> int:
        """All commits up to this one are in files."""
        manifest = None if self._keeper is None else self._keeper.manifest
        return 0 if manifest is None else manifest.sequence
