"""Opens an object store by what people call it: a directory, or a URL."""

from __future__ import annotations

import os
import re

from walmill.errors import InvalidRequest
from walmill.objects.local import LocalStore
from walmill.objects.protocol import ObjectStore

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(place: str) -> ObjectStore:
    """The store in a place.

    Args:
        place: A directory, which is made with the first object; `file://` may stand before it.

    Raises:
        InvalidRequest: It is empty, or a URL of a kind that is not known.
    """
    match = _URL.match(place)
    if match and match[1].lower() != "file":
        raise InvalidRequest(f"{place!r:.80} begins with {match[1]}://, which is not known; give a directory")
    path = place[match.end() :] if match else place
    if not path.strip() or "\0" in path:
        raise InvalidRequest("the place is empty: give a directory")
    return LocalStore(os.path.expanduser(path))  # noqa: PTH111 - the path need not be one of this system
