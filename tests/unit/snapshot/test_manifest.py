"""Manifests: what is written is read again, whatever fails between; what is damaged is refused."""

from __future__ import annotations

import json
import zlib

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from rpds import HashTrieMap

from walmill.cache.state import Entry, Space, State, database_space, trigger_space
from walmill.errors import Conflict, DataCorruption, Unavailable
from walmill.model import catalog as catalogs
from walmill.model.catalog import Catalog, Token, create_database, put_token
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.model.valuecache import ValueCache
from walmill.snapshot.manifest import Contents, Manifest, load, read_files, write_manifest
from walmill.snapshot.names import Attempt, manifest_number, manifest_path
from walmill.snapshot.parts import PART_BYTES, StateMemo, encode_spaces
from walmill.snapshot.sweep import damaged_files, unreferenced
from walmill.store.view import View

NAMES = st.sampled_from(["a", "b", "c d", "é=/.", "_internal", "\U0001f600"])
NUMBERS = st.integers(-(2**63), 2**63 - 1)
ARGUMENTS = st.dictionaries(
    st.text(max_size=3),
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.lists(st.floats(-1, 1), max_size=2),
)


@st.composite
def catalog_values(draw):
    """A catalog after some definitions, of every kind that there is."""
    catalog = Catalog()
    for op in draw(st.lists(st.sampled_from(sorted(catalogs._CHANGES)), max_size=25)):
        definition = draw(a_definition(catalog, op))
        if definition is not None:
            catalog = catalog.apply(definition)
    return catalog


@st.composite
def a_definition(draw, catalog, op):
    name = draw(NAMES)
    database = draw(st.sampled_from(sorted(catalog.databases))) if catalog.databases else None
    trigger = draw(st.sampled_from(sorted(catalog.triggers))) if catalog.triggers else None
    table = draw(st.sampled_from(sorted(catalog.tables))) if catalog.tables else None
    columns = {
        "tags": draw(st.lists(st.sampled_from(["t", "u", "v"]), unique=True)),
        "fields": draw(st.dictionaries(st.sampled_from(["f", "g", "z"]), st.sampled_from(["int64", "string", "bool"]))),
    }
    match op:
        case "create_database":
            if name in catalog.names:
                return None
            return create_database(catalog, name, draw(NUMBERS), draw(st.none() | NUMBERS))
        case "put_token":
            until = draw(st.none() | NUMBERS)
            return put_token(Token(name, "0f", draw(NUMBERS), until, tuple(draw(st.lists(NAMES, max_size=2)))))
        case "drop_token":
            return {"op": op, "name": name} if name in catalog.tokens else None
        case "drop_database":
            return None if database is None else {"op": op, "id": database}
        case "create_table":
            if database is None or name in catalog.databases[database].tables:
                return None
            return {"op": op, "id": catalog.next_id, "db": database, "name": name, **columns}
        case "set_retention":
            of_table = None if table is None or draw(st.booleans()) else table
            if of_table is None and database is None:
                return None
            return {"op": op, "db": database, "table": of_table, "period": draw(st.none() | NUMBERS)}
        case "delete_database":
            if database is None:
                return None
            return {"op": op, "id": database, "at": draw(NUMBERS), "until": draw(st.none() | NUMBERS)}
        case "restore_database":
            if database is None or catalog.databases[database].deleted is None or name in catalog.names:
                return None
            return {"op": op, "id": database, "name": name}
        case "delete_table":
            if table is None:
                return None
            return {"op": op, "id": table, "at": draw(NUMBERS), "until": draw(st.none() | NUMBERS)}
        case "restore_table":
            if table is None or catalog.tables[table].deleted is None:
                return None
            owner = catalog.databases[catalog.tables[table].database_id]
            return None if name in owner.tables else {"op": op, "id": table, "name": name}
        case "drop_table":
            return None if table is None else {"op": op, "id": table}
        case "add_columns":
            return None if table is None else {"op": op, "id": table, **columns}
        case "drop_trigger":
            return None if trigger is None else {"op": op, "id": trigger}
        case "put_trigger":
            if database is None:
                return None
            if trigger is not None and draw(st.booleans()):
                old = catalog.triggers[trigger]
                return {"op": op, "trigger": evolve(old, state="paused", reason="why", generation=9).to_json()}
            if name in catalog.databases[database].triggers:
                return None
            made = Trigger(
                id=catalog.next_id,
                database_id=database,
                name=name,
                plugin="p",
                spec="table:x",
                arguments=draw(ARGUMENTS),
                grants=("x", "y"),
            )
            return {"op": op, "trigger": made.to_json()}
        case "put_cache":
            if table is None:
                return None
            cache = ValueCache(
                id=catalog.next_id,
                table_id=table,
                kind=draw(st.sampled_from(["last", "distinct"])),
                name=name,
                columns=tuple(draw(st.lists(NAMES, max_size=2))),
                values=draw(st.none() | st.just(("f", "time"))),
                ttl=draw(st.none() | st.integers(1, 2**62)),
            )
            return {"op": op, "cache": cache.to_json()}
        case "drop_cache":
            return {"op": op, "id": draw(st.sampled_from(sorted(catalog.caches)))} if catalog.caches else None
    raise AssertionError(f"a manifest is not tested with the definition {op!r}: add it here and to definitions_of")


