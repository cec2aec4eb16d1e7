"""A plugin's settings as plain data: what `plugin list`, the HTTP route and forms are made from."""

from __future__ import annotations

import enum
import json
from datetime import timedelta
from typing import Any

import pytest

from walmill.plugins import Registry
from walmill_hookspecs import Duration, Secret, setting, settings
from walmill_hookspecs.settings import describe


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("hint", "default", "shown"),
    [
        (int, 5, 5),
        (float, 0.5, 0.5),
        (float, float("inf"), "inf"),
        (bool, False, False),
        (str, "a,b", "a,b"),
        (str | None, None, None),
        (Duration, "10m", "10m"),
        (Duration, Duration(1_500_000_000), "1s500ms"),
        (timedelta, timedelta(seconds=90), "1m30s"),
        (Colour, Colour.RED, "red"),
        (list[str], ["a", "b"], ["a", "b"]),
        (list[Colour], [Colour.RED, Colour.BLUE], ["red", "blue"]),
        (tuple[Colour, ...], (Colour.BLUE,), ["blue"]),
        (list[Duration], [Duration(60_000_000_000)], ["1m"]),
        (Secret, Secret("hush"), "***"),
    ],
)
def test_a_default_is_json_as_it_would_be_given(hint: Any, default: Any, shown: Any) -> None:
    made = settings(type("Made", (), {"__annotations__": {"one": hint}, "one": setting("it", default=default)}))
    [info] = describe(made)
    assert info.default == shown
    assert json.loads(json.dumps(info.to_json(), allow_nan=False))["default"] == shown


def test_every_installed_plugin_is_active_and_is_json() -> None:
    found = Registry().inspect_all()
    assert {"alerts", "deadman", "webhook", "downsample", "chart"} <= {one.name for one in found}
    for one in found:
        if one.distribution == "walmill-test-trouble":  # the plugins of other tests that run in this process
            continue
        assert (one.status, one.cause) == ("active", None)
        json.dumps(one.to_json(), allow_nan=False)
