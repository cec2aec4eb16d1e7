"""Is it there, is it ready, what does it count: for supervisors, for clients that look who answers, for Prometheus."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from walmill.dispatch.tally import BOUNDS
from walmill.engine import Engine
from walmill.errors import Unavailable
from walmill.http.resource import json_response, resource
from walmill.http.site import Site

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@lru_cache(maxsize=1)
def version() -> str:
    """The version of Walmill that is installed."""
    from importlib_metadata import PackageNotFoundError
    from importlib_metadata import version as installed

    try:
        return str(installed("walmill"))
    except PackageNotFoundError:
        return "0.0.0"


def _tallies(engine: Engine) -> Iterable[Metric]:
    """How long runs and their beginnings took, by trigger, and what they used."""
    labels = ("database", "trigger")
    duration = HistogramMetricFamily("walmill_run_seconds", "How long runs took.", labels=labels)
    wait = HistogramMetricFamily(
        "walmill_run_wait_seconds",
        "From the event (durable, due, arrived) to the first line of the hook.",
        labels=labels,
    )
    cpu = CounterMetricFamily("walmill_run_cpu_seconds", "Processor time of runs in worker processes.", labels=labels)
    for key, tally in sorted(engine.tallies().items()):
        for family, spread in ((duration, tally.duration), (wait, tally.wait)):
            counts = list(itertools.accumulate(spread.counts))
            buckets = [(f"{bound:g}", count) for bound, count in zip(BOUNDS, counts, strict=False)]
            family.add_metric(key, [*buckets, ("+Inf", counts[-1])], spread.total_ns / 1e9)
        cpu.add_metric(key, tally.cpu_ns / 1e9)
    return duration, wait, cpu


class EngineCollector(Collector):
    """What an engine counts, as Prometheus metrics; collected anew at each scrape.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The metrics at this moment."""
        engine, figures = self._engine, self._engine.figures
        view = engine.view()
        for name, text, value in (
            ("walmill_commits", "Commits written to the log since the start.", figures.commits),
            ("walmill_rows", "Rows written to the log since the start.", figures.rows),
            ("walmill_frames", "Frames written to the log since the start.", figures.frames),
            ("walmill_frame_failures", "Frames that could not be written or synced since the start.", figures.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield self._syncs()
        yield from _storage(engine.storage())
        runs = CounterMetricFamily("walmill_runs", "Runs since the start.", labels=("database", "trigger", "status"))
        for run, count in sorted(dict(engine.run_counts).items()):
            runs.add_metric(run, count)
        yield runs
        lag = GaugeMetricFamily(
            "walmill_trigger_lag_commits",
            "Commits that a trigger still has before it; none for one that is disabled.",
            labels=("database", "trigger"),
        )
        rows = GaugeMetricFamily(
            "walmill_trigger_lag_rows",
            "Rows that a trigger still has before it; none while nobody has counted them.",
            labels=("database", "trigger"),
        )
        seconds = GaugeMetricFamily(
            "walmill_trigger_lag_seconds",
            "Age of the oldest commit that a trigger has not finished.",
            labels=("database", "trigger"),
        )
        running = GaugeMetricFamily(
            "walmill_trigger_running", "Runs of a trigger that go on now.", labels=("database", "trigger")
        )
        enabled = GaugeMetricFamily(
            "walmill_trigger_enabled",
            "Whether a trigger gets events (1), or is disabled or paused (0).",
            labels=("database", "trigger"),
        )
        for one in engine.triggers():
            labels = (one["database"], one["trigger_name"])
            if one["lag_commits"] is not None:
                lag.add_metric(labels, one["lag_commits"])
            running.add_metric(labels, one["running"])
            enabled.add_metric(labels, 1 if one["state"] == "enabled" else 0)
            if one["lag_rows"] is not None:
                rows.add_metric(labels, one["lag_rows"])
            if one["lag_seconds"] is not None:
                seconds.add_metric(labels, one["lag_seconds"])
        yield from (lag, rows, seconds, running, enabled)
        yield from _tallies(engine)
        processes = engine.worker_processes()
        yield GaugeMetricFamily("walmill_workers", "Worker processes that there are.", value=processes["count"])
        yield GaugeMetricFamily("walmill_view_sequence", "Sequence of the newest view.", value=view.sequence)
        yield GaugeMetricFamily("walmill_databases", "Databases.", value=len(view.catalog.names))
        yield GaugeMetricFamily("walmill_tables", "Tables of all databases.", value=len(view.catalog.tables))
        yield GaugeMetricFamily("walmill_ready", "Whether the engine takes requests.", value=1 if engine.ready else 0)
        yield GaugeMetricFamily(
            "walmill_start_time_seconds", "When the engine was opened, seconds since 1970.", value=engine.started_at
        )
        info = GaugeMetricFamily("walmill_info", "Always 1; the label has the version.", labels=("version",))
        info.add_metric((version(),), 1)
        yield info

    def _syncs(self) -> Metric:
        """How long syncs take: quantiles over the newest ones, count and sum over all."""
        figures = self._engine.figures
        syncs = SummaryMetricFamily(
            "walmill_log_sync_seconds", "How long a sync of the log takes; quantiles over the newest syncs."
        )
        newest = sorted(figures.sync_ns.copy())
        for quantile in QUANTILES if newest else ():
            value = newest[min(len(newest) - 1, int(quantile * len(newest)))]
            syncs.add_sample("walmill_log_sync_seconds", {"quantile": str(quantile)}, value / 1e9)
        syncs.add_sample("walmill_log_sync_seconds_count", {}, figures.frames)
        syncs.add_sample("walmill_log_sync_seconds_sum", {}, figures.sync_total_ns / 1e9)
        return syncs


def _storage(kept: Mapping[str, Any]) -> Iterable[Metric]:
    """What is kept and where; the work only of an engine that has files."""
    log, work, tables = kept["log"], kept["work"], kept["tables"]
    for name, text, value in (
        ("walmill_log_segments", "Segments of the log.", log["segments"]),
        ("walmill_log_bytes", "Bytes of the log.", log["bytes"]),
        ("walmill_log_to_replay_bytes", "Bytes of the log that a restart replays.", log["to_replay_bytes"]),
        ("walmill_memory_rows", "Rows that are in no file yet.", sum(one["rows_in_memory"] for one in tables)),
        ("walmill_files", "Data files.", sum(one["files"] for one in tables)),
        ("walmill_file_rows", "Rows in data files.", sum(one["rows_in_files"] for one in tables)),
        ("walmill_file_bytes", "Bytes of data files.", sum(one["file_bytes"] for one in tables)),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    if work is None:
        return
    snapshot = kept["snapshot"]
    yield GaugeMetricFamily(
        "walmill_snapshot_sequence", "Sequence of the newest snapshot.", value=snapshot["sequence"] if snapshot else 0
    )
    yield GaugeMetricFamily(
        "walmill_disk_short", "Whether writers wait for space on the disk.", value=int(kept["disk_short"])
    )
    yield GaugeMetricFamily(
        "walmill_memory_pressure",
        "Part of the memory for rows that is used; writers wait from 1 on.",
        value=log["pressure"],
    )
    for name, text in (
        ("snapshots", "Snapshots made"),
        ("snapshot_failures", "Snapshots that failed"),
        ("snapshot_rows", "Rows written to files by snapshots"),
        ("joins", "Joins of files"),
        ("objects_deleted", "Objects deleted by clean-up"),
        ("segments_released", "Segments of the log removed"),
    ):
        yield CounterMetricFamily(f"walmill_{name}", f"{text} since the start.", value=work[name])


def _takes_json(accept: str | None) -> bool:
    """Whether a caller can read JSON: v1 clients ask for something else, and expect 204 without a body."""
    kinds = [one.partition(";")[0].strip().lower() for one in (accept or "*/*").split(",")]
    return any(kind in ("*/*", "application/*", "application/json") for kind in kinds)


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """
    process = str(uuid.uuid4())
    registries: list[CollectorRegistry] = []

    def begin(engine: Engine) -> None:
        registry = CollectorRegistry()
        registry.register(EngineCollector(engine))
        ProcessCollector(registry=registry)
        registries[:] = [registry]

    site.on_open(begin)

    async def health(request: Request) -> Response:
        del request
        return PlainTextResponse("OK")

    async def ready(request: Request) -> Response:
        del request
        if trouble := site.engine.trouble:
            raise Unavailable(trouble, retry_after=1)
        return json_response({"status": "ready"})

    async def ping(request: Request) -> Response:
        about = {"product_name": "Walmill", "version": version(), "revision": "", "process_id": process}
        answer = json_response(about) if _takes_json(request.headers.get("accept")) else Response(status_code=204)
        answer.headers["X-Influxdb-Version"] = version()
        answer.headers["X-Influxdb-Build"] = "Walmill"
        answer.headers["Request-Id"] = str(uuid.uuid4())
        return answer

    async def metrics(request: Request) -> Response:
        site.require()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await site.call(encode, registries[0]), headers={"Content-Type": content_type})

    return [
        resource("/health", GET=health),
        resource("/ready", GET=ready),
        resource("/ping", GET=ping, POST=ping),
        resource("/metrics", GET=metrics),
    ]
