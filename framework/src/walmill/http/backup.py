"""`POST /api/v3/backup`: makes a backup in a place that the server reaches, and tells how far it is."""

from __future__ import annotations

import threading
from typing import Any

from walmill.backup.copy import Progress, Stopped
from walmill.engine import Engine
from walmill.http.site import Site
from walmill.http.work import Tell, WorkEndpoint
from walmill.objects.open import open_store
from walmill.observe.log import get_logger

TELL_BYTES = 8 * 2**20
"""So much is copied between two lines, at least."""

log = get_logger("walmill.backup")


def backup_endpoint(site: Site) -> WorkEndpoint:
    """The endpoint.

    Args:
        site: The engine.
    """
    return WorkEndpoint(site, _make, {"to": str}, "to")


def _make(engine: Engine, asked: dict[str, Any], tell: Tell, gone: threading.Event) -> dict[str, Any]:
    told = -TELL_BYTES

    def follow(progress: Progress) -> None:
        nonlocal told
        if gone.is_set():
            raise Stopped("nobody waits for the backup any more; the next one goes on with what is there")
        if progress.bytes - told >= TELL_BYTES or progress.objects == progress.total_objects:
            told = progress.bytes
            tell(
                {
                    "objects": progress.objects,
                    "total_objects": progress.total_objects,
                    "bytes": progress.bytes,
                    "total_bytes": progress.total_bytes,
                    "copied_bytes": progress.copied_bytes,
                }
            )

    target = open_store(asked["to"])
    try:
        made = engine.backup(target, follow).shown()
        log.info("backup", target=target.name, **made)
        return made
    finally:
        target.close()
