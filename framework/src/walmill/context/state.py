"""What a run sees of the plugin state, and what it wants changed. Nothing leaves the run before its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from attrs import evolve

from walmill.cache.state import Space, Wish, weight
from walmill_hookspecs import LimitExceeded, WriteError
from walmill_worker.values import decode, encode

KEY_BYTES = 1024
"""A key is at most this long."""


class RunCache:
    """`ctx.cache` of one run over one space.

    Args:
        space: The space as it was when the run began.
        now: Time of the run, ns: decides what has ended.
        limit: Bytes that the space may take.
        shared: Makes the cache of the database, when it is first asked for.
    """

    def __init__(self, space: Space, *, now: int, limit: int, shared: Callable[[], RunCache] | None = None) -> None:
        self._space = space
        self._now = now
        self._limit = limit
        self._wishes: dict[str, Wish] = {}
        self._size = space.size
        self._make_shared = shared
        self._shared: RunCache | None = None
        self._closed = False

    def wishes(self) -> list[Wish]:
        """What the run wants changed, in the order in which keys were first touched."""
        return list(self._wishes.values())

    def close(self) -> None:
        """The hook has returned: the state can be read, and a change is refused, since no commit would hold it."""
        self._closed = True
        if self._shared is not None:
            self._shared.close()

    def _check_open(self) -> None:
        if self._closed:
            raise WriteError("the hook has returned and its commit is made; ctx.cache cannot be changed any more")

    def rebase(self, space: Space, now: int, done: Iterable[Wish] = ()) -> None:
        """Goes on upon a space in which some wishes are done.

        Args:
            space: The space.
            now: The time, ns.
            done: The wishes that are done; those that came while they were committed stay.
        """
        committed = {wish.key: wish for wish in done}
        left = [wish for key, wish in self._wishes.items() if wish is not committed.get(key)]
        dropped = [key for key, wish in committed.items() if key not in self._wishes and wish.kind != "delete"]
        self._space, self._wishes, self._size, self._now = space, {}, space.size, now
        for key in dropped:  # it was deleted again while it was not there yet
            self.delete(key)
        for wish in left:
            before = committed.get(wish.key)
            match wish.kind:
                case "incr" if before is not None and before.kind == "incr":
                    self.incr(wish.key, wish.by - before.by)
                case "incr":
                    self.incr(wish.key, wish.by)
                case "delete":
                    self.delete(wish.key)
                case _:
                    assert wish.value is not None
                    self._grow(wish.key, weight(wish.key, wish.value))
                    self._wishes[wish.key] = evolve(wish, version=self._version(wish.key))

    def _stored(self, key: str) -> bytes | None:
        entry = self._space.entries.get(key)
        return entry.value if entry is not None and entry.alive(self._now) else None

    def _value(self, key: str) -> bytes | None:
        wish = self._wishes.get(key)
        if wish is None:
            return self._stored(key)
        if wish.kind == "incr":
            stored = self._stored(key)
            return encode((0 if stored is None else decode(stored)) + wish.by)
        if wish.kind == "put" and wish.expires is not None and wish.expires <= self._now:
            return None
        return wish.value

    def get(self, key: str, default: Any = None) -> Any:
        """See `walmill_hookspecs.Cache.get`."""
        value = self._value(_checked(key))
        return default if value is None else decode(value)

    def get_encoded(self, key: str) -> bytes | None:
        """The same as bytes; None if there is no value."""
        return self._value(_checked(key))

    def put(self, key: str, value: Any, *, ttl: float | timedelta | None = None) -> None:
        """See `walmill_hookspecs.Cache.put`."""
        self._check_open()
        _checked(key)
        self.put_encoded(key, encode(value), ttl=ttl)

    def put_encoded(self, key: str, data: bytes, *, ttl: float | timedelta | None = None) -> None:
        """The same with the value as bytes."""
        self._check_open()
        _checked(key)
        expires = None
        if ttl is not None:
            seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
            if not seconds >= 0 or seconds > 3e9:
                raise ValueError(
                    f"ttl={ttl!r} for the key {key!r}; give seconds from 0 to 3,000,000,000, or a timedelta"
                )
            expires = self._now + round(seconds * 1e9)
        self._grow(key, weight(key, data))
        self._wishes[key] = Wish(key, "put", data, expires, version=self._version(key))

    def delete(self, key: str) -> bool:
        """See `walmill_hookspecs.Cache.delete`."""
        self._check_open()
        there = self._value(_checked(key)) is not None
        self._grow(key, 0)
        if key in self._space.entries:
            self._wishes[key] = Wish(key, "delete", version=self._version(key))
        else:
            self._wishes.pop(key, None)
        return there

    def incr(self, key: str, by: int = 1) -> int:
        """See `walmill_hookspecs.Cache.incr`."""
        self._check_open()
        value = self.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"the key {key!r} holds {value!r}; incr needs an int")
        if isinstance(by, bool) or not isinstance(by, int):
            raise TypeError(f"incr(by={by!r}) for the key {key!r}; give an int")
        wish = self._wishes.get(key)
        if wish is None or wish.kind == "incr":
            self._grow(key, weight(key, encode(value + by)))
            self._wishes[key] = Wish(key, "incr", by=by + (0 if wish is None else wish.by))
        else:
            self.put(key, value + by)
        return value + by

    def keys(self, prefix: str = "") -> list[str]:
        """See `walmill_hookspecs.Cache.keys`."""
        names = {*self._space.entries.keys(), *self._wishes}
        return sorted(name for name in names if name.startswith(prefix) and self._value(name) is not None)

    @property
    def shared(self) -> RunCache:
        """See `walmill_hookspecs.Cache.shared`."""
        if self._make_shared is None:
            return self
        if self._shared is None:
            self._shared = self._make_shared()
            if self._closed:
                self._shared.close()
        return self._shared

    @property
    def shared_or_none(self) -> RunCache | None:
        """The shared cache if the run has used it."""
        return self._shared

    def _version(self, key: str) -> int:
        entry = self._space.entries.get(key)
        return 0 if entry is None else entry.version

    def _grow(self, key: str, new: int) -> None:
        """Counts a key's new weight against the limit."""
        old = self._value(key)
        size = self._size + new - (0 if old is None else weight(key, old))
        if new and size > self._limit:
            ended = sum(
                weight(name, entry.value) for name, entry in self._space.entries.items() if not entry.alive(self._now)
            )
            if size - ended > self._limit:
                raise LimitExceeded(
                    f"ctx.cache would hold {size - ended:,} bytes with the key {key!r}; the limit is {self._limit:,}: "
                    "delete keys, give them a ttl, or write rows to a table instead"
                )
            for name, entry in self._space.entries.items():  # make room with what has ended anyway
                if not entry.alive(self._now) and name not in self._wishes and name != key:
                    self._wishes[name] = Wish(name, "delete", version=entry.version)
                    size -= weight(name, entry.value)
        self._size = size


def _checked(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r} is a {type(key).__name__}; keys of ctx.cache are str")
    size = len(key.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= KEY_BYTES:
        raise ValueError(f"the key {key[:40]!r} has {size} bytes; keys have 1 to {KEY_BYTES:,}")
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise ValueError(f"the key {key[:40]!r} holds a lone surrogate; keys are valid Unicode")
    return key
