"""What the machine has too little of now: memory, and descriptors of open files."""

from __future__ import annotations

import errno
import resource

from walmill.errors import Unavailable

RETRY_SECONDS = 5
"""After so long it makes sense to ask again."""


def scarce(error: BaseException) -> Unavailable | None:
    """What to answer if something was not done for want of memory or of descriptors; None for any other error.

    Args:
        error: What was raised.
    """
    if isinstance(error, MemoryError):
        return Unavailable(
            "memory is short; this was not done and nothing of it was kept, send it again later",
            retry_after=RETRY_SECONDS,
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return Unavailable(
            f"this process has as many files and connections open as it may, {limit:,}; this was not done and nothing of it "
            "was kept: raise the limit of open files (ulimit -n, LimitNOFILE= in a unit of systemd), or send it again later",
            retry_after=RETRY_SECONDS,
        )
    return None


def open_more_files() -> None:
    """Takes as many descriptors as the process is allowed to: the limit that it starts with is often 1,024.

    Each connection needs one, and each file that is read. It concerns the whole process, so only `walmill serve` calls it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
