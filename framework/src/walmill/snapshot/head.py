"""The newest manifest of a store, and writing the next: for whoever changes what files there are, from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakSet

from attrs import evolve
from rpds import HashTrieMap

from walmill.errors import Conflict, Superseded, WalmillError
from walmill.model.files import DataFile
from walmill.snapshot.manifest import Contents, Loaded, Manifest, write_manifest
from walmill.snapshot.names import MANIFESTS, Attempt, manifest_number, manifest_path
from walmill.snapshot.parts import StateMemo
from walmill.snapshot.store import MISSING, Store


class Head:
    """The newest manifest, held by the one process that writes manifests. Any thread may call any method.

    A `Loaded` that it gave keeps its manifest and all that this names from being cleaned up, as long as somebody holds it:
    whoever reads files holds the `Loaded` that lists them.

    Args:
        store: The object store.
        loaded: What `load` gave.
        epoch: Epoch of the log of this process.
        now: Tells wall-clock time, ns.
        shared: Whether another process may write manifests in this store, which no lock keeps away: then it is looked for.
        log: The object store in which the log is, as manifests say it; None for the disk of this machine.
    """

    def __init__(
        self,
        store: Store,
        loaded: Loaded,
        *,
        epoch: int,
        now: Callable[[], int],
        shared: bool = False,
        log: str | None = None,
    ) -> None:
        self.store = store
        self._shared = shared
        self._log = log
        self._epoch = epoch
        self._now = now
        self._current = loaded
        self._held: WeakSet[Loaded] = WeakSet([loaded])
        self._attempts: list[Attempt] = []
        self._memo = StateMemo()
        self._lost: dict[
            str, Contents
        ] = {}  # by nonce: commits at the next number of which nobody knows whether they are there
        self._guard = threading.Lock()  # held for moments only
        self._commits = threading.Lock()  # held while a manifest is written

    @property
    def current(self) -> Loaded:
        """What the newest manifest says."""
        return self._current

    @contextmanager
    def begin(self) -> Iterator[Attempt]:
        """Names for objects that are to be written now: nothing of them is cleaned up until this ends."""
        with self._guard:
            attempt = Attempt(self._current.next_number)
            self._attempts.append(attempt)
        try:
            yield attempt
        finally:
            with self._guard:
                self._attempts.remove(attempt)

    def commit(self, change: Callable[[Loaded], Contents | None]) -> Loaded | None:
        """Writes the next manifest. One at a time; a second caller waits.

        When the answer to an earlier commit was lost and it proves to be there, it counts, and this one goes on top of it.

        Args:
            change: What the next manifest is about, given what the newest one says: both may differ from what the caller began
                with. None if there is nothing to be done any more. It may be called twice.

        Returns:
            What the newest manifest says now; None if `change` gave None.

        Raises:
            Superseded: If another process wrote a manifest.
            Exception: What the store raised. Whether the manifest is there is not known then; the next commit finds out.
        """
        with self._commits:
            while True:
                current = self._current
                contents = change(current)
                if contents is None:
                    return None
                attempt = Attempt(
                    current.next_number
                )  # a nonce of its own: two commits may differ in what they are about
                try:
                    manifest = write_manifest(
                        self.store,
                        contents,
                        attempt,
                        epoch=self._epoch,
                        now=self._now(),
                        previous=current.manifest,
                        memo=self._memo,
                        log=self._log,
                    )
                except Conflict as error:
                    self._settle(current.next_number, error)
                except (WalmillError, OSError):
                    self._lost[attempt.nonce] = contents
                    raise
                else:
                    # A number that was taken may be free again: whoever took the store over cleans up.
                    self._look(manifest.number)
                    return self._advance(manifest, contents)

    def claim(self) -> Loaded:
        """Writes a manifest that says what the newest one says: from then on no other process that began before can write one.

        Raises:
            Superseded: If another process was faster.
            Exception: What the store raised.
        """
        after = self.commit(lambda current: Contents(current.view, current.files, current.newest))
        assert after is not None
        return after

    def look(self) -> None:
        """Looks whether another process has taken the store over; only if it is shared.

        Raises:
            Superseded: If so.
            Exception: What the store raised.
        """
        with self._commits:
            if not self._lost:  # else the newest manifest may be one of ours, which the next commit finds out
                self._look(self._current.next_number - 1)

    def _look(self, mine: int) -> None:
        if not self._shared:
            return
        newest = max((manifest_number(path) or 0 for path, _ in self.store.list(MANIFESTS)), default=0)
        if newest > mine:
            raise _superseded(self.store, newest, "")

    def clean_up(self) -> tuple[set[int], int]:
        """What `unreferenced` has to know: numbers of the manifests that stay, and the number before which attempts are over.

        Both are of one moment: an attempt that is not in progress any more is in the newest manifest, or failed.
        """
        with self._guard:
            newest = self._current.manifest
            kept = {one.manifest.number for one in self._held if one.manifest is not None}
            before = min([newest.number if newest else 0, *(one.number for one in self._attempts)])
        return kept, before

    def _settle(self, number: int, error: Conflict) -> None:
        """There is a manifest where ours should have gone: it is one of ours, or we are not the writer any more."""
        try:
            found = Manifest.decode(number, bytes(self.store.get(manifest_path(number))))
        except MISSING:
            raise error from None
        contents = self._lost.get(found.nonce)
        if contents is None:
            raise _superseded(self.store, number, f" (epoch {found.epoch}, this one has {self._epoch})")
        self._advance(found, contents)

    def _advance(self, manifest: Manifest, contents: Contents) -> Loaded:
        files = {
            table: tuple(sorted(listed, key=lambda one: (one.last_sequence, one.min_time, one.path)))
            for table, listed in contents.files.items()
            if listed
        }
        # without what the view was held by: each manifest would keep the one before it for ever
        view = evolve(contents.view, tables=HashTrieMap(), files={}, held=None)
        loaded = Loaded(view, files, dict(contents.newest), manifest, manifest.number + 1)
        with self._guard:
            self._lost.clear()
            self._current = loaded
            self._held.add(loaded)
        return loaded


def _superseded(store: Store, number: int, more: str) -> Superseded:
    return Superseded(
        f"the manifest {manifest_path(number)} in {getattr(store, 'name', 'the object store')} was written by another "
        f"process{more}: it has taken the store over, and only one engine may use a store; nothing that this one writes from now "
        "on would be seen"
    )


def replace_files(
    current: Loaded, table: int, gone: Iterable[DataFile], new: Iterable[DataFile]
) -> Mapping[int, Sequence[DataFile]] | None:
    """All files with some of a table's replaced; None if one of those is not there any more: then somebody was faster."""
    listed = current.files.get(table, ())
    removed = {one.path for one in gone}
    kept = [one for one in listed if one.path not in removed]
    if len(kept) + len(removed) != len(listed):
        return None
    return {**current.files, table: (*kept, *new)}
