"""Every setting of a server: its name, type, default, unit and meaning, once, as data.

The command line, the environment, the file and `walmill config show` are all made from this one class.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import field, frozen

from walmill import units
from walmill.errors import InvalidRequest
from walmill.settings.triggers import TriggerEntry

Kind = Literal[
    "path", "store", "address", "name", "bool", "int", "part", "size", "share", "duration", "choice", "names"
]
LogFormat = Literal["auto", "console", "json"]
Origin = Literal["flag", "environment", "file", "default"]

PREFIX = "WALMILL_"
CONFIG_FILE = "walmill.toml"
TOKEN_FILE = "operator-token"  # noqa: S105 - a file name
_META = "walmill"
_MIB = 2**20


@frozen(kw_only=True)
class SettingInfo:
    """One setting as data.

    Attributes:
        name: Its name in the file.
        kind: Its type.
        default: Its value when nobody says anything.
        description: One sentence.
        unit: What a plain number means, for people.
        minimum: Least value (a duration in ns, a size in bytes).
        maximum: Greatest value.
        choices: What a choice allows.
        optional: Whether `none` is a value (for a list of names: `*`, all of them).
        negative: The flag that says no, for a bool.
    """

    name: str
    kind: Kind
    default: Any
    description: str
    unit: str | None = None
    minimum: int = 0
    maximum: int = units.INT64_MAX
    choices: tuple[str, ...] = ()
    optional: bool = False
    negative: str | None = None

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag of `walmill serve` that sets it."""
        return "--" + self.name.replace("_", "-")

    def show(self, value: Any) -> str:
        """A value as it would be written in the environment."""
        if value is None:
            return "*" if self.kind == "names" else "none"
        if self.kind == "duration":
            return units.format_duration(value)
        if self.kind == "share":
            return f"{value * 100:g}%" if 0 < value < 1 else units.format_size(int(value))
        if self.kind == "size":
            return units.format_size(value)
        if self.kind == "part":
            return f"{value:g}"
        if self.kind == "bool":
            return "true" if value else "false"
        if self.kind == "names":
            return ",".join(value)
        return str(value)


def _setting(kind: Kind, default: Any, description: str, **more: Any) -> Any:
    """A field of `Settings`; the rest of its description is kept in the metadata."""
    return field(default=default, metadata={_META: {"kind": kind, "description": description, **more}})


@frozen(kw_only=True)
class Source:
    """Where a value came from.

    Attributes:
        origin: A flag, the environment, the file, or the default.
        name: The flag, the variable, or the path of the file; empty for a default.
    """

    origin: Origin = "default"
    name: str = ""

    def __str__(self) -> str:
        return f"{self.origin} {self.name}" if self.name else self.origin


