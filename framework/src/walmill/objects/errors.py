"""What an object store may answer instead. A message names the object or the setting, and never a credential."""

from __future__ import annotations

from walmill.errors import Conflict, NotFound, Unavailable, WalmillError


class NoSuchObject(NotFound):
    """There is no object at the path."""


class ObjectExists(Conflict):
    """There is an object at the path, and it is durable: nothing was written."""


class StoreUnavailable(Unavailable):
    """The store does not answer, is overloaded, or has no space: the same call may work later.

    What a call that writes did is not known then: the object may be there, whole, or not at all.
    """


class StoreRefused(WalmillError):
    """The store will not do it as long as nobody changes something: credentials, bucket, permissions, kind of store."""

    status = 503