@st.composite
def contents(draw):
    cursors = st.builds(
        Cursor,
        st.integers(0, 2**63),
        st.lists(st.tuples(st.integers(0, 9), st.integers(10, 20)), max_size=2).map(tuple),
        st.none() | NUMBERS,
    )
    state = State()
    for name, key, value, expires, version in draw(
        st.lists(
            st.tuples(
                st.sampled_from([trigger_space(1), trigger_space(2), database_space(3)]),
                st.text(max_size=4),
                st.binary(max_size=20) | st.just(bytes(200_000)),
                st.none() | NUMBERS,
                st.integers(0, 2**63),
            ),
            max_size=30,
        )
    ):
        state = evolve(
            state, spaces=state.spaces.insert(name, state.space(name).put(key, Entry(value, expires, version)))
        )
    view = View(
        sequence=draw(st.integers(0, 2**63)),
        time=draw(NUMBERS),
        catalog=draw(catalog_values()),
        cursors=HashTrieMap(draw(st.dictionaries(st.integers(1, 9), cursors))),
        state=state,
    )
    listed = draw(st.lists(st.tuples(st.integers(1, 3), NUMBERS, st.integers(1, 99)), max_size=20))
    files: dict[int, list[DataFile]] = {}
    for place, (table, low, last) in enumerate(sorted(listed, key=lambda one: one[2])):
        files.setdefault(table, []).append(
            DataFile(f"tables/x/month=2026-1{place % 3}/{place}", table, 1, 2, low, low, 1, last, 7, ((low, low),))
        )
    newest = draw(st.dictionaries(st.integers(1, 9), NUMBERS))
    return Contents(view, {table: tuple(found) for table, found in files.items()}, newest)


def check(loaded, expected):
    assert loaded.view == expected.view
    by_path = {table: sorted(files, key=lambda one: one.path) for table, files in loaded.files.items()}
    assert by_path == {table: sorted(files, key=lambda one: one.path) for table, files in expected.files.items()}
    for files in loaded.files.values():
        assert [one.last_sequence for one in files] == sorted(one.last_sequence for one in files)
    assert loaded.newest == expected.newest


@settings(max_examples=90)
@given(st.lists(contents(), min_size=1, max_size=3))
def test_the_newest_manifest_gives_what_was_written(new_store, steps):
    store, memo, previous = new_store(), StateMemo(), None
    for number, step in enumerate(steps, 1):
        previous = write_manifest(store, step, Attempt(number), epoch=4, now=number, previous=previous, memo=memo)
        loaded = load(store)
        check(loaded, step)
        assert (loaded.manifest, loaded.next_number, loaded.report) == (previous, number + 1, ())
        assert read_files(store, previous) == loaded.files
        assert store.written[-1] == manifest_path(number)  # the root is the last


