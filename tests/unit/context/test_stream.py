"""The streams that stand before standard output and error while engines are open."""

from __future__ import annotations

import gc
import io

from walmill_worker.capture import _Stream


def test_a_stream_that_outlives_the_one_behind_it_goes_without_a_complaint() -> None:
    # pytest turns what a finaliser raises into a failure; Python flushes each stream in its finaliser
    inner = io.StringIO()
    stream = _Stream(inner)
    stream.write("said")
    assert inner.getvalue() == "said"
    inner.close()
    stream.flush()
    del stream
    gc.collect()


def test_a_stream_of_a_host_needs_no_more_than_write_and_flush() -> None:
    class Plain:
        flushed = False

        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            self.flushed = True

    plain = Plain()
    _Stream(plain).flush()  # type: ignore[arg-type]
    assert plain.flushed
