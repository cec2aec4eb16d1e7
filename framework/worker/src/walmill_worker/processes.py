"""Processes as the system sees them: who descends from whom, and what one may be told. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator

_SET_PDEATHSIG, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 15, 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Has this process killed when its parent ends, and ends it if that has happened already."""
    _libc.prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ended."""
    _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_name(name: str) -> None:
    """What `ps` and `top` show of this process; up to 15 bytes."""
    _libc.prctl(_SET_NAME, name.encode()[:15], 0, 0, 0)


def children(process: int) -> list[int]:
    """The children of a process; none if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208 - called often
            with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    return found


def descendants(process: int) -> Iterator[int]:
    """All that descend from a process, as far as they still do."""
    for child in children(process):
        yield child
        yield from descendants(child)


def kill_tree(process: int) -> None:
    """Kills a process and all that descends from it: each is stopped first, so that it makes no others meanwhile."""
    seen: set[int] = set()
    waiting = [process]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGSTOP)
        waiting += children(one)
    for one in seen:
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)
