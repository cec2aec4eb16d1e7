"""Values of plugin state: what goes in comes out, and nothing is ever unpickled."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill_hookspecs import UInt
from walmill_worker.values import decode, encode

zones = st.sampled_from([None, UTC, ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=5, minutes=45))])
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=zones),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2),
    max_leaves=4,
)
values = st.recursive(
    hashable | st.sets(hashable, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def _kinds(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return (type(value), [_kinds(one) for one in value])
    if isinstance(value, dict):
        return (dict, [(key, _kinds(one)) for key, one in value.items()])
    return type(value)


@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    got = decode(encode(value))
    assert got == value
    assert _kinds(got) == _kinds(value), "a tuple stays a tuple, an int an int"


@pytest.mark.parametrize("fold", [0, 1])
def test_the_hour_that_comes_twice(fold: int) -> None:
    when = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    got = decode(encode(when))
    assert (got, got.fold, got.utcoffset(), got.tzinfo.key) == (when, fold, when.utcoffset(), "Europe/Berlin")


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"a": [1, None], "b": ["x", "y"]}),
        pa.record_batch({"t": pa.array([1], pa.timestamp("ns"))}),
        pa.array([[1, 2], None]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.table({"a": pa.array([], pa.int8())}),
    ],
)
def test_arrow(value: Any) -> None:
    got = decode(encode({"kept": [value]}))["kept"][0]
    assert type(got) is type(value)
    assert got.equals(value)


@pytest.mark.parametrize(
    "value", [np.arange(6, dtype=np.int16).reshape(2, 3), np.float32(1.5), np.datetime64("2026-01-01")]
)
def test_numpy(value: Any) -> None:
    got = decode(encode(value))
    assert type(got) is type(value)
    assert got.dtype == value.dtype
    assert np.array_equal(got, value)


def test_an_unsigned_int_stays_one() -> None:
    got = decode(encode(UInt(2**64 - 1)))
    assert (type(got), got) == (UInt, 2**64 - 1)


def _loop() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


class _Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [object(), 1j, int, print, _loop(), np.array([object()]), {"deep": [{1, (range(3),)}]}, date, "\ud800", iter(())],
)
def test_what_cannot_be_kept(value: Any) -> None:
    with pytest.raises(TypeError, match="keep it on self"):
        encode(value)


def test_a_kind_of_str_becomes_a_str() -> None:
    assert type(decode(encode(_Text("x")))) is str


def test_a_pickle_is_bytes_and_nothing_else() -> None:
    import pickle

    bomb = pickle.dumps(print)
    assert decode(encode(bomb)) == bomb


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read_and_runs_nothing(garbage: bytes) -> None:
    with contextlib.suppress(Exception):  # whatever the libraries raise for what they cannot read
        decode(garbage)
