"""Processor, memory, disks and network of this machine, with the names that Telegraf gives them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import psutil

from walmill_hookspecs import BadSettings, Context, Line, SuggestedTrigger, Tick, hookimpl, setting, settings
from walmill_hostmetrics.share import usage

UNREAL = frozenset(
    {"squashfs", "tmpfs", "devtmpfs", "overlay", "proc", "sysfs", "cgroup", "cgroup2", "autofs", "tracefs", "nsfs"}
)
"""Kinds of file systems that are no disk."""


class What(StrEnum):
    """What can be looked at; each is a table."""

    CPU = "cpu"
    MEM = "mem"
    SWAP = "swap"
    DISK = "disk"
    DISKIO = "diskio"
    NET = "net"
    SYSTEM = "system"
    PROCESSES = "processes"


@settings
class HostMetrics:
    """What is looked at."""

    collect: list[What] = setting(
        "what is looked at: cpu, mem, swap, disk, diskio, net, system, processes", default=list(What)
    )
    per_cpu: bool = setting("whether each processor has a row, beside that of all together", default=True)
    mounts: list[str] = setting("only disks that are mounted there; all that are real if none is named", default=[])
    interfaces: list[str] = setting("only these network interfaces; all if none is named", default=[])
    host: str = setting("the tag host; this machine's name if it is empty", default="")
    prefix: str = setting("goes before the names of the tables", default="")

    def __attrs_post_init__(self) -> None:
        if not self.collect:
            raise BadSettings(f"'collect' is empty; name some of {', '.join(What)}")


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return HostMetrics


@hookimpl
def register_triggers() -> list[SuggestedTrigger]:
    """A look each ten seconds."""
    return [
        SuggestedTrigger(name="hostmetrics", spec="every:10s", description="Looks at this machine each ten seconds.")
    ]


@hookimpl
def on_schedule(tick: Tick, ctx: Context[HostMetrics]) -> None:
    """Looks at the machine, and writes what it sees with the due time."""
    chosen = ctx.settings
    tags = {"host": chosen.host or socket.gethostname()}
    for what in dict.fromkeys(chosen.collect):
        try:
            for more, fields in LOOKS[what](ctx):
                ctx.write(Line(f"{chosen.prefix}{what}", {**tags, **more}, fields, tick.scheduled_for))
        except (psutil.Error, OSError, NotImplementedError, AttributeError) as error:
            # one thing that this machine does not tell must not hide the others
            ctx.log.warning("%s cannot be looked at here: %s", what.value, error)


Found = Iterator[tuple[dict[str, str], dict[str, Any]]]


def _cpu(ctx: Context[HostMetrics]) -> Found:
    """Shares since the look before this one, which is in the state: a first look has none."""
    looks = {"cpu-total": psutil.cpu_times()._asdict()}
    if ctx.settings.per_cpu:
        looks |= {f"cpu{number}": times._asdict() for number, times in enumerate(psutil.cpu_times(percpu=True))}
    before = ctx.cache.get("cpu", {})
    ctx.cache.put("cpu", {name: dict(times) for name, times in looks.items()})
    for name, times in looks.items():
        share = usage(before[name], times) if name in before else None
        if share is not None:
            yield {"cpu": name}, share


def _mem(ctx: Context[HostMetrics]) -> Found:
    del ctx
    seen = psutil.virtual_memory()._asdict()
    percent = seen.pop("percent")
    yield {}, {**seen, "used_percent": float(percent), "available_percent": 100.0 * seen["available"] / seen["total"]}


def _swap(ctx: Context[HostMetrics]) -> Found:
    del ctx
    seen = psutil.swap_memory()
    yield {}, {"total": seen.total, "used": seen.used, "free": seen.free, "used_percent": float(seen.percent)}


def _disk(ctx: Context[HostMetrics]) -> Found:
    wanted = ctx.settings.mounts
    seen = set()
    for part in psutil.disk_partitions(all=bool(wanted)):
        if (wanted and part.mountpoint not in wanted) or (not wanted and part.fstype in UNREAL):
            continue
        seen.add(part.mountpoint)
        try:
            used = psutil.disk_usage(part.mountpoint)
        except OSError as error:
            ctx.log.warning("the disk at %s cannot be looked at: %s", part.mountpoint, error.strerror)
            continue
        mode = "ro" if "ro" in part.opts.split(",") else "rw"
        tags = {
            "path": part.mountpoint,
            "device": part.device.removeprefix("/dev/"),
            "fstype": part.fstype,
            "mode": mode,
        }
        yield (
            {name: value for name, value in tags.items() if value},
            {"total": used.total, "used": used.used, "free": used.free, "used_percent": float(used.percent)},
        )
    for missing in sorted(set(wanted) - seen):
        ctx.log.warning("nothing is mounted at %s", missing)


def _diskio(ctx: Context[HostMetrics]) -> Found:
    del ctx
    for name, seen in (psutil.disk_io_counters(perdisk=True) or {}).items():
        counts = seen._asdict()
        yield (
            {"name": name},
            {
                "reads": counts["read_count"],
                "writes": counts["write_count"],
                "read_bytes": counts["read_bytes"],
                "write_bytes": counts["write_bytes"],
                "read_time": counts.get("read_time"),
                "write_time": counts.get("write_time"),
            },
        )


def _net(ctx: Context[HostMetrics]) -> Found:
    wanted = ctx.settings.interfaces
    found = psutil.net_io_counters(pernic=True)
    for name, seen in found.items():
        if not wanted or name in wanted:
            counts = seen._asdict()
            yield (
                {"interface": name},
                {
                    **{one: counts[one] for one in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")},
                    "err_in": counts["errin"],
                    "err_out": counts["errout"],
                    "drop_in": counts["dropin"],
                    "drop_out": counts["dropout"],
                },
            )
    for missing in sorted(set(wanted) - set(found)):
        ctx.log.warning("there is no network interface %s", missing)


def _system(ctx: Context[HostMetrics]) -> Found:
    del ctx
    load = psutil.getloadavg()
    yield (
        {},
        {
            "load1": load[0],
            "load5": load[1],
            "load15": load[2],
            "n_cpus": psutil.cpu_count() or 0,
            "uptime": int(time.time() - psutil.boot_time()),
        },
    )


def _processes(ctx: Context[HostMetrics]) -> Found:
    del ctx
    counts = dict.fromkeys(("running", "sleeping", "stopped", "zombies", "idle"), 0)
    total = 0
    for process in psutil.process_iter(["status"]):
        total += 1
        status = process.info["status"]
        name = {"zombie": "zombies", "disk-sleep": "sleeping"}.get(status, status)
        if name in counts:
            counts[name] += 1
    yield {}, {"total": total, **counts}


LOOKS: dict[What, Callable[[Context[HostMetrics]], Found]] = {
    What.CPU: _cpu,
    What.MEM: _mem,
    What.SWAP: _swap,
    What.DISK: _disk,
    What.DISKIO: _diskio,
    What.NET: _net,
    What.SYSTEM: _system,
    What.PROCESSES: _processes,
}
