"""The durable state of plugins at one sequence: spaces of keys and values. Immutable.

A space belongs to a trigger (`t:7`; `b:7` says how far a backfill of it is) or to a database (`d:3`, `ctx.cache.shared`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgpack
from attrs import evolve, field, frozen
from rpds import HashTrieMap

from walmill.errors import Conflict
from walmill_worker.values import decode, encode

ENTRY_OVERHEAD = 64
"""Bytes that a key costs beside its name and its value; counted against the limit."""


def trigger_space(trigger: int) -> str:
    """The name of a trigger's space."""
    return f"t:{trigger}"


def backfill_space(trigger: int) -> str:
    """The name of the space that says how far a backfill of a trigger is."""
    return f"b:{trigger}"


def database_space(database: int) -> str:
    """The name of a database's shared space."""
    return f"d:{database}"


@frozen
class Entry:
    """One value: its bytes, when it ends (ns; None never), and the sequence that put it."""

    value: bytes
    expires: int | None
    version: int

    def alive(self, now: int) -> bool:
        """Whether it is still there at a time, ns."""
        return self.expires is None or now < self.expires


@frozen
class Space:
    """All entries of one space, and how many bytes they take."""

    entries: HashTrieMap[str, Entry] = field(factory=HashTrieMap)
    size: int = 0

    def put(self, key: str, entry: Entry) -> Space:
        """This space with a key set."""
        old = self.entries.get(key)
        grown = weight(key, entry.value) - (0 if old is None else weight(key, old.value))
        return Space(self.entries.insert(key, entry), self.size + grown)

    def drop(self, key: str) -> Space:
        """This space without a key."""
        old = self.entries.get(key)
        return self if old is None else Space(self.entries.remove(key), self.size - weight(key, old.value))


def weight(key: str, value: bytes) -> int:
    """How many bytes a key counts."""
    return len(key.encode()) + len(value) + ENTRY_OVERHEAD


Change = tuple[str, bytes | None, int | None]
"""What a commit does to a key: its new value and end, or None to remove it."""


@frozen
class Wish:
    """What a run wants done to a key; it becomes a `Change` in the order of the log.

    Attributes:
        key: The key.
        kind: `put`, `delete`, or `incr` (which merges with other runs' additions).
        value: The bytes for `put`.
        expires: When it ends, for `put`.
        by: What `incr` adds.
        version: The version of the key that the run saw; 0 if there was none.
    """

    key: str
    kind: Literal["put", "delete", "incr"]
    value: bytes | None = None
    expires: int | None = None
    by: int = 0
    version: int = 0


@frozen
class State:
    """All spaces at one sequence."""

    spaces: HashTrieMap[str, Space] = field(factory=HashTrieMap)

    def space(self, name: str) -> Space:
        """A space; empty if nothing was put into it."""
        found = self.spaces.get(name)
        return _EMPTY if found is None else found

    def apply(self, name: str, changes: Iterable[Change], sequence: int) -> State:
        """This state after the changes of a commit."""
        space = self.space(name)
        for key, value, expires in changes:
            space = space.drop(key) if value is None else space.put(key, Entry(value, expires, sequence))
        return evolve(self, spaces=self.spaces.insert(name, space))

    def drop(self, name: str) -> State:
        """This state without a space."""
        return evolve(self, spaces=self.spaces.discard(name))

    def resolve(self, name: str, wishes: Sequence[Wish], now: int) -> list[Change]:
        """What wishes come to, here and now.

        Raises:
            Conflict: If a key that a run puts or deletes was changed by another run since it was read.
        """
        space = self.space(name)
        changes: list[Change] = []
        for wish in wishes:
            entry = space.entries.get(wish.key)
            alive = entry is not None and entry.alive(now)
            if wish.kind == "incr":
                value = decode(entry.value) if entry is not None and alive else 0
                if isinstance(value, bool) or not isinstance(value, int):
                    raise Conflict(
                        f"the key {wish.key!r} holds {value!r} since another run changed it; incr needs an int"
                    )
                changes.append(
                    (wish.key, encode(value + wish.by), entry.expires if entry is not None and alive else None)
                )
                continue
            version = 0 if entry is None else entry.version
            if version != wish.version:
                raise Conflict(
                    f"another run changed the key {wish.key!r} since this one read it; a repeated run reads it anew"
                )
            changes.append((wish.key, wish.value if wish.kind == "put" else None, wish.expires))
        return changes


_EMPTY = Space()


def pack_changes(changes: Sequence[Change]) -> bytes:
    """Changes as the bytes of a state section."""
    return bytes(msgpack.packb([list(change) for change in changes]))


def unpack_changes(data: Any) -> list[Change]:
    """Changes from the bytes of a state section."""
    return [(key, value, expires) for key, value, expires in msgpack.unpackb(bytes(data))]
