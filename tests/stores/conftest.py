"""A real S3 server for the tests of this folder, one for each process of the suite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.seaweed import BUCKET, Seaweed, seaweed, variables

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as found, variables(found.environment):
        yield found


@pytest.fixture
def url(server: Seaweed) -> str:
    """A place in the bucket that nobody else uses."""
    del server
    return f"s3://{BUCKET}/test-{next(_numbers)}"


@pytest.fixture
def new_url(server: Seaweed) -> Callable[[], str]:
    del server
    return lambda: f"s3://{BUCKET}/test-{next(_numbers)}"


def count(directory: Path) -> int:
    return sum(1 for one in directory.rglob("*") if one.is_file())
