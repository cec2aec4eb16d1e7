"""Line protocol, many lines at once: the same answers as `lineprotocol.parse`, from numpy and Arrow.

A line is read here if its structure is the usual one: a head that is known or can be read by itself, fields with values
that are plausible, at most one timestamp. Lines with equal keys and types of fields make a group, whose values are cast
together. Every other line is given to the plain parser, one by one, so that there is one place that knows all rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from walmill.ingest.block import Block, Bools, Ints, Scratch, Words, line_numbers, read_block, sort_out
from walmill.ingest.errors import SlowBody
from walmill.ingest.heads import HeadCache, Shape
from walmill.ingest.lineprotocol import parse_lines, unescape_key
from walmill.ingest.numbers import MASKS, read_integers, scale_times
from walmill.ingest.precision import Precision, truncate
from walmill.ingest.scanned import Group, Scanned
from walmill.ingest.tokens import CLASSES, KINDS, Column, cast, plausible

KEY_BYTES = 64
"""Lines with a longer key are left to the plain parser."""
_RANDOM = np.random.default_rng()
_WORD_KEYS = _RANDOM.integers(1, 1 << 62, KEY_BYTES // 8, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_PLACE_KEYS = _RANDOM.integers(1, 1 << 62, 1024, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_LENGTH_KEY, _CLASS_KEY, _SHAPE_KEY = (
    np.uint64(key) for key in _RANDOM.integers(1, 1 << 62, 3, dtype=np.uint64) * 2 + 1
)
_ATTEMPTS = 3


class _Rows(NamedTuple):
    """Rows on their way: one value for each of them."""

    lines: Ints
    first: Ints
    second: Ints
    shapes: Ints
    series: Ints
    times: Ints

    def pick(self, which: Ints | Bools) -> _Rows:
        """Some of them."""
        return _Rows(*(values[which] for values in self))


class VectorParser:
    """Reads bodies. Its memory and what it knows of series are used again; one thread uses it."""

    def __init__(self, heads: HeadCache | None = None) -> None:
        self._scratch = Scratch()
        self._heads = HeadCache() if heads is None else heads

    def parse(
        self,
        body: bytes,
        *,
        precision: Precision,
        default_time: int | Sequence[tuple[int, int]],
        slow_limit: int | None = None,
    ) -> Scanned:
        """Reads a body of line protocol.

        Args:
            body: Any bytes.
            precision: Unit of the timestamps.
            default_time: Time of the lines that have none, ns. For joined bodies: pairs of the physical line from which on
                it is another time, and that time, rising; the first one is for line 1.
            slow_limit: Most lines that may be left to the plain parser; None for any number.

        Raises:
            SlowBody: If there are more.
        """
        pairs = ((1, default_time),) if isinstance(default_time, int) else default_time
        from_lines = np.array([line for line, _ in pairs])
        times = [truncate(time, precision) for _, time in pairs]
        original = body
        valid = body.isascii() or _is_utf8(body)
        if body[-1:] != b"\n":
            body += b"\n"
        if b"\r" in body and valid and b'"' not in body and b"\\" not in body:
            body = body.replace(b"\r\n", b"\n")
        numbers: Ints | None = None
        others: list[tuple[int, str]] = []
        block = read_block(body, self._scratch) if valid else None
        if block is None:
            body, numbers, others = sort_out(original)
            block = read_block(body, self._scratch) if body else None
            assert block is not None or not body  # regular lines make a regular body
        groups: list[Group] = []
        text_of = _no_text
        if block is not None:
            if numbers is None:
                numbers = line_numbers(block)
            stamp = (
                np.array(times)[np.searchsorted(from_lines, numbers, side="right") - 1] if len(times) > 1 else times[0]
            )
            groups, slow = self._read(block, precision, stamp)
            starts, ends = block.starts, block.ends
            groups = [group._replace(lines=numbers[group.lines]) for group in groups]
            if len(slow):
                places = zip(numbers[slow].tolist(), starts[slow].tolist(), ends[slow].tolist(), strict=True)
                others += [(number, body[start:end].decode()) for number, start, end in places]
                others.sort()
            text_of = _Texts(body, numbers, starts, ends)
        if slow_limit is not None and len(others) > slow_limit:
            raise SlowBody(len(others))
        parsed = parse_lines(
            others,
            precision,
            lambda number: times[int(np.searchsorted(from_lines, number, side="right")) - 1],
        )
        return Scanned(groups, parsed.points, parsed.errors, text_of)

    def _read(self, block: Block, precision: Precision, default: Ints | int) -> tuple[list[Group], Ints]:
        """The groups of a block, and the lines that are left to the plain parser."""
        slow = [block.slow]
        lines, first, second = block.rows, block.first, block.second
        if not len(lines):
            return [], block.slow
        body = block.body
        begins, stops = block.starts[lines], block.places[first]
        shapes, series = self._heads.find(
            [body[begin:stop] for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True)]
        )
        good = shapes >= 0
        stamps, ends = block.places[second], block.ends[lines]
        there = stamps != ends
        if there.all():
            times, numeric = read_integers(block, stamps + 1, ends)
            times, fits = scale_times(times, precision)
            good &= numeric & fits
        else:
            times = np.array(np.broadcast_to(default if isinstance(default, int) else default[lines], len(lines)))
            given, numeric = read_integers(block, stamps[there] + 1, ends[there])
            given, fits = scale_times(given, precision)
            times[there] = given
            good[there] &= numeric & fits
        rows = _Rows(lines, first, second, shapes, series, times)
        if not good.all():
            slow.append(lines[~good])
            rows = rows.pick(good)
        groups: list[Group] = []
        if len(rows.lines):
            self._fields(block, rows, groups, slow)
        return groups, np.concatenate(slow) if len(slow) > 1 else slow[0]

    def _fields(self, block: Block, rows: _Rows, groups: list[Group], slow: list[Ints]) -> None:
        """Rows of one table and with one number of fields as a matrix as long as that goes well; the rest flat."""
        for _ in range(_ATTEMPTS):
            if not len(rows.lines):
                return
            middle = len(rows.lines) // 2
            counts = rows.second - rows.first
            alike = (counts == counts[middle]) & (rows.shapes == rows.shapes[middle])
            if alike.all():
                rest = self._matrix(block, rows, groups, slow)
                rows = rows.pick(rest) if len(rest) else rows.pick(slice(0, 0))  # type: ignore[arg-type]
            elif alike.sum() * 4 >= 3 * len(alike):
                some = rows.pick(alike)
                rest = self._matrix(block, some, groups, slow)
                left = ~alike
                left[np.flatnonzero(alike)[rest]] = True
                rows = rows.pick(left)
            else:
                break
        if len(rows.lines):
            self._flat(block, rows, groups, slow)

    def _matrix(self, block: Block, rows: _Rows, groups: list[Group], slow: list[Ints]) -> Ints:
        """Reads the rows that are like the one in the middle; the indices of the others."""
        count = int(rows.second[0] - rows.first[0]) // 2
        size = len(rows.lines)
        index = rows.first + np.arange(2 * count + 1)[:, None]
        places = block.places[index]
        key_starts, equals, value_ends = places[0:-1:2] + 1, places[1::2], places[2::2]
        value_starts = equals + 1
        kinds = block.delimiters[index]
        classes = CLASSES[block.bytes[value_ends - 1]]
        lengths = equals - key_starts
        middle = size // 2
        length, kind = lengths[:, middle], classes[:, middle]
        good = (kinds[1::2] == 61).all(0) & (kinds[2:-1:2] == 44).all(0)
        good &= (lengths == length[:, None]).all(0) & (classes == kind[:, None]).all(0)
        good &= plausible(block, value_starts, value_ends, classes).all(0)
        longest = int(length.max())
        if not good[middle] or longest > KEY_BYTES or length.min() < 1:
            slow.append(rows.lines[middle : middle + 1])
            return np.delete(np.arange(size), middle)
        for done in range(0, longest, 8):
            part = np.flatnonzero(length > done)
            words = block.words[key_starts[part] + done] & MASKS[np.minimum(length[part] - done, 8)][:, None]
            good &= (words == words[:, middle : middle + 1]).all(0)
        keys = [
            block.body[start : start + width].decode()
            for start, width in zip(key_starts[:, middle].tolist(), length.tolist(), strict=True)
        ]
        rest = np.zeros(0, np.int64)
        if not good.all():
            rest = np.flatnonzero(~good)
            value_starts, value_ends = value_starts[:, good], value_ends[:, good]
            rows = rows.pick(good)
            size = len(rows.lines)
        columns = [Column(int(one), place * size, (place + 1) * size) for place, one in enumerate(kind.tolist())]
        arrays, bad = cast(block, value_starts.reshape(-1), value_ends.reshape(-1), columns)
        wrong = None if bad is None else np.unique(bad % size)
        self._emit(rows, int(rows.shapes[0]), keys, kind.tolist(), arrays, wrong, groups, slow)
        return rest

    def _flat(self, block: Block, rows: _Rows, groups: list[Group], slow: list[Ints]) -> None:
        """Reads rows of any tables and fields: their tokens in one row of numbers, grouped by what they are."""
        while len(rows.lines):
            size = len(rows.lines)
            counts = (rows.second - rows.first) >> 1
            ends = np.cumsum(counts)
            offsets = ends - counts
            owner = np.repeat(np.arange(size), counts)
            place = np.arange(int(ends[-1])) - offsets[owner]
            index = rows.first[owner] + 2 * place + 1
            key_starts = block.places[index - 1] + 1
            equals = block.places[index]
            value_ends = block.places[index + 1]
            value_starts, lengths = equals + 1, equals - key_starts
            classes = CLASSES[block.bytes[value_ends - 1]]
            last = place == counts[owner] - 1
            good = (block.delimiters[index] == 61) & ((block.delimiters[index + 1] == 44) | last)
            good &= (lengths > 0) & (lengths <= KEY_BYTES)
            good &= plausible(block, value_starts, value_ends, classes)
            if not good.all():
                keep = np.logical_and.reduceat(good, offsets)
                slow.append(rows.lines[~keep])
                rows = rows.pick(keep)
                continue
            words, hashes = _key_words(block, key_starts, lengths, classes)
            signs = np.add.reduceat(hashes * _PLACE_KEYS[place], offsets)
            signs += (rows.shapes.astype(np.uint64) + np.uint64(1)) * _SHAPE_KEY
            order = np.argsort(signs, kind="stable")
            ordered = signs[order]
            begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
            sizes = np.diff(begins, append=size)
            heads = order[begins]
            group_of = np.empty(size, np.int64)
            group_of[order] = np.repeat(np.arange(len(begins)), sizes)
            # equal hashes only propose; each row is compared with the first of its group
            head_of = heads[group_of]
            same = (counts == counts[head_of]) & (rows.shapes == rows.shapes[head_of])
            if same.all():
                model = offsets[head_of][owner] + place
                equal = (classes == classes[model]) & (lengths == lengths[model])
                for word in words:
                    equal &= word == word[model]
                if not equal.all():
                    same = np.logical_and.reduceat(equal, offsets)
            if not same.all():
                slow.append(rows.lines[~same])
                rows = rows.pick(same)
                continue
            widths = counts[heads]
            bases = np.cumsum(sizes * widths) - sizes * widths
            rank = np.empty(size, np.int64)
            rank[order] = np.arange(size) - np.repeat(begins, sizes)
            target = (bases[group_of] + rank)[owner] + place * sizes[group_of][owner]
            moved = np.empty(len(target), np.int64)
            moved[target] = np.arange(len(target))
            columns: list[Column] = []
            for group, head in enumerate(heads.tolist()):
                base, high = int(bases[group]), int(sizes[group])
                start = int(offsets[head])
                columns += [
                    Column(kind, base + number * high, base + (number + 1) * high)
                    for number, kind in enumerate(classes[start : start + int(widths[group])].tolist())
                ]
            arrays, bad = cast(block, value_starts[moved], value_ends[moved], columns)
            wrong = np.zeros(size, np.bool_)
            if bad is not None:
                wrong[owner[moved[bad]]] = True
            at = 0
            for group, head in enumerate(heads.tolist()):
                begin, high, start, width = (
                    int(begins[group]),
                    int(sizes[group]),
                    int(offsets[head]),
                    int(widths[group]),
                )
                members = order[begin : begin + high]
                keys = [
                    block.body[key : key + length].decode()
                    for key, length in zip(
                        key_starts[start : start + width].tolist(), lengths[start : start + width].tolist(), strict=True
                    )
                ]
                self._emit(
                    rows.pick(members),
                    int(rows.shapes[head]),
                    keys,
                    classes[start : start + width].tolist(),
                    arrays[at : at + width],
                    None if bad is None else np.flatnonzero(wrong[members]),
                    groups,
                    slow,
                )
                at += width
            return

    def _emit(
        self,
        rows: _Rows,
        shape_number: int,
        keys: list[str],
        classes: list[int],
        arrays: list[pa.Array],
        wrong: Ints | None,
        groups: list[Group],
        slow: list[Ints],
    ) -> None:
        """Makes a group of its parts, without the rows in which a value is none; all of it is left if a key is wrong."""
        shape: Shape = self._heads.shapes[shape_number]
        names = [unescape_key(key) if "\\" in key or "\t" in key else key for key in keys]
        if None in names or len(set(names)) != len(names) or not shape.taken.isdisjoint(names):
            slow.append(rows.lines)
            return
        if wrong is not None and len(wrong):
            slow.append(rows.lines[wrong])
            keep = np.ones(len(rows.lines), np.bool_)
            keep[wrong] = False
            rows = rows.pick(keep)
            if not len(rows.lines):
                return
            chosen = pa.array(np.flatnonzero(keep))
            arrays = [array.take(chosen) for array in arrays]
        fields = tuple((str(name), KINDS[kind]) for name, kind in zip(names, classes, strict=True))
        columns = [*shape.columns(rows.series), *arrays]
        groups.append(Group(shape.table, shape.tags, fields, columns, rows.times, rows.lines))  # type: ignore[arg-type]


class _Texts:
    """The text of lines, by number.

    Args:
        body: The body.
        numbers: The number of each line.
        starts: Where each starts.
        ends: Where each ends.
    """

    def __init__(self, body: bytes, numbers: Ints, starts: Ints, ends: Ints) -> None:
        self._body, self._numbers, self._starts, self._ends = body, numbers, starts, ends

    def __call__(self, number: int) -> str:
        place = int(np.searchsorted(self._numbers, number))
        return self._body[int(self._starts[place]) : int(self._ends[place])].decode()


def _no_text(number: int) -> str:
    raise KeyError(number)


def _key_words(block: Block, starts: Ints, lengths: Ints, classes: Ints) -> tuple[list[Words], Words]:
    """The bytes of keys as words, and a number for each key with its class."""
    hashes: Words = classes.astype(np.uint64) * _CLASS_KEY + lengths.astype(np.uint64) * _LENGTH_KEY
    words: list[Words] = []
    for number, done in enumerate(range(0, int(lengths.max()), 8)):
        word = block.words[starts + done] & MASKS[np.clip(lengths - done, 0, 8)]
        words.append(word)
        hashes += (word ^ (word >> np.uint64(29))) * _WORD_KEYS[number]
    return words, hashes ^ (hashes >> np.uint64(31))


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