def space(entries: int, size: int, changed: int = -1) -> Space:
    made = Space()
    for number in range(entries):
        made = made.put(f"key{number}", Entry(b"!" if number == changed else bytes(size), None, number))
    return made


def example(files: int = 3, spaces: dict[str, Space] | None = None) -> Contents:
    catalog = Catalog()
    for name in ("one", "two"):
        catalog = catalog.apply(create_database(catalog, name, 5))
    state = State(HashTrieMap({"t:1": space(3, 10), "d:1": space(30, 100_000)} if spaces is None else spaces))
    listed = tuple(
        DataFile(f"tables/one-1/t-2/month=2026-11/{number:020}-00000001.00-0.parquet", 2, 5, 6, 7, 8, number, number, 9)
        for number in range(files)
    )
    view = View(sequence=10, time=20, catalog=catalog, cursors=HashTrieMap({3: Cursor(4)}), state=state)
    return Contents(view, {2: listed}, {2: 8})


def write(store, contents, number, previous=None, memo=None):
    return write_manifest(store, contents, Attempt(number, "00"), epoch=1, now=2, previous=previous, memo=memo)


def test_nothing_gives_nothing(store):
    loaded = load(store)
    assert (loaded.view, loaded.files, loaded.manifest, loaded.next_number) == (View(), {}, None, 1)


def test_what_did_not_change_is_not_written_again(store):
    before = example()
    first = write(store, before, 1)
    del store.written[:]
    write(store, before, 2, first)  # also without a memo, as after a restart
    assert store.written == [manifest_path(2)]


def test_a_memo_spares_looking_at_state_that_did_not_change(store, monkeypatch):
    memo, before = StateMemo(), example()
    first = write(store, before, 1, None, memo)
    looked: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        "walmill.snapshot.parts.encode_spaces",
        lambda state, names: looked.append(names) or encode_spaces(state, names),
    )
    changed = before.view.state.apply("t:1", [("key1", b"new", None)], 11)
    after = evolve(before, view=evolve(before.view, state=changed))
    write(store, after, 2, first, memo)
    assert looked == [("t:1",)]
    check(load(store), after)


def test_one_more_file_among_ten_thousand_writes_one_part_of_many(store):
    first = write(store, example(10_000), 1)
    assert len(first.parts["files"]) > 40
    del store.written[:]
    write(store, example(10_001), 2, first)
    assert len(store.written) <= 3  # at most two parts and the root
    assert len(load(store).files[2]) == 10_001


def test_one_key_of_a_large_space_writes_one_part_of_it(store):
    first = write(store, example(spaces={"d:1": space(5000, 2000)}), 1)
    assert len(first.parts["state"]) >= 5000 * 2000 / PART_BYTES / 2
    del store.written[:]
    after = example(spaces={"d:1": space(5000, 2000, changed=77)})
    write(store, after, 2, first)
    assert len(store.written) == 2
    check(load(store), after)


def test_the_bytes_of_a_space_do_not_depend_on_its_history():
    one, other = space(2000, 3), Space()
    for key in sorted(one.entries, reverse=True):
        other = other.put(key, one.entries[key])
    first, second = (list(encode_spaces(State(HashTrieMap({"t:1": each})), ("t:1",))) for each in (one, other))
    assert first == second


CRASHES = [(place, applied) for place in range(12) for applied in (False, True)]


