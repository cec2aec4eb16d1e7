"""Control groups: where ours is, what is asked of the kernel, and that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from walmill.isolation.cgroup import PREFIX, Group, Groups, Place, found, place_of, quota_of
from walmill_worker.processes import descendants

V2 = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
HYBRID = f"{V1}\n26 25 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
SERVICE = "/system.slice/walmill.service"


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        (f"0::{SERVICE}", V2, Place(2, Path(f"/sys/fs/cgroup{SERVICE}"))),
        ("0::/", V2, Place(2, Path("/sys/fs/cgroup"))),
        # a container that sees its own part of the tree
        ("0::/docker/ab/x", V2.replace("0:23 /", "0:23 /docker/ab"), Place(2, Path("/sys/fs/cgroup/x"))),
        ("0::/../other", V2, None),
        ("0::/a", V2.replace("/sys/fs/cgroup", "/mnt/c\\040g"), Place(2, Path("/mnt/c g/a"))),
        (f"4:cpu,cpuacct:{SERVICE}\n0::/user.slice", HYBRID, Place(1, Path(f"/sys/fs/cgroup/cpu,cpuacct{SERVICE}"))),
        ("4:cpu,cpuacct:/a\n0::/b", V2, None),  # divided by version 1, which is not mounted
        ("4:memory:/a\n0::/b", HYBRID, Place(2, Path("/sys/fs/cgroup/unified/b"))),
        ("4:cpu,cpuacct:/a", V1.replace("cpu,cpuacct rw", "cpuset rw").replace("rw,cpu,cpuacct", "rw,cpuset"), None),
        ("", V2, None),
        ("nonsense", "nonsense\n\n - cgroup2", None),
    ],
)
def test_where_ours_is(groups: str, mounts: str, expected: Place | None) -> None:
    assert place_of(groups, mounts) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, (50_000, 50_000)),
        (0.5, (25_000, 50_000)),
        (2.5, (125_000, 50_000)),
        (0.01, (1_000, 100_000)),
        (0.0001, (1_000, 1_000_000)),
    ],
)
def test_what_the_kernel_is_told(share: float, expected: tuple[int, int]) -> None:
    assert quota_of(share) == expected


def test_what_is_written(tmp_path: Path) -> None:
    Group(Place(2, tmp_path), tmp_path).limit(0.5)
    assert (tmp_path / "cpu.max").read_text() == "25000 50000"
    Group(Place(1, tmp_path), tmp_path).limit(0.5)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "25000"
    assert (tmp_path / "cpu.cfs_period_us").read_text() == "50000"


def test_a_group_goes_with_its_last_process() -> None:
    place = found()
    if place is None:
        pytest.skip("no control groups can be made here")
    code = "import subprocess; subprocess.Popen(['sleep', '60']); print('on', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = [process.pid, *descendants(process.pid)]
        assert len(tree) == 2
        groups, told, made = Groups(), threading.Event(), []

        def done(group: Group | None) -> bool:
            made.append(group)
            told.set()
            return True

        groups.confine(lambda: (process.pid, *descendants(process.pid)), 0.5, done)
        assert told.wait(10)
        (group,) = made
        assert group is not None
        held = [f"/proc/{pid}/cgroup" for pid in tree]
        assert all(f"/{group.path.name}" in Path(one).read_text() for one in held)
        groups.leave(group)
        assert group.path.exists()  # there is somebody in it
        for pid in tree:
            os.kill(pid, 9)
    groups.close()
    assert not group.path.exists()
    assert not Path("/proc/self/cgroup").read_text().count(PREFIX)


def test_a_group_that_nobody_wants_is_gone_at_once() -> None:
    if found() is None:
        pytest.skip("no control groups can be made here")
    groups, made = Groups(), []

    def done(group: Group | None) -> bool:
        made.append(group)
        return False

    groups.confine(tuple, 0.5, done)
    groups.close()
    assert made[0] is not None
    assert not made[0].path.exists()


@pytest.mark.parametrize("place", ["missing", None])
def test_where_none_can_be_made_that_is_told(tmp_path: Path, place: str | None) -> None:
    groups, made = Groups(), []
    groups._looked = True
    groups._place = None if place is None else Place(2, tmp_path / place)

    def done(group: Group | None) -> bool:
        made.append(group)
        return True

    for _ in range(2):
        groups.confine(lambda: [os.getpid()], 0.5, done)
        groups.close()
    assert made == [None, None]
    assert groups._place is None


def test_groups_of_engines_that_were_killed_are_removed() -> None:
    place = found()
    if place is None:
        pytest.skip("no control groups can be made here")
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, ours = place.path / f"{PREFIX}{gone.pid}-1", place.path / f"{PREFIX}{os.getpid()}-0"
    left.mkdir()
    ours.mkdir()
    try:
        found()
        assert not left.exists()
        assert ours.exists()
    finally:
        ours.rmdir()
