"""Creating an object only if it is absent: what everything else rests on, checked at start, and settled after a lost answer."""

from __future__ import annotations

import contextlib
import uuid

from walmill.errors import WalmillError
from walmill.fs.protocol import Bytes
from walmill.objects.errors import NoSuchObject, ObjectExists, StoreRefused
from walmill.objects.protocol import ObjectStore

PROBES = "probe"
"""The prefix below which `check_conditional_create` works."""


def put_new_once(store: ObjectStore, path: str, data: Bytes) -> None:
    """As `put_new`, and an object with the same bytes is success: an earlier attempt wrote it, and its answer was lost.

    The bytes must tell writers apart (hold a nonce), else two of them both succeed. After `StoreUnavailable` it may be called
    again with the same bytes.

    Raises:
        ObjectExists: There is another object.
    """
    try:
        store.put_new(path, data)
    except ObjectExists:
        try:
            # both as unsigned bytes: those of an Arrow buffer are signed, and then no 200 equals its -56
            same = memoryview(store.get(path)).cast("B") == memoryview(data).cast("B")
        except NoSuchObject:  # removed meanwhile: whoever did that knew it
            same = False
        if not same:
            raise


def check_conditional_create(store: ObjectStore) -> None:
    """Makes sure that a store keeps what it is asked to create only if absent; also that it reads, lists and deletes.

    It creates a probe below `probe/`, and removes it.

    Raises:
        StoreRefused: The store ignores the condition, and two engines could overwrite each other's work; or it does not show
            what was written.
        StoreUnavailable: It cannot be found out now.
    """
    path = f"{PROBES}/{uuid.uuid4().hex}"
    first, second = f"first {path}".encode(), f"second {path}".encode()
    try:
        put_new_once(store, path, first)
        try:
            store.put_new(path, second)
        except ObjectExists:
            kept = bytes(store.get(path)) == first
        else:
            kept = False
        if not kept:
            raise StoreRefused(
                f"{store.name} ignores the condition of a conditional create (If-None-Match: *): a second engine could "
                "overwrite the work of the first; use a store that honours it, such as AWS S3, GCS, Azure, MinIO or SeaweedFS"
            )
        if (path, len(first)) not in set(store.list(PROBES)):
            raise StoreRefused(
                f"{store.name} does not list an object that was just written: a store must list at once what it has"
            )
    except WalmillError:
        with contextlib.suppress(WalmillError):
            store.delete(path)
        raise
    store.delete(path)
