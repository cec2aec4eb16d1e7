"""`show storage` and `create snapshot` against a real server."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Command


def test_where_the_data_is(local: Command, server: Any) -> None:
    assert local("write", "--database", "kept", "m,host=a v=1 1").code == 0
    said = local("create", "snapshot")
    assert (said.code, said.out[:9]) == (0, "Snapshot ")
    shown = local("show", "storage")
    assert shown.code == 0
    row = next(line for line in shown.out.splitlines() if "| kept " in line)
    assert [cell.strip() for cell in row.split("|")[1:6]] == ["kept", "m", "0", "1", "1"]
    found = json.loads(local("show", "storage", "--format", "json").out)
    assert found["snapshot"]["sequence"] == int(said.out.split()[-1])
    assert f"{found['snapshot']['number']} at sequence" in shown.out


def test_the_settings_of_snapshots_reach_the_engine(start: Any, walmill: Command) -> None:
    """A server that is told to snapshot after a second does so by itself."""
    server = start("--snapshot-interval", "1s")
    where = ("--host", server.url, "--token", server.token)
    assert walmill("write", "--database", "d", *where, "m v=1 1").code == 0
    for _ in range(600):
        found = json.loads(walmill("show", "storage", "--format", "json", *where).out)
        if found["tables"] and found["tables"][0]["files"]:
            break
    assert found["tables"][0]["rows_in_files"] == 1
    assert server.end() == 0
