"""A body of JSON rows: an array of objects, or an object on each line. Read row by row, so that other threads go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from attrs import field, frozen

from walmill.errors import InvalidRequest
from walmill.ingest.errors import RowError, note_refused, short
from walmill.model.schema import TIME
from walmill.units import parse_time

_BLANK = re.compile(r"[ \t\r\n]*")
_EXAMPLE = 'such as {"host": "a", "usage": 0.5, "time": "2026-01-31T09:30:00Z"}'


@frozen
class JsonRows:
    """The rows of a body.

    Attributes:
        rows: Number and content of each row that can be read; `time` is an int of ns, or None.
        errors: Why the others cannot be read.
    """

    rows: list[tuple[int, dict[str, Any]]] = field(factory=list)
    errors: list[RowError] = field(factory=list)

    def add(self, number: int, row: Any) -> None:
        """Takes a row, or notes what is wrong with it; raises `RowError` for one bad row too many."""
        if not isinstance(row, dict):
            problem = f"{short(row)} is no row: a row is a JSON object, {_EXAMPLE}"
            note_refused(self.errors, RowError(number, None, problem))
            return
        try:
            if TIME in row:
                row[TIME] = _nanos(row[TIME])
        except InvalidRequest as error:
            note_refused(self.errors, RowError(number, TIME, error.message))
        else:
            self.rows.append((number, row))


def read_json_rows(body: bytes) -> JsonRows:
    """Reads a body that begins with `[` as an array, and any other as lines.

    Args:
        body: UTF-8, with or without a byte order mark.

    Returns:
        The rows with their numbers: from 1 by the place in the array, or by the line, blank ones counted.

    Raises:
        InvalidRequest: An array that is not JSON: what comes behind the damage cannot be told apart. In lines a bad one is an
            error of its own.
        RowError: More than `MOST_REFUSED` rows cannot be read.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    found = JsonRows()
    if body.lstrip()[:1] == b"[":
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the body is not UTF-8: byte {error.start} begins no character") from None
        for number, row in enumerate(_elements(text), 1):
            found.add(number, row)
        return found
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                row = _decode(line)
            except InvalidRequest as error:
                note_refused(found.errors, RowError(number, None, error.message))
            else:
                found.add(number, row)
    return found


def _nanos(time: object) -> int | None:
    if time is None or (isinstance(time, int) and not isinstance(time, bool)):
        return time
    if isinstance(time, str):
        return parse_time(time)
    raise InvalidRequest(
        f"{short(time)} is no time: write nanoseconds as a whole number, or text such as 2026-01-31T09:30:00Z"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member {short(twice)} occurs twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON: leave the member out, or write null")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _elements(text: str) -> Iterator[Any]:
    """The elements of an array, one by one."""
    place = _after_blanks(text, _after_blanks(text, 0) + 1)
    number = 0
    if text[place : place + 1] != "]":
        while True:
            number += 1
            try:
                element, place = _DECODER.raw_decode(text, place)
            except RecursionError:
                raise InvalidRequest(
                    f"row {number} is nested too deeply: a row holds numbers, texts, true and false"
                ) from None
            except ValueError as error:
                raise InvalidRequest(f"the body is not JSON: row {number}: {error}") from None
            yield element
            place = _after_blanks(text, place)
            mark = text[place : place + 1]
            if mark == "]":
                break
            if mark != ",":
                raise InvalidRequest(
                    f"the body is not JSON: row {number} is followed by "
                    f"{short(text[place : place + 20]) if mark else 'nothing'}, and not by ',' or ']' (char {place})"
                )
            place = _after_blanks(text, place + 1)
    end = _after_blanks(text, place + 1)
    if end < len(text):
        raise InvalidRequest(f"the body is not JSON: {short(text[end : end + 20])} follows the array (char {end})")


def _after_blanks(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match else place


def _decode(line: bytes) -> Any:
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the line is not UTF-8: byte {error.start} begins no character") from None
    except RecursionError:
        raise InvalidRequest("the line is nested too deeply: a row holds numbers, texts, true and false") from None
    except ValueError as error:
        raise InvalidRequest(f"the line is not JSON: {error}; a row is one object on one line, {_EXAMPLE}") from None
