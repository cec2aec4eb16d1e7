"""An engine whose process has no descriptor left for a while; run by `test_bad_luck.py`, for the limit is the process's own.

Prints one JSON object: what each thing came to while there was none, and how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.isolation.conftest import runs, state, wait
from tests.isolation.test_bad_luck import alive

from walmill.engine import Engine


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Everything that needs one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    try:
        yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def tried(call: Callable[[], Any]) -> str:
    """What a call says: nothing, or its error."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - it is what is told
        return f"{type(error).__name__}: {error}"
    return "ok"


def main(directory: str, plugins: str) -> None:
    """See the module."""
    sys.path.append(plugins)
    told: dict[str, Any] = {}
    with Engine.open(data_dir=Path(directory), shutdown_timeout=5.0) as engine:
        for name in ("process", "inline"):
            engine.create_trigger(
                database="d", name=name, plugin="trouble", spec="table:cpu", executor=name, arguments={"do": "copy"}
            )
        engine.write("cpu,host=a v=1 1", database="d")
        wait(lambda: state(engine, "process", "rows") == state(engine, "inline", "rows") == 1)
        count = "SELECT count(*) AS n FROM cpu"
        engine.query(count, database="d")
        worker = state(engine, "process", "pid")
        os.kill(worker, signal.SIGKILL)  # another one is needed, and cannot be made
        wait(lambda: not alive(worker))
        with no_descriptors():
            told["write"] = [
                tried(lambda number=number: engine.write(f"cpu,host=a v=2 {number}", database="d"))  # type: ignore[misc]
                for number in range(2, 7)
            ]
            told["query"] = tried(lambda: engine.query(count, database="d"))
            told["snapshot"] = tried(engine.snapshot)
            wait(lambda: state(engine, "inline", "rows") == 6)
            wait(lambda: any(run["status"] == "refused" for run in runs(engine, "process")))
            told["lag"] = {one["trigger_name"]: one["lag_rows"] for one in engine.triggers()}
            told["run"] = next(run["error"] for run in runs(engine, "process") if run["status"] == "refused")
        wait(lambda: state(engine, "process", "rows") == 6)
        engine.snapshot()
        with no_descriptors():
            told["query of files"] = tried(lambda: engine.query("SELECT sum(v) FROM cpu", database="d"))
        told["rows"] = engine.query(count, database="d").to_pylist()[0]["n"]
        told["failed"] = [run["error"] for run in runs(engine, "process") if run["status"] == "failed"]
        told["state"] = [one["state"] for one in engine.triggers()]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
