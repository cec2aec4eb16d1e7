"""Rows that lie in the engine's log, mapped: what a worker is given are places, not bytes."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

KEPT = 4
"""So many log segments stay mapped beside those that batches refer to."""


class Segments:
    """The log segments that this process has mapped. A mapping lives as long as anything made from it."""

    def __init__(self) -> None:
        self._mapped: OrderedDict[int, pa.Buffer] = OrderedDict()

    def learn(self, new: Sequence[int], descriptors: Sequence[int]) -> None:
        """Maps segments that were not known; their descriptors are closed.

        Args:
            new: Their numbers.
            descriptors: Of their files.
        """
        for number, descriptor in zip(new, descriptors, strict=True):
            # as large as the file is: one that is full was cut to its end
            self._mapped[number] = pa.py_buffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
            os.close(descriptor)

    def forget(self, numbers: Sequence[int]) -> None:
        """Lets go of segments; batches that lie in them keep them."""
        for number in numbers:
            self._mapped.pop(number, None)

    def part(self, number: int, offset: int, size: int) -> pa.Buffer:
        """The bytes at a place."""
        return self._mapped[number].slice(offset, size)
