"""Which files of a table are past its retention, which are cut, and from when on its rows are seen.

Expired rows are hidden from the moment on at which they expire: queries leave out what is before `cut_off`. Space comes back by
whole files, which go as soon as all their rows are expired, and by cutting: a file with expired rows and others is written again
without the former once they make up half of its span of time. So at most about half of a table's files is expired rows, and a row
is written again about once for it. A small file is not cut: it takes little room, and goes as a whole in the end.

Rows whose period is made longer later may come back in part only, as long as a file holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from walmill.model.files import DataFile

_FIRST = -(2**63)

LEAST_CUT = 2**20
"""Bytes of the smallest file that is cut."""


@frozen
class Expiry:
    """What retention means for a table at one moment.

    Attributes:
        cut_off: Rows with an earlier time are expired, ns: to be hidden as long as a file holds them.
        expired: Files in which every row is expired.
        kept: The others, in their order.
    """

    cut_off: int
    expired: tuple[DataFile, ...]
    kept: tuple[DataFile, ...]

    @property
    def mixed(self) -> tuple[DataFile, ...]:
        """Files with expired and other rows."""
        return tuple(file for file in self.kept if file.min_time < self.cut_off)

    def worth_cutting(self, least: int = LEAST_CUT) -> tuple[DataFile, ...]:
        """Files of which half the span of time is expired, and that have at least so many bytes."""
        return tuple(
            file
            for file in self.mixed
            if file.bytes >= least and 2 * (self.cut_off - file.min_time) >= file.max_time - file.min_time
        )


def plan_retention(files: Iterable[DataFile], period: int | None, now: int) -> Expiry:
    """What is expired.

    Args:
        files: The files of a table.
        period: How long its rows are kept, ns; None for ever.
        now: Wall-clock time, ns.
    """
    listed = tuple(files)
    if period is None:
        return Expiry(_FIRST, (), listed)
    cut_off = max(_FIRST, now - period)
    return Expiry(
        cut_off,
        tuple(file for file in listed if file.max_time < cut_off),
        tuple(file for file in listed if file.max_time >= cut_off),
    )
