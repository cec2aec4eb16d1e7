"""When writers wait for space on the disk, and what becomes of the reserve."""

from __future__ import annotations

from pathlib import Path

import pytest

from walmill.errors import Unavailable
from walmill.fs.local import LocalFS
from walmill.room import NAME, Disk, DiskLimits, Room, Step, look

MIB = 2**20
LIMITS = DiskLimits(min_free=100 * MIB, reserved=64 * MIB)


@pytest.mark.parametrize(
    ("free", "short", "held", "step"),
    [
        (500, False, False, Step(False, make=64 * MIB)),
        (500, False, True, Step(False)),
        (227, False, False, Step(False)),  # making it would nearly use up what must stay free
        (100, False, True, Step(False)),
        (99, False, True, Step(True)),
        (110, True, True, Step(True)),  # an eighth more, or it would flap
        (113, True, True, Step(False)),
        (32, True, True, Step(True)),
        (31, True, True, Step(True, give_up=True)),
        (31, False, False, Step(True)),
    ],
)
def test_what_is_done(free: int, short: bool, held: bool, step: Step) -> None:
    assert look(Disk(free * MIB, 10_000 * MIB), LIMITS, short=short, held=held) == step


def test_bounds_follow_the_disk() -> None:
    limits = DiskLimits(min_free=0.05, reserved=64 * MIB)
    assert limits.bound(10_000 * MIB) == 500 * MIB
    assert limits.bound(100 * MIB) == 10 * MIB, "the reserve, a tenth of the disk, is more than a twentieth"
    assert DiskLimits(0, 0).bound(100) == 0


def test_the_reserve_comes_goes_and_comes_back(tmp_path: Path) -> None:
    free = 1000 * MIB
    room = Room(tmp_path, LocalFS(), LIMITS, lambda path: Disk(free, 2000 * MIB))
    room.look()
    assert (tmp_path / NAME).stat().st_blocks * 512 >= 64 * MIB, "it takes its space for real"
    room.check()
    free = 20 * MIB
    room.look()
    assert not (tmp_path / NAME).exists()
    with pytest.raises(
        Unavailable, match=r"has 20,971,520 bytes free, and 104,857,600 must stay free \(min_free_disk\)"
    ):
        room.check()
    free = 105 * MIB
    room.look()
    assert room.short
    free = 1000 * MIB
    room.look()
    room.check()
    assert (tmp_path / NAME).exists()
    again = Room(tmp_path, LocalFS(), LIMITS, lambda path: Disk(free, 2000 * MIB))
    again.look()
    assert not again.short
