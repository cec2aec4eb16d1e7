"""Where objects lie: the paths of data files, parts and manifests, and what a path tells about the attempt that wrote it."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from urllib.parse import quote

import numpy as np
from attrs import field, frozen

TABLES = "tables/"
PARTS = "parts/"
MANIFESTS = "manifests/"

DAY = 86_400_000_000_000
_MOST_NAME = 120  # bytes of a name in a path: most file systems take 255 for the whole component
_ATTEMPT = re.compile(
    r"tables/.*/\d{20}-(?P<file>[0-9a-f]{8,})\.[0-9a-f]+-\d+\.parquet|parts/[a-z]+/(?P<part>[0-9a-f]{8,})\."
)
_MANIFEST = re.compile(r"manifests/(\d{20})")


@frozen
class Attempt:
    """One attempt to write a manifest. Nobody else's objects have its names, so that nothing is ever written over.

    Attributes:
        number: The manifest that it wants to write.
        nonce: Random hexadecimal digits: two processes may try the same number.
    """

    number: int
    nonce: str = field(factory=lambda: secrets.token_hex(4))

    def __str__(self) -> str:
        return f"{self.number:08x}.{self.nonce}"


@frozen
class Place:
    """A table and its database, by name and id."""

    database: str
    database_id: int
    table: str
    table_id: int

    @property
    def prefix(self) -> str:
        """Where its files lie."""
        return f"{TABLES}{escape(self.database)}-{self.database_id}/{escape(self.table)}-{self.table_id}/"

    def file(self, month: str, last_sequence: int, attempt: Attempt, number: int) -> str:
        """The path of one of its data files; the numbers of an attempt's files must differ."""
        return f"{self.prefix}month={month}/{last_sequence:020}-{attempt}-{number}.parquet"


def escape(name: str) -> str:
    """A name as a part of a path: percent-encoded but for letters, digits, `_`, `-` and `~`, and cut if it is long.

    The id that stands behind it in a path makes it unique.
    """
    escaped = quote(name, safe="").replace(".", "%2E")
    if len(escaped) > _MOST_NAME:
        escaped = re.sub(r"%[0-9A-F]?$", "", escaped[:_MOST_NAME])
    return escaped


def part_path(kind: str, attempt: Attempt, digest: str) -> str:
    """The path of a part of a manifest."""
    return f"{PARTS}{kind}/{attempt}-{digest}"


def manifest_path(number: int) -> str:
    """The path of a manifest."""
    return f"{MANIFESTS}{number:020}"


def manifest_number(path: str) -> int | None:
    """The number of a manifest; None for a path that is not one."""
    match = _MANIFEST.fullmatch(path)
    return None if match is None else int(match[1])


def attempt_number(path: str) -> int | None:
    """The number of the manifest for which a data file or a part was written; None for a path that is neither."""
    match = _ATTEMPT.match(path)
    return None if match is None else int(match["file"] or match["part"], 16)


@lru_cache(maxsize=8192)
def month_of(day: int) -> str:
    """The month of a day (counted from 1970-01-01, UTC), as `2026-11`."""
    return str(np.datetime64(day, "D").astype("M8[M]"))


def month_of_path(path: str) -> str:
    """The month in the path of a data file; empty if there is none."""
    _, found, rest = path.rpartition("/month=")
    return rest.partition("/")[0] if found else ""
