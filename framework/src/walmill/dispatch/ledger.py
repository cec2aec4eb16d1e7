"""What became of runs: counted, measured, written down, and told to those who watch."""

from __future__ import annotations

from collections.abc import Callable

from walmill.clock import Clock
from walmill.dispatch.history import History, RunRow
from walmill.dispatch.tally import Tally
from walmill.errors import described
from walmill.model.catalog import INTERNAL
from walmill.observe.log import get_logger
from walmill.plugins.registry import Registry
from walmill.store.submission import Submission, Ticket
from walmill_worker.binding import Binding
from walmill_worker.calling import call

log = get_logger("walmill.mill")


class Ledger:
    """The ledger. Runs are recorded on the mill's loop, lines of log from any thread.

    Args:
        submit: Queues a submission.
        registry: The plugins.
        clock: The time.

    Attributes:
        history: What goes into the tables of `_internal`.
        counts: Runs since the start, by database, trigger and status.
        tallies: What they took, by database and trigger.
    """

    def __init__(self, submit: Callable[[Submission, Ticket | None], Ticket], registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._watchers: list[tuple[str, Binding]] = []
        self.history = History(submit)
        self.counts: dict[tuple[str, str, str], int] = {}
        self.tallies: dict[tuple[str, str], Tally] = {}

    @property
    def watchers(self) -> tuple[str, ...]:
        """The names of the plugins that watch runs."""
        return tuple(name for name, _ in self._watchers)

    def find_watchers(self) -> None:
        """Looks for plugins that watch runs; in a thread that may wait.

        Raises:
            Exception: One of them cannot be bound.
        """
        self._watchers = self._registry.with_hook("on_run_end")

    def record(self, row: RunRow) -> None:
        """Takes what became of a run."""
        key = (row.database, row.trigger, row.status)
        self.counts[key] = self.counts.get(key, 0) + 1
        tally = self.tallies.get(key[:2])
        if tally is None:
            tally = self.tallies[key[:2]] = Tally()
        tally.add(row)
        if row.database != INTERNAL:
            self.history.run(row)
        if not self._watchers:
            return
        record = row.to_record()
        for name, binding in self._watchers:
            try:
                call(binding.hooks["on_run_end"], {"record": record})
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                log.warning("on_run_end failed", plugin=name, error=described(error))

    def say(self, database: str, trigger: str, run_id: str, level: str, text: str) -> None:
        """Takes a line that a run said: to the server's log at once, to `_internal.logs` with the next block."""
        write = log.error if level in ("ERROR", "CRITICAL") else log.warning if level == "WARNING" else log.info
        write(text, database=database, trigger=trigger, run=run_id)
        if database != INTERNAL:
            self.history.log(database, trigger, run_id, self._clock.now_ns(), level, text)
