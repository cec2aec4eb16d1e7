"""The settings of the plugin."""

from __future__ import annotations

from typing import Literal

from walmill_hookspecs import BadSettings, Secret, setting, settings

Partition = Literal["month", "day", "none"]


@settings
class Lakehouse:
    """Where tables go, and how."""

    into: str = setting("a directory, or one in a bucket, such as s3://lake/plant; tables are DATABASE/TABLE in it")
    partition: Partition = setting("rows of a month, or of a day, lie together", default="month")
    rows: int = setting(
        "so many rows, about, go into one version of a table", default=200_000, minimum=1000, maximum=10_000_000
    )
    keep_hours: int = setting(
        "on a schedule: files that no version needs are deleted after so long", default=168, minimum=1
    )
    endpoint: str | None = setting("address of an S3 service that is not Amazon's", default=None)
    region: str | None = setting("region of the bucket", default=None)
    access_key: Secret | None = setting("key of the bucket, as env:NAME or file:PATH", default=None)
    secret_key: Secret | None = setting("secret of the bucket, as env:NAME or file:PATH", default=None)

    def __attrs_post_init__(self) -> None:
        if not self.into.strip():
            raise BadSettings("into is empty; name a directory or a bucket")
        if "://" not in self.into and not self.into.startswith("/"):
            raise BadSettings(
                f"into={self.into!r} is no absolute path: a worker has a directory of its own; write it from / on"
            )
        if (self.access_key is None) != (self.secret_key is None):
            raise BadSettings("access_key and secret_key belong together; give both or none")

    def storage(self) -> dict[str, str] | None:
        """How the bucket is reached; None for a directory."""
        if "://" not in self.into:
            return None
        found = {"AWS_REGION": self.region, "AWS_ENDPOINT_URL": self.endpoint}
        if self.access_key is not None and self.secret_key is not None:
            found["AWS_ACCESS_KEY_ID"] = self.access_key.reveal()
            found["AWS_SECRET_ACCESS_KEY"] = self.secret_key.reveal()
        if self.endpoint is not None and self.endpoint.startswith("http://"):
            found["AWS_ALLOW_HTTP"] = "true"
        return {name: value for name, value in found.items() if value is not None}
