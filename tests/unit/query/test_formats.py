"""Which format a client gets."""

import pytest

from walmill.errors import InvalidRequest
from walmill.query.formats import choose

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("name", "accept", "expected"),
    [
        (None, None, "json"),
        ("", "", "json"),
        ("csv", "application/json", "csv"),
        ("JSON_lines", None, "jsonl"),
        ("jsonl", None, "jsonl"),
        ("pretty", None, "pretty"),
        (None, "*/*", "json"),
        (None, BROWSER, "json"),
        (None, "application/json", "json"),
        (None, "text/csv", "csv"),
        (None, "text/plain; charset=utf-8", "pretty"),
        (None, "application/vnd.apache.parquet", "parquet"),
        (None, "application/vnd.apache.arrow.stream", "arrow"),
        (None, "text/csv;q=0.5, application/json", "json"),
        (None, "image/png, text/csv", "csv"),
        (None, "text/csv;q=0, */*;q=0.1", "json"),
        (None, "text/*", "csv"),
    ],
)
def test_choice(name, accept, expected):
    assert choose(name, accept).name == expected


@pytest.mark.parametrize("accept", ["image/png", "application/jsonl", "text/csv;q=0", "nonsense"])
def test_types_that_cannot_be_had(accept):
    with pytest.raises(InvalidRequest, match="invalid mime type"):
        choose(None, accept)


def test_an_unknown_name():
    with pytest.raises(InvalidRequest, match="unknown format 'xml'; formats are json, jsonl, csv"):
        choose("xml", "application/json")


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("json", "application/json"),
        ("jsonl", "application/jsonl"),
        ("csv", "text/csv"),
        ("pretty", "text/plain; charset=utf-8"),
        ("parquet", "application/vnd.apache.parquet"),
    ],
)
def test_content_types(name, content_type):
    assert choose(name).content_type == content_type
