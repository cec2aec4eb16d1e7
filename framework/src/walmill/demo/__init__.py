"""The demo: a year of real weather through installed plugins, over public HTTP routes only."""

from __future__ import annotations

from walmill.demo.play import run

__all__ = ["run"]
