"""Which format a client gets: by name, or by what it says that it accepts."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from walmill.errors import InvalidRequest
from walmill.query import encode


@frozen
class Format:
    """A format of results.

    Attributes:
        name: What a client calls it.
        content_type: Value of the header of the answer.
    """

    name: str
    content_type: str

    def encode(self, rows: encode.Rows) -> Iterator[bytes]:
        """The rows as chunks of bytes; see `walmill.query.encode`."""
        encoders = {
            "json": encode.to_json,
            "jsonl": encode.to_jsonl,
            "csv": encode.to_csv,
            "pretty": encode.to_pretty,
            "parquet": encode.to_parquet,
            "arrow": encode.to_arrow,
        }
        return encoders[self.name](rows)


JSON = Format("json", "application/json")
FORMATS = {
    each.name: each
    for each in (
        JSON,
        Format("jsonl", "application/jsonl"),
        Format("csv", "text/csv"),
        Format("pretty", "text/plain; charset=utf-8"),
        Format("parquet", "application/vnd.apache.parquet"),
        Format("arrow", "application/vnd.apache.arrow.stream"),
    )
}
_ALIASES = {"json_lines": "jsonl"}
_BY_TYPE = {each.content_type.partition(";")[0]: each for each in FORMATS.values() if each.name != "jsonl"}
_ANY = {"*/*", "application/*", "text/html", "application/xhtml+xml"}  # the last two: what a browser says by itself


def choose(name: str | None = None, accept: str | None = None) -> Format:
    """The format for an answer.

    Args:
        name: The format that the request names; None or empty if it names none.
        accept: The `Accept` header, which counts only without a name; None or empty means anything.

    Returns:
        The format; JSON if the client does not care. Of several types the one with the highest `q` wins, then the first.

    Raises:
        InvalidRequest: If the name is unknown, or no accepted type can be had.
    """
    if name:
        found = FORMATS.get(_ALIASES.get(name.lower(), name.lower()))
        if found is None:
            raise InvalidRequest(f"unknown format {name!r}; formats are {', '.join(FORMATS)}")
        return found
    if not accept or not accept.strip():
        return JSON
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if kind and quality > 0:
            wanted.append((-quality, place, kind))
    for _, _, kind in sorted(wanted):
        if kind in _BY_TYPE:
            return _BY_TYPE[kind]
        if kind == "text/*":
            return FORMATS["csv"]
        if kind in _ANY:
            return JSON
    raise InvalidRequest(f"invalid mime type {accept!r}; this server can send {', '.join(_BY_TYPE)}, or name a format")
