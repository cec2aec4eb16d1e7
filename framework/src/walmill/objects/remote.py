"""Objects in a bucket of S3, GCS or Azure, or in memory, through obstore; imported with the first such store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from walmill.errors import InvalidRequest, WalmillError
from walmill.fs.protocol import Bytes
from walmill.objects.errors import NoSuchObject, ObjectExists, StoreRefused, StoreUnavailable
from walmill.objects.paths import check_path, check_prefix
from walmill.objects.protocol import Found

if TYPE_CHECKING:
    import obstore.store

KINDS = ("s3", "gs", "az", "memory")
"""Kinds of stores, by the beginning of their URLs."""

CONNECT_SECONDS = 5
RETRIES = 5
RETRY_SECONDS = 30
"""How long a request is tried again, in all."""

_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE's own means), AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "memory": "nothing",
}
_SECRET = re.compile(
    r"(?i)(access_?key|secret|token|signature|sig|credential|password|authorization)(=|: ?|\": ?\")[^\s&\",]+"
)
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_CONFIGURATION = ("NoSuchBucket", "bucket does not exist", "InvalidBucketName", "ContainerNotFound", "MissingRegion")


class RemoteStore:
    """An `ObjectStore` in a bucket, below a prefix.

    Requests are tried again with growing pauses when the server does not answer, is overloaded, or fails; never for longer than
    `patience`. Several processes may read; what they may write is up to them.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/PREFIX`, or `memory://`.
        environment: Where credentials, region and endpoint come from; None takes the environment of the process.
        patience: Seconds for which a request is tried again; one attempt takes at most twice as long.

    Raises:
        InvalidRequest: The URL or a variable is wrong.
    """

    def __init__(
        self, url: str, environment: Mapping[str, str] | None = None, *, patience: float = RETRY_SECONDS
    ) -> None:
        self._kind, self._bucket, self._prefix = parse_url(url)
        prefix = f"/{self._prefix}" if self._prefix else ""
        self.name = f"{self._kind}://{self._bucket}{prefix}"
        self._store = _open(
            self._kind, self._bucket, self._prefix, os.environ if environment is None else environment, patience
        )

    def get(self, path: str) -> pa.Buffer:
        """See `ObjectStore.get`."""
        import obstore

        with self._told("read", path):
            return pa.py_buffer(memoryview(obstore.get(self._store, check_path(path)).bytes()))

    def get_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """See `ObjectStore.get_range`."""
        import obstore

        with self._told("read", path):
            size = int(obstore.head(self._store, check_path(path))["size"])
            length = min(length, size - start)
            if length <= 0:
                return pa.py_buffer(b"")
            return pa.py_buffer(memoryview(obstore.get_range(self._store, path, start=start, length=length)))

    def put(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put`."""
        self._put(path, data, new=False)

    def put_new(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put_new`."""
        self._put(path, data, new=True)

    def _put(self, path: str, data: Bytes, *, new: bool) -> None:
        import obstore

        with self._told("write", path):
            # in one request: parts of a broken upload would stay in the bucket, unseen and paid for
            mode: Any = "create" if new else "overwrite"
            obstore.put(self._store, check_path(path), memoryview(data).cast("B"), mode=mode, use_multipart=False)

    def delete(self, path: str) -> None:
        """See `ObjectStore.delete`."""
        import obstore

        try:
            with self._told("delete", path):
                obstore.delete(self._store, check_path(path))
        except NoSuchObject:
            pass

    def list(self, prefix: str = "") -> Iterator[Found]:
        """See `ObjectStore.list`."""
        import obstore

        below = check_prefix(prefix)
        found: list[Found] = []
        with self._told("list", below):
            for page in obstore.list(self._store, below or None, chunk_size=1000):
                found += [(str(one["path"]), int(one["size"])) for one in page]
        return iter(sorted(found))

    def local_path(self, path: str) -> str | None:
        """See `ObjectStore.local_path`."""
        check_path(path)
        return None

    def sweep(self) -> int:
        """See `ObjectStore.sweep`."""
        return 0

    def close(self) -> None:
        """See `ObjectStore.close`."""

    @contextmanager
    def _told(self, what: str, path: str) -> Iterator[None]:
        """Turns what obstore raises into what an `ObjectStore` does."""
        from obstore import exceptions

        try:
            yield
        except WalmillError:
            raise
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            text = str(error)
            if any(word in text for word in _CONFIGURATION):
                raise StoreRefused(
                    f"{self._kind}://{self._bucket} is not there, or may not be seen: make it, or name another; {_reason(text)}"
                ) from None
            raise NoSuchObject(f"there is no object {path} in {self.name}") from None
        except exceptions.AlreadyExistsError:
            raise ObjectExists(f"there is an object {path} in {self.name} already") from None
        except exceptions.PreconditionError:  # two creates of one path at a time: some stores let both wait
            raise StoreUnavailable(
                f"{self.name} had another request for {path} at the same time", retry_after=1
            ) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreRefused(
                f"{self.name} does not allow to {what} {path or 'it'}: {_reason(str(error))}; check the credentials, which come "
                f"from {_VARIABLES[self._kind]}"
            ) from None
        except exceptions.NotSupportedError as error:
            raise StoreRefused(f"{self.name} cannot {what} {path}: {_reason(str(error))}") from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            text = str(error)
            if any(word in text for word in _CONFIGURATION) or "Missing" in text or "InvalidAccessKeyId" in text:
                raise StoreRefused(
                    f"{self.name} cannot be used: {_reason(text)}; check the bucket and the credentials, which come from "
                    f"{_VARIABLES[self._kind]}"
                ) from None
            raise StoreUnavailable(
                f"{self.name} could not {what} {path or 'its objects'}: {_reason(text)}", retry_after=5
            ) from None


def parse_url(url: str) -> tuple[str, str, str]:
    """Kind, bucket and prefix of a store's URL.

    Raises:
        InvalidRequest: It is not one.
    """
    shown = f"{url!r:.120}"
    parts = urlsplit(url)
    kind = parts.scheme.lower()
    if kind not in KINDS:
        raise InvalidRequest(
            f"the object store {shown} is none of {', '.join(f'{one}://…' for one in KINDS)}, and no directory"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidRequest(
            f"the object store {kind}://… must be BUCKET/PREFIX alone: credentials and options come from the environment "
            f"({_VARIABLES[kind]})"
        )
    if kind == "memory":
        if parts.netloc or parts.path.strip("/"):
            raise InvalidRequest(f"the object store {shown} must be memory:// alone")
        return kind, "", ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,222}", parts.netloc):
        raise InvalidRequest(f"the object store {shown} has no bucket: write {kind}://BUCKET or {kind}://BUCKET/PREFIX")
    return kind, parts.netloc, check_prefix(parts.path.strip("/"))


def _open(
    kind: str, bucket: str, prefix: str, environment: Mapping[str, str], patience: float
) -> obstore.store.ObjectStore:
    from obstore import exceptions
    from obstore import store as stores

    retry: Any = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=patience),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    client: Any = {
        "timeout": timedelta(seconds=2 * patience),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        # over plain http only if somebody says so, by the URL of the endpoint
        "allow_http": environment.get("AWS_ENDPOINT_URL", environment.get("AZURE_STORAGE_ENDPOINT", "")).startswith(
            "http://"
        ),
    }
    under: Any = {"prefix": prefix} if prefix else {}
    try:
        if kind == "memory":
            return stores.MemoryStore()
        if kind == "gs":
            return stores.GCSStore(bucket, client_options=client, retry_config=retry, **under)
        if kind == "az":
            return stores.AzureStore(bucket, client_options=client, retry_config=retry, **under)
        config: Any = {
            "aws_region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        }
        return stores.S3Store(bucket, config=config, client_options=client, retry_config=retry, **under)
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise InvalidRequest(f"the object store {kind}://{bucket} cannot be opened: {_reason(str(error))}") from None


def _reason(text: str) -> str:
    """What obstore says, as one short sentence without secrets."""
    found = _MESSAGE.search(text)
    said = found[1] if found else text
    said = re.sub(r"\s+", " ", said.split("\n\nDebug source:")[0]).strip()
    said = _SECRET.sub(r"\1\2…", said)
    return said if len(said) <= 300 else f"{said[:299]}…"
