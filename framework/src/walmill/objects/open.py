"""Opens an object store by what people call it: a directory, or a URL."""

from __future__ import annotations

import os
import re

from walmill.errors import InvalidRequest
from walmill.fs.protocol import FileSystem
from walmill.objects.create import check_conditional_create
from walmill.objects.local import LocalStore
from walmill.objects.protocol import ObjectStore
from walmill.objects.remote import RETRY_SECONDS, RemoteStore

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(place: str, fs: FileSystem | None = None, *, patience: float = RETRY_SECONDS) -> ObjectStore:
    """The store in a place. A store that is not on this machine is asked whether it does what is needed of it.

    Args:
        place: A directory, which is made with the first object (`file://` may stand before it), or `s3://BUCKET/PREFIX`,
            `gs://…`, `az://…`. Credentials come from the environment.
        fs: The files of a directory; None takes those of the machine.
        patience: Seconds for which a request is tried again if the store is not on this machine.

    Raises:
        InvalidRequest: It is empty, or a URL of a kind that is not known.
        StoreRefused: The store does not keep what it is asked to create only if absent, or its credentials are wrong.
        StoreUnavailable: It does not answer.
    """
    match = _URL.match(place)
    if match and match[1].lower() != "file":
        store = RemoteStore(place, patience=patience)
        check_conditional_create(store)
        return store
    path = place[match.end() :] if match else place
    if not path.strip() or "\0" in path:
        raise InvalidRequest("the place is empty: give a directory, or a URL such as s3://BUCKET/PREFIX")
    return LocalStore(os.path.expanduser(path), fs)  # noqa: PTH111 - the path need not be one of this system
