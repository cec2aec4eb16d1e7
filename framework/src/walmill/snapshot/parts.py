"""Parts: everything of a view but its rows, as bytes of immutable objects. A part that did not change is not written again.

Lists (definitions, cursors, files, newest times) are lines of JSON, and are cut into parts behind lines that a hash of their
key picks: a line that comes or goes changes the part that it is in, and no other one. State is msgpack: small spaces share a
part, a large one is spread over several by a hash of the key.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack
from attrs import define, evolve, field, frozen
from rpds import HashTrieMap

from walmill.cache.state import Entry, Space, State, weight
from walmill.errors import DataCorruption
from walmill.model.catalog import Catalog, definitions_of
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.snapshot.names import month_of_path

KINDS = ("catalog", "cursors", "state", "files", "newest")

PART_BYTES = 1 << 20
"""About how large a part gets; only one value that is larger makes a larger part."""

_FILES = 128  # lines of a part, on average
_DEFINITIONS = 256
_NUMBERS = 4096
_SPACES = 64
_SORTED = 512  # keys sorted at once: sorting many would hold the interpreter's lock


@frozen
class Part:
    """A stored part: where it is, and what it must be."""

    path: str
    size: int
    checksum: int

    def to_json(self) -> list[Any]:
        """As JSON types."""
        return [self.path, self.size, self.checksum]

    @property
    def digest(self) -> str:
        """The hash of its bytes, which its name ends with."""
        return self.path.rpartition("-")[2]


def encode_catalog(catalog: Catalog) -> Iterator[bytes]:
    """The definitions."""
    return _grouped(
        ((f"{one['op']} {place}", _line(one)) for place, one in _keyed(definitions_of(catalog))), _DEFINITIONS
    )


def _keyed(definitions: Iterable[dict[str, Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Definitions with what names them: an id or a name."""
    for one in definitions:
        inner = one.get("trigger") or one.get("cache")
        yield (inner["id"] if inner is not None else one.get("id", one.get("name"))), one


def encode_cursors(cursors: Mapping[int, Cursor]) -> Iterator[bytes]:
    """The cursors of triggers."""
    return _grouped(((str(one), _line([one, cursors[one].to_json()])) for one in sorted(cursors)), _NUMBERS)


def encode_newest(newest: Mapping[int, int]) -> Iterator[bytes]:
    """The newest times of tables."""
    return _grouped(((str(one), _line([one, newest[one]])) for one in sorted(newest)), _NUMBERS)


def encode_files(files: Mapping[int, Iterable[DataFile]]) -> Iterator[bytes]:
    """The data files, by table and month."""
    return _grouped(((one.path, _line(one.to_json())) for one in _by_month(files)), _FILES)


def _by_month(files: Mapping[int, Iterable[DataFile]]) -> Iterator[DataFile]:
    for table in sorted(files):
        yield from sorted(files[table], key=lambda one: (month_of_path(one.path), one.last_sequence, one.path))


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def _grouped(lines: Iterable[tuple[str, bytes]], mean: int) -> Iterator[bytes]:
    """Lines with their keys in groups of about `mean`, each at most a line larger than `PART_BYTES`."""
    group: list[bytes] = []
    size = 0
    for key, line in lines:
        group.append(line)
        size += len(line)
        if size >= PART_BYTES or zlib.crc32(key.encode("utf-8", "surrogatepass")) % mean == 0:
            yield b"".join(group)
            group, size = [], 0
    if group:
        yield b"".join(group)


def decode_lines(parts: Iterable[bytes]) -> Iterator[Any]:
    """What lines of JSON say."""
    for part in parts:
        for line in part.split(b"\n"):
            if line:
                yield json.loads(line.decode("utf-8", "surrogatepass"))


def decode_catalog(parts: Iterable[bytes], next_id: int, generation: int) -> Catalog:
    """The catalog of some definitions."""
    catalog = Catalog()
    for definition in decode_lines(parts):
        try:
            catalog = catalog.apply(definition)
        except DataCorruption:
            raise ValueError(f"this version does not know the definition {definition['op']!r}") from None
    return evolve(catalog, next_id=next_id, generation=generation)


