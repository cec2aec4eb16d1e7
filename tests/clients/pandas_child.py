"""Reads the answers of a server with pandas: in a process of its own, since pyarrow loads pandas wherever it is installed."""

from __future__ import annotations

import io
import json
import sys
import urllib.parse
import urllib.request
from typing import Any

import pandas as pd  # type: ignore[import-not-found]  # not in our environment
import pyarrow as pa
from influxdb_client_3 import InfluxDBClient3


def check(frame: Any, times: list[int]) -> None:
    """Whether a frame has the rows."""
    assert list(frame.columns) == ["host", "v", "n", "u", "ok", "time"], frame.columns
    assert frame["v"].sum() == sum(range(100)) + 50
    assert frame["n"].tolist() == frame["u"].tolist() == list(range(100))
    assert frame["host"].tolist()[:4] == ["h0", "h1", "h2", "h0"]
    assert frame["ok"].tolist()[:3] == [False, True, False]
    # texts of times have as many digits as each of them needs
    found = pd.to_datetime(frame["time"], format="ISO8601").astype("datetime64[ns]")
    assert found.astype("int64").tolist() == times


def main(given: dict[str, Any]) -> None:
    """Checks each form."""
    for form in ("csv", "jsonl", "parquet", "arrow"):
        query = urllib.parse.urlencode({"db": given["database"], "q": given["sql"], "format": form})
        asked = urllib.request.Request(f"{given['url']}/api/v3/query_sql?{query}")
        asked.add_header("authorization", f"Bearer {given['token']}")
        with urllib.request.urlopen(asked, timeout=30) as answer:
            body = io.BytesIO(answer.read())
        if form == "csv":
            frame = pd.read_csv(body)
        elif form == "jsonl":
            frame = pd.read_json(body, lines=True, dtype=False)
        elif form == "parquet":
            frame = pd.read_parquet(body)
        else:
            frame = pa.ipc.open_stream(body).read_pandas()
        check(frame, given["times"])
        print(form)
    with InfluxDBClient3(host=given["url"], token=given["token"], database=given["database"]) as client:
        check(client.query(given["sql"], mode="pandas"), given["times"])
    print("influxdb3-python")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
