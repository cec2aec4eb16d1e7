"""A disk that is really full, under a real server: a small file system of its own is filled, and gets space again."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.slow

WRITE = "/api/v3/write_lp"
ROW_BYTES = 8000
BALLAST = 3 * 2**20


@pytest.fixture(params=[8])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of some MiB."""
    made = tmp_path / "disk"
    made.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "walmill-test", str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield made
    subprocess.run(["umount", "--lazy", str(made)], check=True)


def _row(number: int) -> bytes:
    return f'cpu,k=a n={number}i,filler="{"x" * ROW_BYTES}" {number}'.encode()


def _post(client: httpx2.Client, number: int) -> httpx2.Response:
    return client.post(WRITE, params={"db": "d", "precision": "nanosecond"}, content=_row(number))


def _numbers(client: httpx2.Client) -> list[int]:
    answer = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT n FROM cpu ORDER BY time"})
    assert answer.status_code == 200, answer.text
    return [row["n"] for row in answer.json()]


def _fill(client: httpx2.Client, acknowledged: list[int]) -> None:
    """Writes until the disk is full; then every write is put off, with a time to come again."""
    number = 1 + max(acknowledged, default=0)
    while (answer := _post(client, number)).status_code == 204:
        acknowledged.append(number)
        number += 1
        assert number < 8 * 2**20 // ROW_BYTES, "the disk does not get full"
    for refused in (answer, *(_post(client, number + again) for again in range(3))):
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["retry-after"].isdigit()
        assert "No space left on device" in refused.json()["error"]


def test_a_server_whose_disk_is_full(start: Callable[..., Any], disk: Path) -> None:
    flags = ("--data-dir", str(disk / "data"), "--segment-size", "1MiB", "--without-auth")
    flags += ("--min-free-disk", "0", "--reserved-disk", "0")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(BALLAST))
    acknowledged: list[int] = []
    server = start(*flags)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        _fill(client, acknowledged)
        assert _numbers(client) == acknowledged
        with ballast.open("r+b") as shorter:
            shorter.truncate(BALLAST // 2)
        at_first = len(acknowledged)
        _fill(client, acknowledged)
        assert len(acknowledged) > at_first, "nothing was written after there was space"
    # killed and started again while it is full: what it acknowledged can be read
    server.process.kill()
    server.process.wait()
    server = start(*flags)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        assert _numbers(client) == acknowledged
        ballast.unlink()
        number = acknowledged[-1] + 100
        assert _post(client, number).status_code == 204
        acknowledged.append(number)
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()
    server = start(*flags)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        assert _numbers(client) == acknowledged
    assert server.end() == 0


def _until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("disk", [40], indirect=True)
def test_writers_wait_before_the_disk_is_full_and_deletes_give_space_back(
    start: Callable[..., Any], disk: Path
) -> None:
    flags = ("--data-dir", str(disk / "data"), "--segment-size", "1MiB", "--without-auth")
    flags += ("--min-free-disk", "10MiB", "--reserved-disk", "3MiB")
    chance = random.Random(20261127)
    server = start(*flags)
    number = 0
    acknowledged: list[int] = []

    def post(client: httpx2.Client, table: str = "big") -> httpx2.Response:
        """Rows that do not get smaller in files."""
        nonlocal number
        number += 1
        text = chance.randbytes(60_000).hex()
        answer = client.post(
            WRITE, params={"db": "d", "precision": "nanosecond"}, content=f'{table} n={number}i,s="{text}" {number}'
        )
        if answer.status_code == 204 and table == "kept":
            acknowledged.append(number)
        return answer

    def kept(client: httpx2.Client) -> list[int]:
        answer = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT n FROM kept ORDER BY time"})
        return [row["n"] for row in answer.json()]

    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        _until((disk / "data" / "reserve").exists)
        post(client, "kept")
        end = time.monotonic() + 60
        while (refused := post(client)).status_code == 204 or "min_free_disk" not in refused.json()["error"]:
            # the disk may be full before somebody looks: that is 503 too
            assert refused.status_code in (204, 503), refused.text
            assert time.monotonic() < end, refused.text
            time.sleep(0.002)
        assert refused.status_code == 503
        assert refused.headers["retry-after"].isdigit()
        ready = client.get("/ready")
        assert (ready.status_code, "min_free_disk" in ready.json()["error"]) == (503, True)
        assert client.get("/health").status_code == 200
        assert kept(client) == acknowledged
        # somebody else takes what is left
        with (disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(2**16))
                ballast.flush()
        _until(lambda: not (disk / "data" / "reserve").exists())
        params = {"db": "d", "table": "big", "hard_delete_at": "now"}
        assert client.delete("/api/v3/configure/table", params=params).status_code == 200
        assert kept(client) == acknowledged
        _until(lambda: client.get("/ready").status_code == 200)
        assert post(client, "kept").status_code == 204
        assert len(acknowledged) == 2
    server.process.kill()
    server.process.wait()
    (disk / "ballast").unlink()
    server = start(*flags)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        assert kept(client) == acknowledged
        _until((disk / "data" / "reserve").exists)
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()
