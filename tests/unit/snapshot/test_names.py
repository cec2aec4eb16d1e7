"""Paths: what goes in comes out, and no name of a user breaks a path."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.snapshot.names import (
    Attempt,
    Place,
    attempt_number,
    escape,
    manifest_number,
    manifest_path,
    month_of,
    month_of_path,
    part_path,
)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 2**40))
def test_any_name_gives_a_path(name, number):
    attempt = Attempt(number)
    path = Place(name, 3, name, 7).file("2026-11", 12, attempt, 4)
    assert re.fullmatch(
        r"tables/[\w%~-]*-3/[\w%~-]*-7/month=2026-11/00000000000000000012-[0-9a-f.]+-4\.parquet", path, re.ASCII
    )
    assert all(len(part) < 255 for part in path.split("/"))
    assert attempt_number(path) == number
    assert month_of_path(path) == "2026-11"
    assert attempt_number(part_path("state", attempt, "0f")) == number


@pytest.mark.parametrize(
    ("name", "expected"),
    [("CPU_load-1~", "CPU_load-1~"), ("a=b/c.d", "a%3Db%2Fc%2Ed"), ("\n", "%0A"), ("é" * 100, "%C3%A9" * 20)],
)
def test_escape(name, expected):
    assert escape(name) == expected


@pytest.mark.parametrize(
    "path",
    ["tables/a-1/b-2/readme.txt", "parts/state/x", "manifests/1", "tables/a/00000000000000000012-zz.ab-1.parquet", ""],
)
def test_what_others_put_there_belongs_to_no_attempt(path):
    assert attempt_number(path) is None
    assert manifest_number(path) is None


def test_manifests():
    assert manifest_number(manifest_path(17)) == 17
    assert month_of_path("manifests/x") == ""


def test_two_attempts_at_one_number_share_no_name():
    assert len({str(Attempt(5)) for _ in range(20)}) == 20


@pytest.mark.parametrize(("day", "month"), [(0, "1970-01"), (-1, "1969-12"), (20758, "2026-11"), (-106752, "1677-09")])
def test_months(day, month):
    assert month_of(day) == month