def decode_cursors(parts: Iterable[bytes]) -> HashTrieMap[int, Cursor]:
    """The cursors of triggers."""
    return HashTrieMap({trigger: Cursor.from_json(cursor) for trigger, cursor in decode_lines(parts)})


def decode_newest(parts: Iterable[bytes]) -> dict[int, int]:
    """The newest times of tables."""
    return dict(decode_lines(parts))


def decode_files(parts: Iterable[bytes]) -> dict[int, tuple[DataFile, ...]]:
    """The data files of each table, in order of their last sequence."""
    found: dict[int, list[DataFile]] = {}
    for line in decode_lines(parts):
        file = DataFile.from_json(line)
        found.setdefault(file.table, []).append(file)
    return {
        table: tuple(sorted(files, key=lambda file: (file.last_sequence, file.min_time, file.path)))
        for table, files in found.items()
    }


# ---- state


@define(eq=False)
class StateMemo:
    """Which parts hold which spaces, as of the last manifest: spaces are immutable, so the same object needs no new part."""

    known: dict[tuple[str, ...], tuple[tuple[Space, ...], tuple[Part, ...]]] = field(factory=dict)


def group_spaces(state: State) -> Iterator[tuple[str, ...]]:
    """The names of all spaces, in groups that share parts; a large space is a group of its own."""
    group: list[str] = []
    size = 0
    for name in sorted(state.spaces):
        space = state.spaces[name]
        if space.size > PART_BYTES:
            yield (name,)
            continue
        group.append(name)
        size += space.size
        if size >= PART_BYTES or zlib.crc32(name.encode()) % _SPACES == 0:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def encode_spaces(state: State, names: tuple[str, ...]) -> Iterator[bytes]:
    """The parts of a group of spaces.

    A part is a sequence of msgpack values: a text begins the space of that name, a list is an entry of it.
    """
    if len(names) == 1 and state.spaces[names[0]].size > PART_BYTES:
        yield from _encode_large(names[0], state.spaces[names[0]])
        return
    packed: list[bytes] = []
    for name in names:
        packed.append(msgpack.packb(name))
        for keys in _ordered(state.spaces[name], 1):
            packed += _entries(state.spaces[name], keys)
    yield b"".join(packed)


def _encode_large(name: str, space: Space) -> Iterator[bytes]:
    parts = 1 << max(0, (space.size // PART_BYTES - 1).bit_length())
    buckets = list(_ordered(space, parts))
    for part in range(parts):
        packed = [msgpack.packb(name)]
        for keys in buckets[part::parts]:
            packed += _entries(space, keys)
        yield b"".join(packed)


def _ordered(space: Space, least: int) -> Iterator[list[str]]:
    """The keys in an order that depends on nothing but themselves; their hashes spread them over at least `least` lists."""
    count = max(least, 1 << max(0, (len(space.entries) // _SORTED).bit_length()))
    buckets: list[list[str]] = [[] for _ in range(count)]
    for key in space.entries:
        buckets[zlib.crc32(key.encode()) % count].append(key)
    for bucket in buckets:
        bucket.sort()
        yield bucket


def _entries(space: Space, keys: Iterable[str]) -> Iterator[bytes]:
    for key in keys:
        entry = space.entries[key]
        yield msgpack.packb([key, entry.value, entry.expires, entry.version])


def decode_state(parts: Iterable[bytes]) -> State:
    """The state of plugins."""
    spaces: dict[str, dict[str, Entry]] = {}
    for part in parts:
        values = msgpack.Unpacker(max_buffer_size=max(1, len(part)))
        values.feed(part)
        entries: dict[str, Entry] | None = None
        for value in values:
            if isinstance(value, str):
                entries = spaces.setdefault(value, {})
            elif entries is None:
                raise ValueError("the first value is not the name of a space")
            else:
                key, *rest = value
                entries[key] = Entry(*rest)
        if values.tell() != len(part):
            raise ValueError(f"an entry is cut off after {values.tell():,} of {len(part):,} bytes")
    return State(
        HashTrieMap(
            {
                name: Space(HashTrieMap(entries), sum(weight(key, entry.value) for key, entry in entries.items()))
                for name, entries in spaces.items()
            }
        )
    )
