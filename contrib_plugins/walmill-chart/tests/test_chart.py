"""Pictures that decode, and say truly how many points they show."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from PIL import Image
from walmill_chart import Chart, on_request
from walmill_chart.ask import read, statement

from walmill_hookspecs import HTTPError, MultiMapping
from walmill_hookspecs.fakes import NOW, FakeContext, request

HOUR = 3_600_000_000_000
BASE = int(NOW.timestamp()) * 1_000_000_000
ROWS = [
    {
        "line": line,
        "force": None if hour == 3 else float(hour * (2 if line == "b" else 1)),
        "note": "x",
        "time": BASE - hour * HOUR,
    }
    for hour in range(10)
    for line in ("a", "b")
]


def context(**chosen: Any) -> FakeContext:
    return FakeContext(settings=Chart(**chosen), tables={"press": ROWS})


def ask(**params: str) -> Any:
    return request(query={"table": "press", "field": "force", **params})


def test_a_png_says_how_many_points_it_shows() -> None:
    reply = on_request(ask(group="line", width="600", height="300", title="Force"), context())
    with Image.open(io.BytesIO(reply.content)) as image:
        image.load()
        assert image.size == (600, 300)
        assert image.text["walmill:points"] == "18"
        assert image.text["walmill:series"] == "2"
        assert len(image.convert("RGB").getcolors(2**24)) > 50, "there is something on it"
    assert reply.headers["X-Walmill-Points"] == "18"
    assert reply.media_type == "image/png"


def test_an_svg_parses() -> None:
    reply = on_request(ask(format="svg"), context())
    assert ET.fromstring(reply.content).tag.endswith("svg")
    assert b"walmill:points=18" in reply.content


def test_windows_and_bounds() -> None:
    reply = on_request(ask(window="5h", agg="max", **{"from": "-6h"}), context())
    assert reply.headers["X-Walmill-Points"] == "2", "windows begin at multiples of five hours since the epoch"


def test_tags_are_bound_and_not_pasted() -> None:
    reply = on_request(ask(where="line=a' OR '1'='1"), context())
    assert reply.headers["X-Walmill-Points"] == "0"
    with Image.open(io.BytesIO(reply.content)) as image:
        assert image.text["walmill:points"] == "0"


def test_each_picture_leaves_a_row() -> None:
    made = context(record_table="pictures")
    reply = on_request(ask(), made)
    (line,) = made.written
    assert line.table == "pictures"
    assert line.fields["points"] == 18
    assert line.fields["bytes"] == len(reply.content)


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"table": "pres"}, 400, "pres"),
        ({"field": ""}, 400, "field is missing"),
        ({"field": "nothing"}, 400, "nothing"),
        ({"field": "note"}, 400, "only numbers"),
        ({"width": "99"}, 400, "100 to 4,000"),
        ({"height": "x"}, 400, "100 to 4,000"),
        ({"format": "gif"}, 400, "png or svg"),
        ({"agg": "sum"}, 400, "mean, min, max"),
        ({"window": "5"}, 400, "not a duration"),
        ({"from": "yesterday"}, 400, "not a time"),
        ({"from": "-1h", "to": "-2h"}, 400, "not before"),
        ({"where": "line"}, 400, "tag=value"),
        ({"colour": "red"}, 400, "no parameter 'colour'"),
    ],
)
def test_bad_parameters(params: dict[str, str], status: int, message: str) -> None:
    with pytest.raises(HTTPError) as raised:
        on_request(ask(**params), context())
    assert raised.value.status == status
    assert message in raised.value.detail


def test_too_many_points() -> None:
    with pytest.raises(HTTPError, match="more than 5 points"):
        on_request(ask(), context(max_points=5))


def test_odd_names_are_quoted() -> None:
    sql, params = statement(read(MultiMapping({"table": 'a"b', "field": "c d", "group": "e"}), NOW), 10)
    assert '"a""b"' in sql
    assert params == {}
