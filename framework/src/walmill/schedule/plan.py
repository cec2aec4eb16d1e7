"""Which due times to run, and when to look again. Pure: schedules, times and cursors in, due times out.

A due time is known by its instant and is handed out at most once. That settles what a jump of the clock means:

- On: the due times that were passed are missed; the policy decides about them.
- Back by up to `JUMP_LIMIT`: nothing is due until the clock has passed the last due time again. Running the same due time
  twice would count its window twice; a pause of minutes does not.
- Back by more: the clock was wrong before (a machine that started with a clock years ahead, say), and waiting for it could
  take years. The schedule counts anew from now; due times that come again are run again.

Nobody is told when a clock jumps, so a wait is never longer than `MAX_WAIT`.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from datetime import tzinfo
from typing import Generic, Protocol, TypeVar

from attrs import define, field, frozen

from walmill.model.trigger import MissedPolicy
from walmill.units import DAY, MINUTE, SECOND

JUMP_LIMIT = 10 * MINUTE
"""A clock that is set back by more was wrong before. NTP corrects seconds; a wrong hour or day is a mistake."""
MAX_WAIT = MINUTE
"""The longest wait before the clock is looked at again, ns."""
LATE = SECOND
"""With the policy `skip`, a due time that is later than this, ns, counts as missed. A busy loop is late by a tenth of it."""
LOOK_BACK = 9 * 366 * DAY
"""So far back is looked for the due time before another one, ns: 29 February may be eight years ago."""
BATCH = 100
"""So many due times are handed out at a time with the policy `all`."""


class Schedule(Protocol):
    """Names due times. Hashable: equal schedules have the same due times."""

    @property
    def zone(self) -> tzinfo:
        """The time zone in which it was written."""
        ...

    @property
    def spacing(self) -> int:
        """No two due times are closer than this, ns."""
        ...

    def next_after(self, instant: int) -> int | None:
        """The first due time strictly after an instant; None if there is none. Never falls when the instant grows."""
        ...

    def newest(self, after: int, until: int) -> tuple[int, int] | None:
        """The newest due time in (after, until], and how many there are (a cron schedule stops counting at a bound)."""
        ...


def due_before(schedule: Schedule, instant: int) -> int | None:
    """The last due time before an instant, ns; None if there is none within `LOOK_BACK`."""
    back = schedule.spacing
    while (found := schedule.newest(instant - 1 - back, instant - 1)) is None and back < LOOK_BACK:
        back *= 8  # small steps first: a cron schedule counts what it finds
    return None if found is None else found[0]


@frozen
class Due:
    """A due time to run now.

    Attributes:
        scheduled_for: The due time, ns.
        previous: The due time that was finished before; None for the first.
        missed: How many due times between the two were dropped.
    """

    scheduled_for: int
    previous: int | None = None
    missed: int = 0


@frozen
class Position:
    """Where a schedule stands.

    Attributes:
        since: Due times after this one are owed, ns.
        fired: The due time that was finished last; None before the first.
        dropped: How many due times were dropped since the last one that was handed out.
    """

    since: int
    fired: int | None = None
    dropped: int = 0


@frozen
class Plan:
    """What to do now.

    Attributes:
        due: Due times to run, oldest first.
        position: Where the schedule stands once they are handed out.
    """

    due: tuple[Due, ...]
    position: Position


def start(schedule: Schedule, fired: int | None, since: int, now: int, policy: MissedPolicy) -> Position:
    """Where a schedule stands when the engine opens it.

    With `skip`, everything that was due before now is dropped: also the due time that ran when the engine died.

    Args:
        schedule: The schedule.
        fired: Its durable cursor: the due time that was recorded last, ns.
        since: When the trigger was created, changed or enabled, ns; earlier due times do not count.
        now: Wall time, ns.
        policy: What becomes of due times that were missed.
    """
    position = settle(Position(since if fired is None else max(fired, since), fired), now)
    if policy != "skip" or position.since >= now:
        return position
    owed = schedule.newest(position.since, now)
    return Position(now, position.fired, 0 if owed is None else owed[1])


def settle(position: Position, now: int) -> Position:
    """The position, or one that counts anew from now if it is so far ahead that the clock was wrong when it was made."""
    return position if position.since <= now + JUMP_LIMIT else Position(now)


def plan(
    schedule: Schedule,
    position: Position,
    now: int,
    policy: MissedPolicy,
    *,
    limit: int = BATCH,
    first: int | None = None,
) -> Plan:
    """What is due.

    Of several due times that are owed, `latest` runs the newest one, `all` each of them, oldest first, and `skip` the newest
    one if it is not later than `LATE`. What is handed out, or dropped, is not handed out again by the position that results.

    Args:
        schedule: The schedule.
        position: Where it stands.
        now: Wall time, ns.
        policy: What becomes of due times that were missed.
        limit: At most so many due times, at least 1; what is left over with `all` is handed out by the next call.
        first: The first due time after `position.since`, if it is known.

    Returns:
        The plan; without due times it may still move the position.
    """
    position = settle(position, now)
    if first is None or first <= position.since:
        first = schedule.next_after(position.since)
    if first is None or first > now:
        return Plan((), position)
    if policy == "all":
        return _plan_all(schedule, position, now, limit, first)
    newest, count = first, 1
    if now - first >= schedule.spacing:
        newest, count = schedule.newest(position.since, now) or (first, 1)
    if policy == "skip" and now - newest > LATE:
        return Plan((), Position(newest, position.fired, position.dropped + count))
    due = Due(newest, position.fired, position.dropped + count - 1)
    return Plan((due,), Position(newest, position.fired))


def _plan_all(schedule: Schedule, position: Position, now: int, limit: int, first: int) -> Plan:
    found: list[Due] = []
    due: int | None = first
    while due is not None and due <= now and len(found) < limit:
        found.append(Due(due, found[-1].scheduled_for if found else position.fired, 0 if found else position.dropped))
        due = schedule.next_after(due)
    return Plan(tuple(found), Position(found[-1].scheduled_for, position.fired))


Key = TypeVar("Key", bound=Hashable)


@define(eq=False)
class _Group(Generic[Key]):
    """All triggers with one schedule.

    Attributes:
        schedule: The schedule.
        at: The instant from which `next` was computed.
        next: The first due time after `at`; None if there is none, or while it is not computed.
        members: The keys of the triggers.
    """

    schedule: Schedule
    at: int
    next: int | None = None
    members: dict[Key, None] = field(factory=dict)


@define(eq=False)
class _Member(Generic[Key]):
    """One trigger.

    Attributes:
        group: Its group.
        position: Where it stands.
        policy: What becomes of due times that were missed.
        concurrency: How many of its due times may run at a time.
        running: Due times that were handed out and are not done with.
        done: Due times that are done with, from the last one before which nothing runs.
    """

    group: _Group[Key]
    position: Position
    policy: MissedPolicy
    concurrency: int
    running: set[int] = field(factory=set)
    done: set[int] = field(factory=set)

    def done_before_running(self) -> int | None:
        """The last due time that is done with and before which nothing runs."""
        first = min(self.running, default=None)
        return max((instant for instant in self.done if first is None or instant < first), default=None)


class Timeline(Generic[Key]):
    """Many schedules at once. Pure, and not for several threads.

    Schedules that are equal form a group: their due time is computed once, and after it was handed out. So a full minute on
    which thousands are due costs one step in the heap before the first of them runs.

    The caller runs what `due` gives, tells `fired` when each is done with, and looks again at `next_wake`.
    """

    def __init__(self) -> None:
        self._members: dict[Key, _Member[Key]] = {}
        self._groups: dict[Schedule, _Group[Key]] = {}
        self._heap: list[tuple[int, int, _Group[Key]]] = []
        self._pushed = 0
        self._stale: dict[_Group[Key], None] = {}
        self._ready: dict[Key, None] = {}
        self._seen: int | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def add(
        self,
        key: Key,
        schedule: Schedule,
        *,
        fired: int | None,
        since: int,
        now: int,
        policy: MissedPolicy = "latest",
        concurrency: int = 1,
    ) -> None:
        """Adds a schedule, or puts it in place of the one with this key.

        Args:
            key: Its name here.
            schedule: The schedule.
            fired: Its durable cursor, ns; None if it never ran.
            since: When the trigger was created, changed or enabled, ns.
            now: Wall time, ns.
            policy: What becomes of due times that were missed.
            concurrency: So many of its due times may run at a time, at least 1.
        """
        self.remove(key)
        position = start(schedule, fired, since, now, policy)
        group = self._groups.get(schedule)
        if group is None:
            group = self._groups[schedule] = _Group(schedule, position.since)
            self._stale[group] = None
        else:
            self._reach_back(group, position.since)
        group.members[key] = None
        member = _Member(group, position, policy, concurrency)
        if position.fired is not None:
            member.done.add(position.fired)
        self._members[key] = member
        self._ready[key] = None

    def remove(self, key: Key) -> None:
        """Forgets a schedule; one that is not there is no error. `fired` for its runs is ignored from now on."""
        member = self._members.pop(key, None)
        self._ready.pop(key, None)
        if member is None:
            return
        group = member.group
        del group.members[key]
        if not group.members:
            # its entry in the heap is recognised by the empty group and left out when it comes up
            del self._groups[group.schedule]
            self._stale.pop(group, None)

    def due(self, now: int) -> list[tuple[Key, Due]]:
        """What has to run now; each due time is handed out once. A schedule with `concurrency` runs gets none meanwhile.

        Args:
            now: Wall time, ns.
        """
        self._notice_jump(now)
        self._refresh()
        ready = self._ready
        self._ready = {}
        found: list[tuple[Key, Due]] = []
        plans: dict[tuple[_Group[Key], Position, MissedPolicy, int], Plan] = {}
        while self._heap and self._heap[0][0] <= now:
            at, _, group = heapq.heappop(self._heap)
            if at != group.next or not group.members:
                continue
            for key in group.members:
                ready.pop(key, None)
                self._plan(key, now, plans, found)
            newest = at
            if now - at >= group.schedule.spacing:
                newest = (group.schedule.newest(at, now) or (at, 0))[0]
            group.at, group.next = newest, None
            self._stale[group] = None
        for key in ready:
            self._plan(key, now, plans, found)
            member = self._members[key]
            if len(member.running) < member.concurrency:
                # what it owes is ahead again, after the clock was set back while it ran
                self._reach_back(member.group, member.position.since)
        return found

    def next_wake(self, now: int) -> int | None:
        """When to call `due` again, ns, at most `MAX_WAIT` from now; None without schedules.

        Due times of the schedules that `due` just handed out are computed here: call it after they were started.

        Args:
            now: Wall time, ns.
        """
        self._refresh()
        if not self._members:
            return None
        if self._ready:
            return now
        while self._heap and (self._heap[0][0] != self._heap[0][2].next or not self._heap[0][2].members):
            heapq.heappop(self._heap)
        return min(self._heap[0][0], now + MAX_WAIT) if self._heap else now + MAX_WAIT

    def next_due(self, key: Key, now: int) -> int | None:
        """The due time that comes next, for lists: ns; None if the key is unknown or no due time is left."""
        member = self._members.get(key)
        if member is None:
            return None
        return member.group.schedule.next_after(max(member.position.since, now))

    def cursor(self, key: Key, due: Due) -> int | None:
        """What the durable cursor becomes with the commit of a run: never beyond a due time that still runs.

        Args:
            key: Name of the schedule.
            due: The due time whose run is to be committed.

        Returns:
            ns; None if an earlier due time still runs and none was done with before.
        """
        member = self._members.get(key)
        if member is None:
            return due.scheduled_for
        others = member.running - {due.scheduled_for}
        first = min(others, default=None)
        done = (instant for instant in (*member.done, due.scheduled_for) if first is None or instant < first)
        return max(done, default=None)

    def fired(self, key: Key, due: Due) -> None:
        """Tells that a due time is done with: committed, or given up. The place is free for the next one.

        Args:
            key: Name of the schedule; unknown ones are ignored, for a trigger may be removed while it runs.
            due: What `due` had given.
        """
        member = self._members.get(key)
        if member is None or due.scheduled_for not in member.running:
            return
        member.running.discard(due.scheduled_for)
        self._ready[key] = None
        before = member.position
        if due.scheduled_for > before.since:
            # the schedule was set back while this ran: it belongs to a time that was wrong
            return
        done = due.scheduled_for if before.fired is None else max(before.fired, due.scheduled_for)
        member.position = Position(before.since, done, before.dropped)
        member.done.add(due.scheduled_for)
        reached = member.done_before_running()
        if reached is not None:
            member.done = {instant for instant in member.done if instant >= reached}

    def _plan(
        self,
        key: Key,
        now: int,
        plans: dict[tuple[_Group[Key], Position, MissedPolicy, int], Plan],
        found: list[tuple[Key, Due]],
    ) -> None:
        """Plans one schedule; equal positions in a group share the plan."""
        member = self._members[key]
        free = member.concurrency - len(member.running)
        if free <= 0:
            return
        group = member.group
        known = (group, member.position, member.policy, free)
        made = plans.get(known)
        if made is None:
            # `next` is the first due time of all whose position lies between the instant it was computed from and itself
            hint = group.next if group.at <= member.position.since else None
            made = plans[known] = plan(group.schedule, member.position, now, member.policy, limit=free, first=hint)
        member.position = made.position
        for due in made.due:
            # after a jump back the same instant may still run
            if due.scheduled_for not in member.running:
                member.running.add(due.scheduled_for)
                found.append((key, due))

    def _reach_back(self, group: _Group[Key], since: int) -> None:
        """Lets a group count from an earlier instant: one of its members may owe due times that are past for the others."""
        if since < group.at:
            group.at, group.next = since, None
            self._stale[group] = None

    def _refresh(self) -> None:
        """Computes the due times that are not known and puts them into the heap."""
        for group in self._stale:
            group.next = group.schedule.next_after(group.at)
            if group.next is not None:
                self._pushed += 1
                heapq.heappush(self._heap, (group.next, self._pushed, group))
        self._stale.clear()
        if len(self._heap) > 2 * len(self._groups) + 64:
            # entries of groups that are gone, or were computed anew
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].next and entry[2].members]
            heapq.heapify(self._heap)

    def _notice_jump(self, now: int) -> None:
        """After a jump back over the limit, everything that is ahead of the clock counts anew from now."""
        jumped = self._seen is not None and now < self._seen - JUMP_LIMIT
        self._seen = now if jumped or self._seen is None else max(self._seen, now)
        if not jumped:
            return
        for key, member in self._members.items():
            settled = settle(member.position, now)
            if settled is not member.position:
                member.position = settled
                member.done.clear()
            self._ready[key] = None
        for group in self._groups.values():
            group.at, group.next = now, None
            self._stale[group] = None