@frozen(kw_only=True)
class Settings:
    """How a server works. Durations are whole nanoseconds, sizes are bytes.

    Make one with `walmill.settings.load.load_settings`, which checks what it is given.

    Attributes:
        triggers: The `[[trigger]]` tables of the file.
        sources: Where each value came from, by name.
        config_file: The file that was read.
    """

    data_dir: Path = _setting(
        "path", Path("walmill-data"), "Directory with the log and everything else that is kept; made if there is none."
    )
    object_store: str | None = _setting(
        "store",
        None,
        "Directory or URL of a bucket (s3://, gs://, az://) for files; DATA_DIR/objects if none. Credentials: environment.",
        optional=True,
    )
    object_cache_size: int = _setting(
        "size",
        10 * 2**30,
        "Copies of data files that are kept in DATA_DIR/cache, if they are in a bucket.",
        unit="bytes",
        minimum=64 * _MIB,
        maximum=2**50,
    )
    http_bind: str = _setting(
        "address", "127.0.0.1:8181", "Address and port on which HTTP is served; port 0 takes a free one."
    )
    tls_cert: Path | None = _setting(
        "path",
        None,
        "PEM file with the certificate, and its signers' behind it: HTTPS, and Flight with TLS. Read again when it changes.",
        optional=True,
    )
    tls_key: Path | None = _setting(
        "path", None, "PEM file with the certificate's private key; in the file of tls_cert if none.", optional=True
    )
    without_auth: bool = _setting(
        "bool", False, "Serve everyone without a token; only on a loopback address.", negative="--with-auth"
    )
    force_without_auth: bool = _setting(
        "bool",
        False,
        "Allow --without-auth on an address that other machines reach.",
        negative="--no-force-without-auth",
    )
    admin_token_file: Path | None = _setting(
        "path",
        None,
        f"File that holds the operator token, or into which the first start writes it; DATA_DIR/{TOKEN_FILE} if none.",
        optional=True,
    )
    max_http_request_size: int = _setting(
        "size", 10 * _MIB, "Largest body of a request, after decompression.", unit="bytes", minimum=1024, maximum=2**30
    )
    wal: str | None = _setting(
        "store",
        None,
        "URL of a bucket for the log, so that what is acknowledged survives this machine; DATA_DIR/wal if none or local.",
        optional=True,
        choices=("local",),
    )
    wal_flush_interval: int | None = _setting(
        "duration",
        None,
        "How long a write may wait for others to share its sync: 0s, at once when idle; 1s if the log is in a bucket.",
        optional=True,
        maximum=60 * units.SECOND,
    )
    segment_size: int = _setting(
        "size", 64 * _MIB, "Size of a segment of the log.", unit="bytes", minimum=_MIB, maximum=2**30
    )
    snapshot_size: int = _setting(
        "size",
        256 * _MIB,
        "Log since the last snapshot after which rows go into files; a restart replays about so much.",
        unit="bytes",
        minimum=64 * 1024,
        maximum=2**40,
    )
    snapshot_interval: int = _setting(
        "duration",
        10 * units.MINUTE,
        "How long rows stay in memory and log only, however few they are.",
        minimum=units.SECOND,
        maximum=7 * units.DAY,
    )
    buffer_memory_limit: int = _setting(
        "size",
        1024 * _MIB,
        "Rows in memory and log above which writers are told to come back later, counted as the log counts them.",
        unit="bytes",
        minimum=_MIB,
        maximum=2**50,
    )
    write_queue_size: int = _setting(
        "size",
        512 * _MIB,
        "Writes that may be on their way to the log at a time; beyond that writers are told to come back later.",
        unit="bytes",
        minimum=_MIB,
        maximum=2**40,
    )
    min_free_disk: float = _setting(
        "share",
        0.01,
        "Space that stays free on the disk of DATA_DIR, in bytes or as a part of it: with less, writers wait.",
        unit="bytes",
        maximum=2**50,
    )
    reserved_disk: int = _setting(
        "size",
        128 * _MIB,
        "Size of DATA_DIR/reserve, which is given up on a full disk so that deletes can commit; at most a tenth of the disk.",
        unit="bytes",
        maximum=2**40,
    )
    log_retention: int = _setting(
        "duration",
        24 * units.HOUR,
        "How long log is kept for triggers that are behind, once it is in files.",
        maximum=3650 * units.DAY,
    )
    log_retention_size: int = _setting(
        "size",
        16 * 2**30,
        "How much log is kept for triggers that are behind, once it is in files.",
        unit="bytes",
        maximum=2**50,
    )
    delete_grace: int = _setting(
        "duration",
        72 * units.HOUR,
        "How long a deleted database or table can be restored, unless the deletion says otherwise.",
        maximum=3650 * units.DAY,
    )
    join_rate: int | None = _setting(
        "size",
        64 * _MIB,
        "How fast files are joined in the background, read and written together; none for no limit.",
        unit="bytes per second",
        minimum=64 * 1024,
        maximum=2**40,
        optional=True,
    )
    reader_processes: bool = _setting(
        "bool",
        True,
        "Read bodies above 64 KiB in processes of their own, where the machine has a second processor.",
        negative="--no-reader-processes",
    )
    shutdown_timeout: int = _setting(
        "duration", 30 * units.SECOND, "How long runs may take to finish when the server stops.", maximum=units.DAY
    )
    log_level: str = _setting(
        "choice", "info", "Least important messages that are logged.", choices=("debug", "info", "warning", "error")
    )
    log_format: LogFormat = _setting(
        "choice",
        "auto",
        "How log lines look; auto is console on a terminal and json otherwise.",
        choices=("auto", "console", "json"),
    )
    executor: str = _setting(
        "name",
        "process",
        "Where hooks of installed plugins run, unless a trigger says otherwise: process (on Linux), inline, or another one.",
    )
    executor_plugins: tuple[str, ...] = _setting(
        "names", (), "Plugins that bring further executors; they run in the server's own process."
    )
    function_plugins: tuple[str, ...] = _setting(
        "names", (), "Plugins that bring functions to SQL; they run in the server's own process."
    )
    query_memory_limit: int = _setting(
        "size",
        2048 * _MIB,
        "Memory that one query may use to sort, join and group.",
        unit="bytes",
        minimum=16 * _MIB,
        maximum=2**50,
    )
    query_timeout: int | None = _setting(
        "duration",
        60 * units.SECOND,
        "How long one query may take.",
        minimum=units.MILLISECOND,
        maximum=7 * units.DAY,
        optional=True,
    )
    query_max_rows: int | None = _setting(
        "int", None, "Rows that the answer to one query may have.", unit="rows", minimum=1, optional=True
    )
    query_max_files: int | None = _setting(
        "int", None, "Files that may be read for one query.", unit="files", minimum=1, optional=True
    )
    query_concurrency: int = _setting(
        "int",
        16,
        "Queries that run at a time; others wait. Those of plugins do not.",
        unit="queries",
        minimum=1,
        maximum=1024,
    )
    query_queue: int = _setting(
        "int",
        256,
        "Queries that wait for their turn; a further one is put off.",
        unit="queries",
        minimum=0,
        maximum=65_536,
    )
    value_cache_size: int = _setting(
        "size",
        256 * _MIB,
        "What one cache of last or distinct values may hold; the rows with the oldest times are let go.",
        unit="bytes",
        minimum=_MIB,
        maximum=2**50,
    )
    max_batch_rows: int = _setting(
        "int",
        100_000,
        "About how many rows one batch of a new trigger holds.",
        unit="rows",
        minimum=1,
        maximum=10_000_000,
    )
    retry_attempts: int = _setting(
        "int",
        5,
        "Attempts that the error policy retry makes, for a new trigger.",
        unit="attempts",
        minimum=1,
        maximum=1000,
    )
    run_timeout: int | None = _setting(
        "duration",
        60 * units.SECOND,
        "How long one run may take; then its process is killed.",
        minimum=units.MILLISECOND,
        maximum=7 * units.DAY,
        optional=True,
    )
    run_memory: int | None = _setting(
        "size",
        512 * _MIB,
        "Memory that a worker may use beyond what an empty one has, with all that it starts.",
        unit="bytes",
        minimum=16 * _MIB,
        maximum=2**50,
        optional=True,
    )
    run_cpu: float | None = _setting(
        "part",
        1.0,
        "Share of one processor that a worker may use: 0.5 is half of one.",
        unit="processors",
        maximum=1024,
        optional=True,
    )
    run_cpu_time: int | None = _setting(
        "duration",
        None,
        "Processor time that one run may use.",
        minimum=units.MILLISECOND,
        maximum=7 * units.DAY,
        optional=True,
    )
    max_answer_size: int = _setting(
        "size",
        64 * _MIB,
        "Bytes that the answer of a plugin to a request may have, or one piece of a streamed one.",
        unit="bytes",
        minimum=1024,
        maximum=2**30,
    )
    workers_max: int = _setting(
        "int",
        256,
        "Worker processes at a time; who needs another one waits.",
        unit="processes",
        minimum=1,
        maximum=10_000,
    )
    worker_idle: int = _setting(
        "duration",
        300 * units.SECOND,
        "A worker that had nothing to do for so long ends; the next event makes another one.",
        minimum=10 * units.MILLISECOND,
        maximum=7 * units.DAY,
    )
    worker_env: tuple[str, ...] = _setting(
        "names", (), "Environment variables of the server that plugins see, beside those that are harmless."
    )
    max_run_rows: int = _setting(
        "int", 1_000_000, "Rows that one run may write.", unit="rows", minimum=1, maximum=1_000_000_000
    )
    max_state_size: int = _setting(
        "size", 16 * _MIB, "State (`ctx.cache`) that one trigger may keep.", unit="bytes", minimum=1024, maximum=2**30
    )
    max_log_lines: int = _setting(
        "int", 10_000, "Lines that one run may log.", unit="lines", minimum=1, maximum=10_000_000
    )
    plugin_dir: Path | None = _setting(
        "path",
        None,
        "A directory whose files (NAME.py) and packages are plugins; what is edited there is used by the next run.",
        optional=True,
    )
    package_installs: str = _setting(
        "choice",
        "open",
        "Whether plugins and packages may be installed through the server: by everybody who has a token, only what "
        "package_allowlist has, or not at all.",
        choices=("open", "allowlist", "disabled"),
    )
    package_allowlist: tuple[str, ...] = _setting(
        "names", (), "Distributions, and beginnings of repositories' URLs and of paths, that may be installed."
    )
    wrappers: tuple[str, ...] = _setting(
        "names", (), "Plugins whose hook wrappers act on plugins of other distributions as well."
    )
    load_plugins: tuple[str, ...] | None = _setting(
        "names", None, "The only plugins that may be used; * allows all that there are.", optional=True
    )
    no_plugin: tuple[str, ...] = _setting("names", (), "Plugins that are not to be used.")
    safe_mode: bool = _setting(
        "bool",
        False,
        "Use no plugin at all: the triggers are paused, and rows are taken and queried. To find out which one does harm.",
        negative="--no-safe-mode",
    )
    strict: bool = _setting("bool", False, "Do not start while a plugin is broken.", negative="--no-strict")

    triggers: tuple[TriggerEntry, ...] = ()
    plugin_limits: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    sources: Mapping[str, Source] = field(factory=dict, eq=False, repr=False)
    config_file: Path | None = None

    @property
    def allowed_plugins(self) -> tuple[str, ...] | None:
        """The only plugins that may be used; None for all."""
        return () if self.safe_mode else self.load_plugins

    @property
    def host(self) -> str:
        """The host part of `http_bind`, without brackets."""
        return split_address(self.http_bind)[0]

    @property
    def port(self) -> int:
        """The port of `http_bind`; 0 for any that is free."""
        return split_address(self.http_bind)[1]

    @property
    def token_file(self) -> Path:
        """Where the operator token is."""
        return self.admin_token_file or self.data_dir / TOKEN_FILE

    def source(self, name: str) -> Source:
        """Where the value of a setting came from."""
        return self.sources.get(name, Source())

    def problems(self) -> list[str]:
        """What is wrong with the values together, one sentence each."""
        if self.without_auth and not self.force_without_auth and not is_loopback(self.host):
            return [
                f"without_auth ({self.source('without_auth')}) would let every machine that reaches {self.http_bind} read and "
                "write everything: serve on a loopback address such as 127.0.0.1, leave without_auth away, or add "
                "--force-without-auth if something else guards the port"
            ]
        if self.wal not in (None, "local") and self.object_store is None:
            return [
                f"the log is to be in {self.wal} (wal, {self.source('wal')}), and the files on this machine: name a bucket for "
                "them as well, with --object-store; the two may be the same"
            ]
        if self.tls_key is not None and self.tls_cert is None:
            return [
                f"tls_key ({self.source('tls_key')}) is given without a certificate; name its file with --tls-cert, or leave the "
                "key away to serve without TLS"
            ]
        return []


def _infos() -> dict[str, SettingInfo]:
    found = {}
    for attribute in attrs.fields(Settings):
        meta = attribute.metadata.get(_META)
        if meta is not None:
            found[attribute.name] = SettingInfo(name=attribute.name, default=attribute.default, **meta)
    return found


SETTINGS: Mapping[str, SettingInfo] = _infos()
"""All settings by name, in the order in which they are shown."""


def split_address(text: str) -> tuple[str, int]:
    """Host and port from `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        InvalidRequest: It is not an address.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not bare or (":" in bare and not bracketed) or any(c.isspace() or c in "/@" for c in bare):
        raise InvalidRequest(f"the address {text!r} is not HOST:PORT: write for example 127.0.0.1:8181 or [::1]:8181")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise InvalidRequest(f"the address {text!r} has the port {port!r}: it must be a whole number from 0 to 65535")
    if bracketed:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise InvalidRequest(
                f"the address {text!r} has no IPv6 address in its brackets; write for example [::1]:8181"
            ) from None
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host: `localhost`, 127.0.0.0/8, ::1."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
