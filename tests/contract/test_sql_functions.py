"""Functions that plugins bring to SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from walmill import Engine
from walmill.errors import InvalidRequest, NotFound, PluginFailure, WalmillError
from walmill.plugins.registry import Registry
from walmill_hookspecs import SqlFunction, hookimpl

F, N, S = pa.float64(), pa.int64(), pa.string()


def one(name: str, function: Callable[..., Any], arguments: Any = (F,), returns: Any = F, **more: Any) -> SqlFunction:
    return SqlFunction(name=name, function=function, arguments=arguments, returns=returns, **more)


def dew_point(celsius: pa.Array, humidity: pa.Array) -> pa.Array:
    """Magnus' formula."""
    t = celsius.to_numpy(zero_copy_only=False)
    gamma = np.log(humidity.to_numpy(zero_copy_only=False) / 100) + 17.62 * t / (243.12 + t)
    return pa.array(243.12 * gamma / (17.62 - gamma))


class Physics:
    @hookimpl
    def register_functions(self) -> list[SqlFunction]:
        return [
            one("dew_point", dew_point, (F, F)),
            one("shout", pc.utf8_upper, (S,), S),
            one("short", lambda a: a.slice(1)),
            one("wrong", lambda a: pc.cast(a, S), (F,), pa.list_(F)),
            one("nothing", lambda a: None),
            one("fails", lambda a: pc.divide(pc.cast(a, N), 0), (F,), N),
            one("whole", lambda a: a, (F,), N),
            one("chunked", lambda a: pa.chunked_array([a])),
            one("number", lambda a: pa.array(range(len(a)), N), (N,), N, volatility="volatile"),
        ]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Plugins that the registry of an engine finds, as if they were installed."""
    plugins: dict[str, Any] = {}
    make = Registry.__init__

    def with_more(self: Registry, **kwargs: Any) -> None:
        make(self, **{**kwargs, "discover": False})
        for name, plugin in plugins.items():
            self.register(plugin, name=name)

    monkeypatch.setattr(Registry, "__init__", with_more)
    return plugins


@pytest.fixture
def engine(known: dict[str, Any]) -> Iterator[Engine]:
    known["physics"] = Physics
    with Engine.open(function_plugins=("physics",)) as made:
        made.write("air,room=a t=20,h=50 1\nair,room=b t=25,h=100 2\nair,room=b t=25 3", database="d")
        yield made


def column(engine: Engine, sql: str, params: Any = None) -> list[Any]:
    found: list[Any] = engine.query(sql, params, database="d").column(0).to_pylist()
    return found


def test_over_rows_constants_and_groups(engine: Engine) -> None:
    assert column(engine, "SELECT round(dew_point(t, h), 2) FROM air WHERE h > 0 ORDER BY time") == [9.26, 25.0]
    assert column(engine, "SELECT chunked(h) FROM air ORDER BY time") == [50.0, 100.0, None]
    assert column(engine, "SELECT shout(room) AS r FROM air GROUP BY r ORDER BY r") == ["A", "B"]
    assert column(engine, "SELECT max(dew_point(t, h)) > 24.9 FROM air WHERE dew_point(t, h) > 10") == [True]
    assert column(engine, "SELECT round(dew_point(20, 50), 2)") == [9.26]
    assert column(engine, "SELECT round(dew_point($t, $h), 2)", {"t": 20, "h": 50}) == [9.26]
    assert column(engine, "SELECT chunked(t) FROM air WHERE time = to_timestamp_nanos(1)") == [20.0]
    assert column(engine, "SELECT shout('x') FROM air") == ["X"] * 3


def test_many_rows_in_threads(engine: Engine) -> None:
    sql = "SELECT sum(dew_point(value % 40, 50)) > 0 FROM generate_series(1, 300000)"
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(column(engine, sql))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True]] * 4


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "SELECT fails(t) FROM air",
            "the SQL function 'fails' of the plugin 'physics' failed: ArrowInvalid: divide by zero",
        ),
        ("SELECT short(t) FROM air", r"'short' of the plugin 'physics' returned \d values for \d rows"),
        ("SELECT wrong(t) FROM air", "'wrong' of the plugin 'physics' returned string, and not list"),
        ("SELECT nothing(t) FROM air", "'nothing' of the plugin 'physics' returned None"),
        ("SELECT dew_point(t) FROM air", "dew_point"),
        ("SELECT dew_points(t, h) FROM air", "dew_points"),
    ],
)
def test_errors_name_the_function(engine: Engine, sql: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as raised:
        engine.query(sql, database="d")
    assert "Traceback" not in raised.value.message
    assert "PyErr" not in raised.value.message
    assert column(engine, "SELECT whole(t) FROM air ORDER BY time") == [20, 25, 25]


def brings(*functions: Any) -> type:
    class Plugin:
        @hookimpl
        def register_functions(self) -> Any:
            return functions[0] if len(functions) == 1 and not isinstance(functions[0], SqlFunction) else functions

    return Plugin


class Fails:
    @hookimpl
    def register_functions(self) -> Any:
        raise OSError("no file")


class Other:
    @hookimpl
    def on_write(self, batch: Any) -> None:
        del batch


@pytest.mark.parametrize(
    ("plugin", "error", "said"),
    [
        (brings(one("abs", pc.abs)), PluginFailure, "there is a function 'abs'"),
        (brings(one("locf", pc.abs)), PluginFailure, "there is a function 'locf'"),
        (brings(one("a", pc.abs), one("a", pc.abs)), PluginFailure, "there is a function 'a'"),
        (brings(one("Loud", pc.abs)), PluginFailure, "'Loud' is not made of lower-case"),
        (brings(one("a", pc.abs, ())), PluginFailure, "a has no argument"),
        (brings(one("a", pc.abs, ("float",))), PluginFailure, "must be types of pyarrow"),
        (brings(one("a", 7)), PluginFailure, "7 cannot be called"),  # type: ignore[arg-type]
        (brings(one("a", pc.abs, volatility="never")), PluginFailure, "volatility='never' is not one of"),
        (brings([pc.abs]), PluginFailure, "is no SqlFunction"),
        (brings(7), PluginFailure, "returned 7; return a list of SqlFunction"),
        (Fails, PluginFailure, "register_functions of the plugin 'p' failed: OSError: no file"),
        (Other, PluginFailure, "lacks the hook register_functions"),
        (None, NotFound, "there is no plugin 'p'"),
    ],
)
def test_what_brings_none(known: dict[str, Any], plugin: Any, error: type[WalmillError], said: str) -> None:
    if plugin is not None:
        known["p"] = plugin
    with pytest.raises(error, match=said):
        Engine.open(function_plugins=("p",))