@pytest.mark.parametrize(("place", "applied"), CRASHES)
def test_a_crash_at_any_write_leaves_the_old_or_the_new(store, place, applied):
    before, after = example(), example(5, {"t:1": space(4, 11), "d:1": space(31, 100_001)})
    first = write(store, before, 1)
    store.fail_at, store.applied = len(store.written) + place, applied
    committed = True
    try:
        second = write(store, after, 2, first)
    except Unavailable:
        committed = False
    if store.written[-1] != manifest_path(2):
        assert not committed
    else:
        assert committed == (
            applied or store.fail_at is not None
        )  # a root that is there counts, whatever the answer was
    store.fail_at = None
    check(load(store), after if committed else before)
    if not committed:
        assert load(store).next_number == 2
        second = write_manifest(store, after, Attempt(2, "ff"), epoch=2, now=3, previous=load(store).manifest)
        check(load(store), after)
    third = write(store, example(6), 3, second)
    for path in list(unreferenced(store, [3], 3)):
        store.delete(path)
    check(load(store), example(6))
    named = {part.path for parts in third.parts.values() for part in parts}
    assert set(store.objects) == {*named, third.path}


def test_every_write_of_the_crash_test_was_tried(store):
    first = write(store, example(), 1)
    del store.written[:]
    write(store, example(5, {"t:1": space(4, 11), "d:1": space(31, 100_001)}), 2, first)
    assert 2 < len(store.written) < len(CRASHES) // 2


def test_the_second_writer_of_a_number_is_refused(store):
    first = write(store, example(), 1)
    write(store, example(4), 2, first)
    with pytest.raises(Conflict):
        write_manifest(store, example(5), Attempt(2, "ff"), epoch=2, now=3, previous=first)
    check(load(store), example(4))


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]


DAMAGE = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "flipped": flip,
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"\n",
    "another": lambda _: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_any_object_is_refused_and_named(store, damage):
    first = write(store, example(), 1)
    write(store, example(500), 2, first)
    whole = dict(store.objects)
    named = [part.path for parts in load(store).manifest.parts.values() for part in parts]
    for path in [*named, manifest_path(2)]:
        store.objects = dict(whole)
        changed = DAMAGE[damage](whole[path])
        if changed is None:
            del store.objects[path]
        else:
            store.objects[path] = changed
        if path == manifest_path(2) and damage == "empty":
            # created and never filled: nobody was told that it was there
            loaded = load(store)
            assert loaded.view.sequence == 10
            assert len(loaded.files[2]) == 3
            assert loaded.next_number == 3
            assert path in loaded.report[0]
            continue
        if path == manifest_path(2) and damage == "missing":
            # nothing was written after it, so nothing tells of it: the log does, which begins behind it
            assert load(store).manifest == first
            continue
        with pytest.raises(DataCorruption, match="backup") as caught:
            load(store)
        assert path in caught.value.message
        assert len(caught.value.message) < 400


def test_two_parts_that_were_swapped_are_refused(store):
    manifest = write(store, example(500), 1)
    one, other = manifest.parts["files"][:2]
    store.objects[one.path], store.objects[other.path] = store.objects[other.path], store.objects[one.path]
    with pytest.raises(DataCorruption, match=one.path):
        load(store)


def test_a_lost_manifest_is_noticed_by_what_was_written_after_it(store):
    first = write(store, example(), 1)
    second = write(store, example(4), 2, first)
    store.fail_at = len(store.written) + 1
    with pytest.raises(Unavailable):
        write(store, example(5, {"t:1": space(1, 1)}), 3, second)
    store.delete(manifest_path(2))
    with pytest.raises(DataCorruption, match=manifest_path(2)):
        load(store)


