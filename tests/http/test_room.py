"""Whatever form a write has: it is put off if there is no room, on the disk or among those that are on their way."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.errors import Unavailable
from walmill.room import DiskLimits
from walmill.store.draft import Draft


def arrow() -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pydict({"v": pa.array([1.0])})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def test_a_short_disk_puts_off_every_form(tmp_path: Path) -> None:
    engine = Engine.open(data_dir=tmp_path, discover_plugins=False, disk=DiskLimits(min_free=2**60))
    with TestClient(create_app(engine, without_auth=True)) as client:
        calls = (
            client.post("/api/v3/write_lp?db=d", content="cpu v=1"),
            client.post("/api/v2/write?bucket=d", content="cpu v=1"),
            client.post("/write?db=d", content="cpu v=1"),
            client.post("/api/v3/write_rows?db=d&table=t&tags=", content='[{"v": 1}]'),
            client.post("/api/v3/write_arrow?db=d&table=t&tags=", content=arrow()),
        )
        for answer in calls:
            assert answer.status_code == 503, answer.text
            assert "min_free_disk" in answer.text
            assert answer.headers["retry-after"].isdigit()
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        assert client.get("/api/v3/query_sql?db=_internal&q=SELECT%201").status_code in (200, 404)
        assert engine.databases() == []


def test_writes_on_their_way_have_a_bound() -> None:
    with Engine.open(discover_plugins=False, write_queue=1000) as engine:
        engine.write("cpu v=1 1" + " " * 2000, database="d")  # one alone may be larger
        held, go = threading.Event(), threading.Event()

        def hold(draft: Draft) -> None:
            held.set()
            assert go.wait(30)

        holder = threading.Thread(target=engine.define, args=(hold,))
        holder.start()
        assert held.wait(30)
        writers = [
            threading.Thread(target=engine.write, args=(f"cpu v={n} {n}",), kwargs={"database": "d"}) for n in (2, 3)
        ]
        for writer in writers:
            writer.start()
        try:
            while engine._writer._waiting < 18:
                assert all(writer.is_alive() for writer in writers)
            with pytest.raises(Unavailable, match=r"1,000 may be \(write_queue_size\)"):
                engine.write("cpu v=4 4" + " " * 1000, database="d")
        finally:
            go.set()
            for thread in (holder, *writers):
                thread.join(30)
        assert engine._writer._waiting == 0
        engine.write("cpu v=5 5", database="d")
        assert engine.query("SELECT count(*) AS n FROM cpu", database="d")["n"].to_pylist() == [4]
