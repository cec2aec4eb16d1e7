"""The query string: read once for all routes."""

from __future__ import annotations

import pytest

from walmill.errors import InvalidRequest
from walmill.http.parameters import query_pairs


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        (b"", []),
        (b"db=d&q=1&q=2", [("db", "d"), ("q", "1"), ("q", "2")]),
        (b"a=&b&c=x+y%20z", [("a", ""), ("b", ""), ("c", "x y z")]),
        (b"q=%C3%A9", [("q", "é")]),
        ("q=é".encode(), [("q", "é")]),  # not every server refuses plain bytes, as uvicorn does
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_names_and_values(query: bytes, pairs: list[tuple[str, str]], strict: bool) -> None:
    """Breaks if blank or repeated ones are lost, or if plain UTF-8 is read as Latin-1."""
    assert query_pairs(query, strict=strict) == pairs


@pytest.mark.parametrize("query", [b"q=%FF", b"q=\xff"])
def test_what_is_not_utf_8_is_replaced_or_refused(query: bytes) -> None:
    assert query_pairs(query) == [("q", "\ufffd")]
    with pytest.raises(InvalidRequest, match="the query string is not UTF-8"):
        query_pairs(query, strict=True)
