"""walmill-lakehouse: tables in a bucket, of files here and of files in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable
from tests.seaweed import BUCKET, KEY, SECRET, Seaweed

from walmill.engine import Engine
from walmill.options import EngineOptions
from walmill.testing.suite import _wait


@pytest.mark.may_leave("file", reason="deltalake keeps its runtime, and connections to the bucket")
@pytest.mark.parametrize("ours", [None, f"s3://{BUCKET}/ours"])
def test_a_lake_in_a_bucket(server: Seaweed, tmp_path: Path, ours: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KEY", KEY)
    monkeypatch.setenv("LAKE_SECRET", SECRET)
    place = f"s3://{BUCKET}/{'lake' if ours is None else 'other'}"
    access = {
        "into": place,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": "env:LAKE_KEY",
        "secret_key": "env:LAKE_SECRET",
    }
    options = EngineOptions(data_dir=tmp_path, object_store=ours, discover_plugins=False, shutdown_timeout=10.0)
    with Engine.open(options) as engine:
        engine.add_plugin("lake", "walmill_lakehouse.export")
        engine.create_trigger(
            database="d", name="t", plugin="lake", spec="snapshot", arguments=access, executor="inline"
        )
        for n in range(3):
            engine.write(f"cpu,host=h{n % 2} v={n} {1 + n // 2}", database="d")
            engine.snapshot()
            _wait(lambda: engine.trigger("d", "t")["lag_commits"] == 0 and not engine.trigger("d", "t")["running"])
            assert not engine.trigger("d", "t")["failures"], engine.trigger("d", "t")["last_error"]
    options = {**server.environment, "AWS_ALLOW_HTTP": "true"}
    table = DeltaTable(f"{place}/d/cpu", storage_options=options)
    assert table.to_pyarrow_table().num_rows == 3
    assert table.version() == 2
