"""A file in memory is what the same calls make of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walmill.fs.memory import MemoryFile

SIZES = st.one_of(st.integers(0, 20_000), st.sampled_from([4095, 4096, 4097, 8192, 65_536]))
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "truncate", "allocate"]), SIZES, st.binary(min_size=1, max_size=9000))
)


@given(STEPS)
def test_it_holds_what_bytes_would_hold(steps: list[tuple[str, int, bytes]]) -> None:
    file, model = MemoryFile(), bytearray()
    for what, place, data in steps:
        if what == "write":
            start = min(place, len(model))
            file.pwritev([data], start)
            model[start : start + len(data)] = data
        elif what == "truncate":
            file.truncate(place)
            model = model[:place] + bytes(max(0, place - len(model)))
        else:
            file.allocate(place)
            model += bytes(max(0, place - len(model)))
        assert file.size() == len(model)
        assert file.pread(len(model) + 1, 0) == bytes(model)
