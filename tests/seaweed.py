"""A real S3 server for tests: SeaweedFS, from the registry, on ports of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

BUCKET = "walmill"
KEY, SECRET = "test-key", "test-secret-that-no-message-shows"


@frozen
class Seaweed:
    """A server.

    Attributes:
        endpoint: Its URL.
    """

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a client reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        bound = []
        for _ in range(count):
            made = stack.enter_context(socket.socket())
            made.bind(("127.0.0.1", 0))
            bound.append(made.getsockname()[1])
        return bound


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Seaweed]:
    """Starts a server with an empty bucket, and ends it."""
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    names += ("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    command = [str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "mini", f"-dir={directory}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", f"-bucket={BUCKET}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", *flags]
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    log = directory / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=output, stderr=output, cwd=directory)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        until = time.monotonic() + 60
        while not _has_bucket(endpoint):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield Seaweed(endpoint)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _has_bucket(endpoint: str) -> bool:
    from walmill.errors import WalmillError
    from walmill.objects.remote import RemoteStore

    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            pass
    except urllib.error.HTTPError:
        pass
    except OSError:
        return False
    with contextlib.suppress(WalmillError), variables(Seaweed(endpoint).environment):
        store = RemoteStore(f"s3://{BUCKET}/probe")
        store.put("is-there", b"yes")
        return bytes(store.get("is-there")) == b"yes"
    return False


@contextlib.contextmanager
def variables(given: dict[str, str]) -> Iterator[None]:
    """Sets variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
