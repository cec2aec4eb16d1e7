"""A trigger: what binds a plugin to an event in a database, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field, frozen

ErrorPolicy = Literal["retry", "skip", "disable"]
TriggerState = Literal["enabled", "disabled", "paused"]
MissedPolicy = Literal["latest", "all", "skip"]

BY_A_PERSON = "disabled by a person"
CREATED_DISABLED = "created disabled"
RETENTION = "retention"
"""Reasons why a trigger is not enabled; an error has its own text."""


@frozen(kw_only=True)
class Trigger:
    """A trigger definition.

    Attributes:
        id: Given once; never used again.
        database_id: Its database.
        name: Unique in its database.
        plugin: Name of the entry point.
        spec: The event, in its canonical text.
        arguments: As they were given: text or JSON types.
        policy: What a failed run means.
        attempts: How many attempts `retry` makes before the dead letter.
        max_concurrency: How many runs at a time.
        max_batch_rows: About how many rows one batch holds; a commit is never cut.
        max_batch_wait: How long a batch with fewer rows waits for more, ns.
        breaker: After so many failures of different batches in a row it is paused; 0 for never.
        methods: HTTP methods of a request trigger.
        missed: What becomes of due times that were missed.
        grants: Other databases that its runs may read and write; `*` for all.
        derived: Whether `all_tables` and patterns see rows that on_write runs wrote.
        jitter: Up to how long after its due time a run of a schedule begins, ns.
        executor: Where its hooks run.
        limits: What its runs may use, by the names of `walmill.settings.limits.LIMITS`; what is not there is the server's.
        run_async: InfluxDB's setting, as it was given; it became `max_concurrency`.
        state: `enabled`; `disabled` by a person or the policy; `paused` by the engine.
        reason: Why it is not enabled.
        traceback: The traceback of the failure that disabled it.
        warning: What it did not see although it should have, because the log that held it was gone; None if there is nothing.
        replay: What is done again: from which sequence, through which, and where it goes on then; None if nothing ever was.
        generation: Raised by every change; a run of an older generation cannot commit.
        created_at: ns since the epoch.
        changed_at: ns since the epoch; a schedule counts from here.
    """

    id: int
    database_id: int
    name: str
    plugin: str
    spec: str
    arguments: Mapping[str, Any] = field(factory=dict)
    policy: ErrorPolicy = "retry"
    attempts: int = 5
    max_concurrency: int = 1
    max_batch_rows: int = 100_000
    max_batch_wait: int = 0
    breaker: int = 20
    methods: tuple[str, ...] = ("GET", "POST")
    missed: MissedPolicy = "latest"
    grants: tuple[str, ...] = ()
    derived: bool = False
    jitter: int = 0
    executor: str = "inline"
    limits: Mapping[str, Any] = field(factory=dict)
    run_async: bool = False
    state: TriggerState = "enabled"
    reason: str | None = None
    traceback: str | None = None
    warning: str | None = None
    replay: tuple[int, int, int] | None = None
    generation: int = 1
    created_at: int = 0
    changed_at: int = 0

    @property
    def enabled(self) -> bool:
        """Whether it gets events."""
        return self.state == "enabled"

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trigger:
        """From what `to_json` gave; members that a later version added are left out."""
        known = {attribute.name for attribute in attrs.fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        for name in ("methods", "grants"):
            if name in given:
                given[name] = tuple(given[name])
        if given.get("replay") is not None:
            given["replay"] = tuple(given["replay"])
        return cls(**given)
