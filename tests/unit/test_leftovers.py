"""What killed processes leave behind for temporary files, and what of it belongs to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from walmill.leftovers import OLD_SECONDS, Place, sweep

HOLD = """
import sys, time
from pathlib import Path
from walmill.leftovers import Place
place = Place(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    held, killed = tmp_path / "walmill-flight-held", tmp_path / "walmill-flight-killed"
    for one in (held, killed):
        one.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(killed)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    mine = Place(held)
    (tmp_path / "walmill-flight-new").mkdir()
    (tmp_path / "walmill-other").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "walmill-flight-link").symlink_to(tmp_path / "elsewhere")
    old, fresh = tmp_path / "walmill-query-old", tmp_path / "walmill-query-fresh"
    for one in (old, fresh):
        one.mkdir()
        (one / "rows").write_text("rows")
    then = time.time() - OLD_SECONDS - 60
    os.utime(old, (then, then))
    assert sweep(tmp_path) == 1  # the old one
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert sweep(tmp_path) == 1
    left = {one.name for one in tmp_path.iterdir()}
    assert left == {
        "walmill-flight-held",
        "walmill-flight-new",
        "walmill-other",
        "elsewhere",
        "walmill-flight-link",
        "walmill-query-fresh",
    }
    mine.remove()
    mine.remove()
    assert not held.exists()
    assert sweep(tmp_path / "missing") == 0
