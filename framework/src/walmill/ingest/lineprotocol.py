r"""Line protocol: a complete parser of plain Python, one line at a time.

`cpu,host=a,region=b usage=1.5,n=3i 1700000000000000000`: a measurement, tags, fields, a timestamp. The rules and the
texts of the errors are those of InfluxDB 3, with six differences, each in favour of the one who has to find the mistake:

- `line_number` is the physical line of the body, also after blank lines, comments and newlines inside quotes;
- a float beyond the largest 64-bit float is refused instead of stored as infinity;
- a tag given twice, a name that is tag and field, and the name `time` are refused;
- a NUL in the name of a tag or a field is refused: queries would see the name only up to it;
- a body that is not UTF-8 loses only the lines that hold the bad bytes;
- `\r\n` ends a line as `\n` does, and spaces after the last field are ignored.

Names (measurement, tag keys and values, field keys) know the escapes `\,` `\ ` `\\` and, except the measurement, `\=`; a
backslash before anything else, also before a newline, stands for itself and keeps what follows. Strings know `\"` and
`\\`. Quotes mean something only right after the `=` of a field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from walmill.errors import InvalidRequest
from walmill.ingest.errors import LineError
from walmill.ingest.names import STRING_BYTES, nul_problem, reserved_time, size_problem
from walmill.ingest.precision import INT64_MAX, INT64_MIN, Precision, to_nanos, truncate
from walmill.model.schema import TIME, FieldType

Value: TypeAlias = int | float | str | bool
Tags: TypeAlias = tuple[tuple[str, str], ...]
Fields: TypeAlias = tuple[tuple[str, FieldType, Value], ...]

UINT64_MAX = 2**64 - 1
_CONTEXT_CHARS = 10
_SHOWN_CHARS = 100
_DIGITS = 20  # of the largest uint64
_SHORT_LINE = STRING_BYTES // 4  # so many characters hold no name or value that is too long

# One physical line is not always one line: a newline may be escaped, or stand inside a string.
_LINE = re.compile(
    r"""
    (?: [^\\ \n]++ | \\.? )*+                       # measurement and tags, up to the first space
    (?: [ ]
        (?: [^\\\n=]++                              # fields and timestamp
          | = (?: " (?: [^"\\]++ | \\.? )*+ "? )?   # a string, closed or running to the end of the body
          | \\.?
        )*+
    )?
    """,
    re.VERBOSE | re.DOTALL,
)
_NEEDS_CARE = re.compile('["\\\\\t\0\r\udc80-\udcff]')
_UNDECODED = re.compile("[\udc80-\udcff]")

_MEASUREMENT = re.compile(r"(?:[^ \t\n\0,\\]++|\\.?)*+", re.DOTALL)
_KEY = re.compile(r"(?:[^ \t\n=\\]++|\\.?)*+", re.DOTALL)
_TAG_VALUE = re.compile(r"(?:[^ \t\n,\\]++|\\.?)*+", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_NUMBER_OR_BOOL = re.compile(
    r"(-?[0-9]++)i"
    r"|([0-9]++)u"
    r"|(-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)"
    r"|(true|True|TRUE|t|T)"
    r"|(false|False|FALSE|f|F)"
)
_TIMESTAMP = re.compile(r"-?[0-9]++")
_ESCAPED_IN_MEASUREMENT = re.compile(r"\\([, \\])")
_ESCAPED_IN_NAME = re.compile(r"\\([,= \\])")
_ESCAPED_IN_STRING = re.compile(r'\\(["\\])')


class Point(NamedTuple):
    """One valid line.

    Attributes:
        measurement: Name of the table.
        tags: Names and values in the order of the line.
        fields: Names, types and values in the order of the line, at least one.
        time: Nanoseconds since the epoch.
        line_number: Physical line of the body in which it starts, from 1.
        line: The line as it came, without its end.
    """

    measurement: str
    tags: Tags
    fields: Fields
    time: int
    line_number: int
    line: str

    def error(self, message: str) -> LineError:
        """A refusal of this line."""
        return LineError(self.line_number, message, self.line)


class Parsed(NamedTuple):
    """What a body holds: `points` and `errors`, each in the order of the lines; both empty for blanks and comments."""

    points: list[Point]
    errors: list[LineError]


class _Refused(ValueError):
    """The line is not valid; the argument is the message."""


def parse(body: bytes, *, precision: Precision, default_time: int) -> Parsed:
    """Reads a body of line protocol.

    Args:
        body: Any bytes, at best UTF-8; lines end with a newline, the last one may lack it.
        precision: Unit of the timestamps.
        default_time: Time of the lines that have none, ns; it is cut to the precision.

    Returns:
        Valid lines and refused lines. A refused line never affects another one, except that a string without closing
        quote runs to the next quote.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode(errors="surrogateescape")
    return parse_lines(split_lines(text), precision, lambda number: default_time)


