"""A row as a message. Pure."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from walmill_hookspecs import series_key

DIGEST = 20
"""So many messages are in one that stands for several; the rest is counted."""


@frozen(kw_only=True)
class Message:
    """What is sent.

    Attributes:
        title: One line.
        text: What there is to say.
        key: The same whenever the same is sent again.
        values: Names and values of the row, for who reads JSON.
    """

    title: str
    text: str
    key: str
    values: Mapping[str, Any]


class Blanks(dict[str, Any]):
    """Names without a value are empty in a template."""

    def __missing__(self, key: str) -> str:
        return ""


def template_problem(template: str) -> str | None:
    """Why a text is no template; None if it is one. Names only: `{message}`, `{value:.1f}`; no attributes of values."""
    try:
        for _, name, _, _ in string.Formatter().parse(template):
            if name is not None and (not name or not name.replace("_", "a").isalnum() or name[0].isdigit()):
                return f"{{{name}}} is no name of a tag or a field"
    except ValueError as error:
        return str(error)
    return None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template with values; one that does not fit its format is put in as it is."""
    try:
        return template.format_map(Blanks(values))
    except (ValueError, TypeError):
        parts = string.Formatter().parse(template)
        return "".join(text + ("" if name is None else str(values.get(name, ""))) for text, name, _, _ in parts)


def of_row(table: str, tags: Iterable[str], row: Mapping[str, Any], *, title: str, text: str) -> Message:
    """The message of a row.

    Args:
        table: Its table.
        tags: The names of its tags.
        row: Its values.
        title: Template of the title.
        text: Template of the text.
    """
    own = {tag: str(row[tag]) for tag in tags if row.get(tag) is not None}
    time = datetime.fromtimestamp(row["time"] // 1_000_000_000, UTC).isoformat()
    values = {name: value for name, value in row.items() if value is not None and name != "time"}
    known = {**values, "table": table, "time": time}
    identity = f"{table}\n{series_key(own)}\n{row['time']}"
    key = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Message(title=_line(fill(title, known)), text=fill(text, known), key=key, values=known)


def digest(messages: list[Message]) -> Message:
    """One message that stands for several."""
    shown = [f"- {message.title}: {message.text}" for message in messages[:DIGEST]]
    if len(messages) > DIGEST:
        shown.append(f"… and {len(messages) - DIGEST} more")
    together = hashlib.sha256("".join(message.key for message in messages).encode()).hexdigest()[:32]
    return Message(
        title=f"{len(messages)} messages",
        text="\n".join(shown),
        key=together,
        values={"messages": [dict(message.values) for message in messages[:DIGEST]], "count": len(messages)},
    )


def _line(text: str) -> str:
    """A title is one line: it becomes a header of a mail."""
    return " ".join(text.split())[:200]
