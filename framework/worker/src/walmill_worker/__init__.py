"""What runs in Walmill's worker processes, and what the engine and its workers share."""

from __future__ import annotations

PROTOCOL = 3
"""Version of what engine, zygote and workers say to each other: all three must have the same."""
