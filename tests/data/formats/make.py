"""Makes a data directory as the engine that is installed writes it: `python make.py DIRECTORY`, once for each format.

What it holds is what `tests/storage/test_formats.py` reads back.
"""

from __future__ import annotations

import sys
from pathlib import Path

from walmill.engine import Engine

LINES = [
    'all,host=a,site=x f=1.5,i=-7i,u=18446744073709551615u,b=true,s="a \\"quoted\\" text" 1700000000000000001',
    "all,host=b f=2.5 1700000000000000002",
    'all f=-0.0,s="é" -5',
    "all,host=a,site=x f=9.5 1700000000000000001",
    "plain v=1 1700000000000000000",
]


def make(directory: Path) -> None:
    """Writes the same through public calls, whatever the version."""
    with Engine.open(data_dir=directory, discover_plugins=False) as engine:
        for line in LINES[:3]:
            engine.write(line, database="plant")
        if hasattr(engine, "snapshot"):
            engine.snapshot()
        for line in LINES[3:]:
            engine.write(line, database="plant")
        engine.create_database("empty")
        engine.create_token("reader")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
