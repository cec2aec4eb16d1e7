"""Walmill: a processing engine for time-series data.

`Engine` and `EngineOptions` run one inside a Python program, `create_app` makes it an ASGI application, `mount` puts it into
another one, and `Identity` is what a host application's own `auth` returns. They are imported when they are first used, so
that `import walmill` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from walmill.auth.rules import Identity as Identity
    from walmill.engine import Engine as Engine
    from walmill.http.app import create_app as create_app
    from walmill.http.mount import mount as mount
    from walmill.options import EngineOptions as EngineOptions

__all__ = ["Engine", "EngineOptions", "Identity", "create_app", "mount"]

_HOMES = {
    "Engine": "walmill.engine",
    "EngineOptions": "walmill.options",
    "Identity": "walmill.auth.rules",
    "create_app": "walmill.http.app",
    "mount": "walmill.http.mount",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'walmill' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