def sealed(members: dict) -> bytes:
    body = json.dumps(members, separators=(",", ":")).encode()[:-1]
    return body + b',"checksum":"%08x"}' % zlib.crc32(body)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"format": 3, "engine": "9.9.9"},
            r"has the format 3, written by Walmill 9\.9\.9; this is Walmill \d.*up to 2",
        ),
        ({"format": 3, "parts": None, "more": 1}, "has the format 3"),
        ({"number": 8}, "its number is 8"),
        ({"more": 1}, "cannot be read"),
        ({"parts": {"catalog": []}}, r"kinds \['catalog'\]"),
        ({"parts": [1]}, "cannot be read"),
    ],
)
def test_a_root_that_this_version_cannot_read(store, change, expected):
    manifest = write(store, example(), 1)
    members = json.loads(manifest.encode())
    del members["checksum"]
    store.objects[manifest.path] = sealed({**members, **change})
    with pytest.raises(DataCorruption, match=expected):
        load(store)


def test_a_root_is_what_any_json_reader_reads(store):
    manifest = write(store, example(), 1)
    assert json.loads(manifest.encode())["sequence"] == 10
    assert Manifest.decode(1, manifest.encode()) == manifest


def test_an_unknown_definition_is_told_with_its_part(store):
    manifest = write(store, example(), 1)
    (part,) = manifest.parts["catalog"]
    line = b'{"op":"fly"}\n'
    other = evolve(part, size=len(line), checksum=zlib.crc32(line))
    store.objects[part.path] = line
    store.objects[manifest.path] = evolve(manifest, parts={**manifest.parts, "catalog": (other,)}).encode()
    with pytest.raises(DataCorruption, match=f"{part.path}.*'fly'"):
        load(store)


def test_a_store_that_does_not_answer_is_no_damage(store, monkeypatch):
    write(store, example(), 1)

    def late(path: str) -> bytes:
        raise Unavailable("late")

    monkeypatch.setattr(store, "get", late)
    with pytest.raises(Unavailable):
        load(store)


def test_clean_up_leaves_what_is_kept_what_is_in_progress_and_what_is_not_ours(store):
    first = write(store, example(3), 1)
    second = write(store, example(4, {"t:1": space(1, 1)}), 2, first)
    third = write(store, example(5, {}), 3, second)
    place = "tables/one-1/t-2/month=2026-11/"
    for path in [
        *(file.path for file in example(5).files[2]),
        f"{place}{9:020}-00000002.aa-0.parquet",  # of an attempt that failed
        f"{place}{9:020}-00000004.bb-0.parquet",  # of one in progress
        f"{place}notes.txt",
        "parts/state/00000004.bb-11",
        "parts/state/00000001.cc-11",
        "manifests/readme",
    ]:
        store.objects[path] = b"x"
    before = set(store.objects)
    gone = list(unreferenced(store, [1, 3], 3))
    kinds = [path.split("/")[0] for path in gone]
    assert kinds == sorted(kinds, key=["manifests", "parts", "tables"].index)
    for path in gone:
        store.delete(path)
    assert {path for path in gone if not path.startswith("parts/")} == {
        manifest_path(2),
        f"{place}{9:020}-00000002.aa-0.parquet",
    }
    mine = {part.path for parts in second.parts.values() for part in parts}
    kept = {part.path for one in (first, third) for parts in one.parts.values() for part in parts}
    assert {path for path in gone if path.startswith("parts/")} == {*(mine - kept), "parts/state/00000001.cc-11"}
    assert kept <= set(store.objects)
    assert before - set(gone) == set(store.objects)
    check(load(store), example(5, {}))


def test_clean_up_stops_when_a_kept_manifest_cannot_be_read(store):
    first = write(store, example(3), 1)
    write(store, example(4), 2, first)
    with pytest.raises(DataCorruption, match="missing"):
        list(unreferenced(store, [2, 7], 2))
    assert sorted(number for path in store.objects if (number := manifest_number(path))) == [1, 2]


def test_files_that_are_not_as_they_must_be(store):
    listed = example(3).files
    one, other, third = listed[2]
    store.objects.update({one.path: bytes(one.bytes), third.path: b"short"})
    wrong = dict(damaged_files(store, listed))
    assert list(wrong) == [other, third]
    assert "is missing" in wrong[other]
    assert "has 5 bytes and must have 6" in wrong[third]
