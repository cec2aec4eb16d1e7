"""Replay: from the log to the view that it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from walmill.model.cursor import Cursor
from walmill.store.commit import Commit, from_entry
from walmill.store.view import View
from walmill.wal.entry import Frame


def replay(frames: Iterable[Frame], each: Callable[[Commit], None] | None = None, view: View | None = None) -> View:
    """The view after all frames of a log.

    Args:
        frames: In the order of the log.
        each: Called with every commit, in order.
        view: Where they begin: that of a snapshot; nothing if None.

    Raises:
        DataCorruption: If a frame cannot be read.
    """
    view = View() if view is None else view
    for frame in frames:
        commits = [
            from_entry(entry, frame.first_sequence + place, frame.commit_time)
            for place, entry in enumerate(frame.entries)
        ]
        moves = frame.notes.get("cursors", {})
        if moves:
            view = view.move_cursors({int(trigger): Cursor.from_json(cursor) for trigger, cursor in moves.items()})
        for commit in commits:
            # rows alone change nothing but the sequence, and that of the last one is enough
            if commit.definitions or commit.cursor is not None or commit.state or commit is commits[-1]:
                view = view.decide(commit)
        if commits:
            view = view.store_rows(commits)
        for commit in commits:
            if each is not None:
                each(commit)
    return view
