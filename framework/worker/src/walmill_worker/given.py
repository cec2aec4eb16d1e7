"""What a plugin gives to `ctx.write` and `ctx.query` in a worker, on its way to the engine, which checks it.

Whether something can be written is said in one place, the engine. So a value of a kind that no column takes crosses as well:
as a stand-in with the name of its class and its text, over which the engine says what it would have said of the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgpack
import numpy as np

from walmill_hookspecs import Line
from walmill_worker.values import extend, restore

_OPAQUE, _LINE, _UUID = 100, 101, 102
_SHOWN = 120


def pack_given(value: Any) -> bytes:
    """Rows, lines or parameters as bytes."""
    packed: bytes = msgpack.packb(value, default=_extend, strict_types=True, unicode_errors="surrogatepass")
    return packed


def unpack_given(data: bytes) -> Any:
    """What `pack_given` was given; values that no column takes are stand-ins.

    Raises:
        ValueError: If it is something else.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_restore, strict_map_key=False, unicode_errors="surrogatepass")
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with bytes of a stranger
        raise ValueError(f"what was given cannot be read: {type(error).__name__}") from None


def listed(data: Iterable[Any]) -> list[Any]:
    """Rows as a list that can be packed: mappings of any kind become dicts."""
    return [dict(row) if isinstance(row, Mapping) else row for row in data]


def _extend(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, Line):
        return msgpack.ExtType(_LINE, pack_given([value.table, value.tags, value.fields, value.time]))
    if isinstance(value, UUID):
        return msgpack.ExtType(_UUID, value.bytes)
    if isinstance(value, datetime) and kind is not datetime:
        return _instant(value)
    if isinstance(value, np.generic) and not isinstance(value, np.uint64):
        plain = value.item()
        return plain if type(plain) in (int, float, bool, str) else _opaque(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and kind is not int and getattr(kind, "walmill_type", None) != "uint64":
        return int(value)
    if isinstance(value, list):
        return list(value)
    try:
        return extend(value)
    except TypeError:
        return _opaque(value)


def _instant(value: datetime) -> Any:
    """A datetime of a class of its own, such as pandas' Timestamp, which has nanoseconds; NaT is one without a time."""
    try:
        if value.utcoffset() is None:
            return _opaque(value)
        nanosecond = getattr(value, "nanosecond", 0)
        if nanosecond:
            return int(getattr(value, "value"))  # noqa: B009 - pandas' name for ns since the epoch
        plain = datetime.fromtimestamp(0, value.tzinfo)
        return extend(
            plain.replace(
                year=value.year,
                month=value.month,
                day=value.day,
                hour=value.hour,
                minute=value.minute,
                second=value.second,
                microsecond=value.microsecond,
                fold=value.fold,
            )
        )
    except (ValueError, TypeError, AttributeError):
        return _opaque(value)


def _opaque(value: Any) -> msgpack.ExtType:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a plugin's own class
        text = f"<{type(value).__name__}>"
    shown = [type(value).__name__, text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."]
    return msgpack.ExtType(_OPAQUE, msgpack.packb(shown, unicode_errors="replace"))


def _restore(code: int, data: bytes) -> Any:
    if code == _LINE:
        parts = unpack_given(data)
        if not isinstance(parts, list) or len(parts) != 4:
            raise ValueError("a line has another form")
        return Line(*parts)
    if code == _OPAQUE:
        name, text = msgpack.unpackb(data)
        return stand_in(str(name), str(text))
    return UUID(bytes=data) if code == _UUID else restore(code, data)


def stand_in(name: str, text: str) -> object:
    """An object that has this class name and this `repr`, and nothing else."""

    def show(self: object) -> str:
        return text

    return type(name if name.isidentifier() else "object", (), {"__repr__": show, "__slots__": ()})()


def names_of(tags: Sequence[str] | None) -> list[str] | None:
    """The names of tags as a list; None stays None."""
    return None if tags is None else list(tags)