def parse_lines(lines: Iterable[tuple[int, str]], precision: Precision, default_time: Callable[[int], int]) -> Parsed:
    """Reads lines that were found already.

    Args:
        lines: Number and text of each, as `split_lines` gives them; bytes that are not UTF-8 are surrogates.
        precision: Unit of the timestamps.
        default_time: Time of a line without one, ns, by its number; it is cut to the precision.
    """
    series: dict[str, tuple[str, Tags, frozenset[str]] | None] = {}
    points: list[Point] = []
    errors: list[LineError] = []
    for number, line in lines:
        if not line or line[0] == "#":
            continue
        try:
            found = None if _NEEDS_CARE.search(line) else _parse_plain(line, series)
            if found is None:
                found = parse_line(line)
            if found is None:
                continue
            measurement, tags, fields, timestamp = found
            time = truncate(default_time(number), precision) if timestamp is None else to_nanos(timestamp, precision)
        except (_Refused, InvalidRequest) as refusal:
            errors.append(
                LineError(number, str(refusal), line.encode(errors="surrogateescape").decode(errors="replace"))
            )
        else:
            points.append(Point(measurement, tags, fields, time, number, line))
    return Parsed(points, errors)


def split_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""The lines of a body, each with the number of the physical line in which it starts.

    Args:
        text: The whole body.

    Yields:
        Number from 1, and the line without its `\n` or `\r\n`; blank lines and comments too.
    """
    if '"' not in text and "\\" not in text:
        for number, line in enumerate(text.split("\n"), 1):
            yield number, line[:-1] if line[-1:] == "\r" else line
        return
    number, start = 1, 0
    while start < len(text):
        end = text.find("\n", start)
        line = text[start:] if end < 0 else text[start:end]
        stripped = line.lstrip(" \t")
        if stripped[:1] != "#" and ('"' in stripped or "\\" in stripped):
            match = _LINE.match(text, start + len(line) - len(stripped))
            assert match is not None  # the pattern matches the empty string
            line = text[start : match.end()]
        yield number, line.removesuffix("\r")
        number += 1 + line.count("\n")
        start += len(line) + 1


def parse_line(line: str) -> tuple[str, Tags, Fields, int | None] | None:
    """Reads one line, whatever it holds.

    Args:
        line: The line without its end.

    Returns:
        Measurement, tags, fields, and the timestamp as it is written (within int64), None if there is none; or None for
        a blank line or a comment.

    Raises:
        ValueError: The line is not valid; the text of the error says why.
    """
    at = len(line) - len(line.lstrip(" \t\n"))
    if at == len(line) or line[at] == "#":
        return None
    if not line.isascii():
        _check_decoded(line)
    check_sizes = len(line) > _SHORT_LINE
    measurement, at = _name(line, at, _MEASUREMENT, _ESCAPED_IN_MEASUREMENT)
    if not measurement:
        raise _Refused("Invalid measurement was provided")
    if check_sizes:
        _check_size(measurement, "measurement")
    tags, at = _parse_tags(line, at, check_sizes)
    at = _skip_spaces(line, at, required=True)
    fields, at = _parse_fields(line, at, check_sizes)
    timestamp = _parse_timestamp(line, at)
    _check_names(tags, fields)
    return measurement, tags, fields, timestamp


def _parse_plain(
    line: str, series: dict[str, tuple[str, Tags, frozenset[str]] | None]
) -> tuple[str, Tags, Fields, int | None] | None:
    """Reads a line without quotes, backslashes, tabs, NUL and CR that looks as nearly all lines do.

    Without these characters a space always ends a section and a comma always ends a tag value or a field value, so when
    each piece between commas is `key=value`, splitting finds exactly what `parse_line` finds. Whatever looks different
    in any way, or is wrong, is left to it.

    Args:
        line: The line.
        series: What the heads of earlier lines of this body were, by their text; grows here.

    Returns:
        As `parse_line`; None if it has to be asked.
    """
    parts = line.split(" ")
    if len(parts) == 3:
        stamp = parts[2]
        if not 0 < len(stamp) < _DIGITS or _TIMESTAMP.fullmatch(stamp) is None:
            return None
        timestamp = int(stamp)
        if not INT64_MIN <= timestamp <= INT64_MAX:
            return None
    elif len(parts) == 2:
        timestamp = None
    else:
        return None
    if len(line) > _SHORT_LINE:
        return None
    head = parts[0]
    if head in series:
        known = series[head]
    else:
        known = series[head] = _plain_series(head)
    if known is None:
        return None
    measurement, tags, taken = known
    fields = []
    names = set()
    for item in parts[1].split(","):
        key, _, text = item.partition("=")
        match = _NUMBER_OR_BOOL.fullmatch(text)
        if match is None or not key:
            return None
        names.add(key)
        fields.append((key, *_value(match)))
    if len(names) != len(fields) or not taken.isdisjoint(names):
        return None
    return measurement, tags, tuple(fields), timestamp


def parse_head(head: str) -> tuple[str, Tags] | None:
    """Reads measurement and tags, everything before the first space that is not escaped.

    Returns:
        Measurement and tags in the order of the line; None if a line that begins so is not valid, or if `parse_line` has
        to look at all of it.
    """
    if _NEEDS_CARE.search(head) is None:
        known = _plain_series(head)
        return None if known is None or len(head) > _SHORT_LINE else known[:2]
    try:
        measurement, at = _name(head, 0, _MEASUREMENT, _ESCAPED_IN_MEASUREMENT)
        tags, at = _parse_tags(head, at, True)
        _check_names(tags, ())
    except _Refused:
        return None
    if not measurement or at != len(head) or head[0] in "# \t\n":
        return None
    return measurement, tags


def unescape_key(text: str) -> str | None:
    """The name of a field from how it is written; None if it is not valid."""
    try:
        name, at = _name(text, 0, _KEY, _ESCAPED_IN_NAME)
    except _Refused:
        return None
    return name if at == len(text) else None


def _plain_series(head: str) -> tuple[str, Tags, frozenset[str]] | None:
    """Measurement, tags, and the names that no field of the line may have; None if `parse_line` has to look."""
    measurement, *items = head.split(",")
    tags = []
    for item in items:
        key, _, value = item.partition("=")
        if not key or not value:
            return None
        tags.append((key, value))
    taken = frozenset([TIME, *(key for key, _ in tags)])
    if not measurement or len(taken) != len(tags) + 1:
        return None
    return measurement, tuple(tags), taken


def _parse_tags(line: str, at: int, check_sizes: bool) -> tuple[Tags, int]:
    tags = []
    tag_set = at + 1
    while at < len(line) and line[at] == ",":
        start = at + 1
        key, at = _name(line, start, _KEY, _ESCAPED_IN_NAME)
        if not key:
            raise _Refused(f"Expected tag key, got {_found(line, start)}")
        if line[at : at + 1] != "=":
            raise _Refused(f"Tag set malformed: could not find equals sign in `{_cut(line, tag_set)}`")
        start = at + 1
        value, at = _name(line, start, _TAG_VALUE, _ESCAPED_IN_NAME)
        if not value:
            raise _Refused(f"Expected tag value, got {_found(line, start)}")
        if check_sizes:
            _check_size(key, "tag key")
            _check_size(value, "tag value")
        tags.append((key, value))
    return tuple(tags), at


def _parse_fields(line: str, at: int, check_sizes: bool) -> tuple[Fields, int]:
    fields: list[tuple[str, FieldType, Value]] = []
    while True:
        start = at
        key, at = _name(line, start, _KEY, _ESCAPED_IN_NAME)
        found = _parse_value(line, at + 1) if key and line[at : at + 1] == "=" else None
        if found is None:
            if not fields:
                raise _Refused("No fields were provided")
            raise _Refused(_trailing(line, start))
        kind, value, at = found
        if check_sizes:
            _check_size(key, "field key")
            if isinstance(value, str):
                _check_size(value, "string")
        fields.append((key, kind, value))
        if line[at : at + 1] != ",":
            return tuple(fields), at
        at += 1


def _parse_value(line: str, at: int) -> tuple[FieldType, Value, int] | None:
    match = _NUMBER_OR_BOOL.match(line, at)
    if match is not None:
        kind, value = _value(match)
        return kind, value, match.end()
    match = _STRING.match(line, at)
    if match is None:
        return None
    text = match[1]
    return "string", _ESCAPED_IN_STRING.sub(r"\1", text) if "\\" in text else text, match.end()


def _value(match: re.Match[str]) -> tuple[FieldType, Value]:
    """Type and value of what `_NUMBER_OR_BOOL` found."""
    kind = match.lastindex
    if kind == 1:
        return "int64", _integer(match[1], INT64_MIN, INT64_MAX, "integer")
    if kind == 3:
        number = float(match[3])
        if math.isinf(number):
            raise _Refused(
                f"Unable to parse floating-point value `{_cut(match[3], 0, _SHOWN_CHARS)}`: "
                "it is beyond the largest 64-bit float, 1.7976931348623157e308"
            )
        return "float64", number
    if kind == 2:
        return "uint64", _integer(match[2], 0, UINT64_MAX, "unsigned integer")
    return "bool", kind == 4


def _parse_timestamp(line: str, at: int) -> int | None:
    start = at
    at = _skip_spaces(line, at)
    if at == len(line):
        return None
    match = _TIMESTAMP.match(line, at) if at > start else None
    if match is None:
        raise _Refused(_trailing(line, start))
    timestamp = _integer(match[0], INT64_MIN, INT64_MAX, "timestamp")
    end = _skip_spaces(line, match.end())
    if end < len(line):
        raise _Refused(_trailing(line, end))
    return timestamp


def _name(line: str, at: int, pattern: re.Pattern[str], escaped: re.Pattern[str]) -> tuple[str, int]:
    match = pattern.match(line, at)
    assert match is not None  # these patterns match the empty string
    name = match[0]
    if "\\" in name:
        name = escaped.sub(r"\1", name)
        if name[-1] == "\\":
            raise _Refused("Measurements, tag keys and values, and field keys may not end with a backslash")
    return name, match.end()


def _integer(digits: str, low: int, high: int, what: str) -> int:
    if len(digits) > _DIGITS:
        sign = "-" if digits[0] == "-" else ""
        significant = digits[len(sign) :].lstrip("0") or "0"
        number = int(sign + significant) if len(significant) <= _DIGITS else high + 1
    else:
        number = int(digits)
    if not low <= number <= high:
        raise _Refused(f"Unable to parse {what} value `{_cut(digits, 0, _SHOWN_CHARS)}`")
    return number


def _skip_spaces(line: str, at: int, *, required: bool = False) -> int:
    start = at
    while line[at : at + 1] == " ":
        at += 1
    if required and at == start:
        raise _Refused(f"Expected at least one space character, got {_found(line, start)}")
    return at


def _check_names(tags: Tags, fields: Fields) -> None:
    tag_names = set()
    for key, _ in tags:
        if key == TIME:
            raise _Refused(reserved_time("tag"))
        _check_nul(key, "tag key")
        if key in tag_names:
            raise _Refused(f"Must not contain duplicate tags, but `{_cut(key, 0, _SHOWN_CHARS)}` was repeated")
        tag_names.add(key)
    field_names = set()
    for key, _, _ in fields:
        if key == TIME:
            raise _Refused(reserved_time("field"))
        _check_nul(key, "field key")
        if key in field_names:
            raise _Refused(f"invalid line protocol - multiple instances of '{_cut(key, 0, _SHOWN_CHARS)}' field found")
        if key in tag_names:
            raise _Refused(
                f"'{_cut(key, 0, _SHOWN_CHARS)}' is a tag and a field in the same line: a column is one or the other"
            )
        field_names.add(key)


def _check_nul(name: str, what: str) -> None:
    problem = nul_problem(name, what)
    if problem:
        raise _Refused(problem)


def _check_size(text: str, what: str) -> None:
    problem = size_problem(text, what)
    if problem:
        raise _Refused(problem)


def _check_decoded(line: str) -> None:
    match = _UNDECODED.search(line)
    if match is not None:
        offset = len(line[: match.start()].encode())
        raise _Refused(f"the line is not valid UTF-8: byte 0x{ord(match[0]) - 0xDC00:02x} at offset {offset}")


def _found(line: str, at: int) -> str:
    return f"`{_cut(line, at)}`" if at < len(line) else "end of input"


def _trailing(line: str, at: int) -> str:
    return f"Could not parse entire line. Found trailing content: `{_cut(line, at)}`"


def _cut(line: str, at: int, limit: int = _CONTEXT_CHARS) -> str:
    return line[at:] if len(line) - at <= limit else f"{line[at : at + limit]}..."
