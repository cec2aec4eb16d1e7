"""What an engine is told when it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from walmill.clock import Clock, SystemClock
from walmill.context.local import Limits
from walmill.fs.protocol import FileSystem
from walmill.isolation.process import WorkerOptions
from walmill.opening import Told
from walmill.room import DiskLimits
from walmill.snapshot.compact import Bounds
from walmill.snapshot.due import Limits as SnapshotLimits
from walmill.snapshot.release import LogRetention
from walmill.units import HOUR


@frozen(kw_only=True)
class EngineOptions:
    """How an engine works.

    Attributes:
        data_dir: Where its data is; None keeps everything in memory, for tests and notebooks.
        segment_bytes: Size of a log segment.
        flush_interval: Seconds by which a commit may wait for others; 0 commits at once when idle. None takes 0 if the log is on
            a disk, and 1 if it is in an object store.
        shutdown_timeout: Seconds that runs may take to finish when the engine stops.
        query_memory: Bytes that one query may use for sorting, joining and grouping.
        query_timeout: Seconds that one query may take.
        query_rows: Rows that the answer to one query may have; None for no limit.
        query_files: Files that may be read for one query; None for no limit.
        query_concurrency: So many queries run at a time; others wait for their turn. Those of plugins do not.
        query_queue: So many wait; a further one is put off.
        value_cache: Bytes that one cache of last or distinct values may hold.
        limits: What one run may use.
        plugin_limits: Other limits for all triggers of a plugin: by plugin, then by the names of
            `walmill.settings.limits.LIMITS`.
        executor: Where hooks of installed plugins run unless a trigger says otherwise: `process`, `inline`; None takes `process`
            where the machine can do that.
        workers: How worker processes are kept.
        executor_plugins: Plugins that bring further executors; they run in this process.
        function_plugins: Plugins that bring functions to SQL; they run in this process.
        plugin_dir: A directory whose files and packages are plugins, watched for changes; None without one.
        package_installs: Whether plugins may be installed while the engine runs: `open`, `allowlist`, `disabled`.
        package_allowlist: With `allowlist`: names of distributions, and beginnings of repositories' URLs and of paths.
        disabled_plugins: Plugins that are not to be used.
        allowed_plugins: The only plugins that may be used; None allows all that are installed.
        strict_plugins: Whether a broken plugin keeps the engine from starting.
        wrappers: Plugins whose hook wrappers act on other distributions' plugins as well.
        discover_plugins: Whether installed plugins are looked for.
        operator_token: Whether the first start makes an operator token and leaves it in `data_dir`.
        reader_processes: Whether large bodies of line protocol are read in processes of their own, where that is possible
            and the machine has more than one processor.
        snapshots: When rows go from memory and log into files, and when writers have to wait for that. Only with a `data_dir`.
        log_retention: How much log is kept for triggers that are behind.
        write_queue: Bytes of writes that may be on their way to the log at a time; beyond that they are put off.
        object_store: Where files go: a directory, or the URL of a bucket (`s3://`, `gs://`, `az://`); None takes the directory
            `objects` in `data_dir`. Only one engine may use it.
        wal: Where the log goes: an object store, as above; None for the directory `wal` in `data_dir`. `local` says that as
            well, and moves it there from an object store.
        object_cache: Bytes of copies of data files that are kept on this machine, if the store is a bucket.
        join_rate: Bytes per second that joining files may read and write; 0 for no limit.
        joins: Which files are joined, and how large they become.
        disk: How much of the disk of `data_dir` stays free, and how much is reserved for bad times: nothing,
            unless it says so.
        delete_grace: How long databases and tables that were deleted can be restored, ns, unless a call says otherwise.
        told: Told how far the replay of the log is; what it raises ends the start.
        clock: The time.
        fs: The files; None takes those of the machine, or of memory without a `data_dir`.
    """

    data_dir: Path | None = None
    segment_bytes: int = 64 * 2**20
    flush_interval: float | None = None
    shutdown_timeout: float = 30.0
    query_memory: int = 2 * 2**30
    query_timeout: float | None = 60.0
    query_rows: int | None = None
    query_files: int | None = None
    query_concurrency: int = 16
    query_queue: int = 256
    value_cache: int = 256 * 2**20
    limits: Limits = field(factory=Limits)
    plugin_limits: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    executor: str | None = None
    executor_plugins: Sequence[str] = ()
    function_plugins: Sequence[str] = ()
    workers: WorkerOptions = field(factory=WorkerOptions)
    plugin_dir: Path | None = None
    package_installs: str = "open"
    package_allowlist: Sequence[str] = ()
    disabled_plugins: Sequence[str] = ()
    allowed_plugins: Sequence[str] | None = None
    strict_plugins: bool = False
    wrappers: Sequence[str] = ()
    discover_plugins: bool = True
    operator_token: bool = False
    reader_processes: bool = False
    snapshots: SnapshotLimits = field(factory=SnapshotLimits)
    log_retention: LogRetention = field(factory=LogRetention)
    write_queue: int = 512 * 2**20
    object_store: str | None = None
    wal: str | None = None
    object_cache: int = 10 * 2**30
    join_rate: int = 64 * 2**20
    joins: Bounds = field(factory=Bounds)
    disk: DiskLimits = field(factory=DiskLimits)
    delete_grace: int = 72 * HOUR
    told: Told | None = None
    clock: Clock = field(factory=SystemClock)
    fs: FileSystem | None = None
