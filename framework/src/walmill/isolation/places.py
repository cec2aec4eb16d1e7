"""What a worker is told of a batch: places in the log, which it maps. Bytes travel only where there is no such place."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from attrs import define, field

from walmill.isolation.batch import BatchSource
from walmill.wal.frame import padding
from walmill.wal.log import Log
from walmill.wal.rows import encode_rows
from walmill_worker.segments import KEPT
from walmill_worker.wire import close_all, memory_file


@define
class Known:
    """The log segments that one worker has mapped.

    Attributes:
        numbers: Their numbers, that used last at the end.
    """

    numbers: OrderedDict[int, None] = field(factory=OrderedDict)

    def forget(self) -> list[int]:
        """Which of them it should let go of."""
        gone = []
        while len(self.numbers) > KEPT:
            gone.append(self.numbers.popitem(last=False)[0])
        return gone


@define
class Told:
    """A batch for a message.

    Attributes:
        plain: Plain types.
        descriptors: Beside it; to be closed once it is sent.
    """

    plain: dict[str, Any]
    descriptors: list[int]


_MOST_FILES = 48
"""So many log segments are told of at once; rows in others are copied."""


def tell(batch: BatchSource, wal: Log, known: Known) -> Told:
    """A batch as places.

    Args:
        batch: The batch.
        wal: The log in which it lies.
        known: What the worker has mapped; what it learns with this message is added.

    Raises:
        MemoryError: If rows had to be copied, and there is no memory for that.
    """
    segments: list[int] = []
    descriptors: list[int] = []
    loose: list[Any] = []
    end = 0
    tables = []
    try:
        for number, parts in batch.parts().items():
            schema = batch.schema(number)
            places: list[list[int]] = []
            for commit, part in parts:
                place = None
                if part.encoded is not None:
                    place = wal.place_of(commit.sequence, part.encoded)
                if place is not None:
                    segment, offset = place
                    key = segment.header.number
                    if key not in known.numbers and len(descriptors) < _MOST_FILES:
                        descriptor = wal.descriptor(segment)
                        if descriptor is not None:
                            descriptors.append(descriptor)
                            segments.append(key)
                            known.numbers[key] = None
                    if key in known.numbers:
                        known.numbers.move_to_end(key)
                        assert part.encoded is not None
                        places.append([key, offset, part.encoded.size])
                        continue
                pieces = [part.encoded] if part.encoded is not None else list(encode_rows(part.batch))
                size = sum(memoryview(piece).nbytes for piece in pieces)
                places.append([-1, end, size])
                loose += [*pieces, bytes(padding(size))]
                end += size + padding(size)
            tables.append([schema.name, list(schema.tags), dict(schema.fields), places])
        if loose:
            descriptors.append(memory_file(loose))
    except BaseException:
        close_all(descriptors)
        raise
    plain = {
        "database": batch.database,
        "first": batch.first,
        "last": batch.last,
        "origin": batch.origin,
        "kind": batch.kind,
        "segments": segments,
        "tables": tables,
    }
    return Told(plain, descriptors)
