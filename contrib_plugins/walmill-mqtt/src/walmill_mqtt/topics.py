"""Tags from the levels of a topic. Pure."""

from __future__ import annotations

from attrs import frozen


@frozen
class Pattern:
    """Names for levels of topics, such as `plant/{site}/{device}/+`.

    Attributes:
        levels: A name for a level (`{site}`), `+` for any, or the level itself.
        open: Whether more levels may follow (`#` at the end).
    """

    levels: tuple[str, ...]
    open: bool = False

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """From its text.

        Raises:
            ValueError: Saying what is wrong.
        """
        levels = text.split("/")
        is_open = levels[-1] == "#"
        if is_open:
            levels.pop()
        names = [level[1:-1] for level in levels if _named(level)]
        if not names:
            raise ValueError("no level has a name: write for example plant/{site}/{device}/+")
        for name in names:
            if not name or name == "time" or name.startswith("_"):
                raise ValueError(f"{name!r} cannot be the name of a tag")
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is there twice")
        if "#" in levels or any(
            level not in ("+",) and not _named(level) and set(level) & set("+{}") for level in levels
        ):
            raise ValueError("a level is a name in braces, +, or a word, and # comes last")
        return cls(tuple(levels), is_open)

    def match(self, topic: str) -> dict[str, str]:
        """The tags of a topic; none if it does not fit."""
        levels = topic.split("/")
        if len(levels) < len(self.levels) or (len(levels) > len(self.levels) and not self.open):
            return {}
        tags = {}
        for wanted, level in zip(self.levels, levels, strict=False):
            if _named(wanted):
                if level:
                    tags[wanted[1:-1]] = level
            elif wanted not in ("+", level):
                return {}
        return tags


def _named(level: str) -> bool:
    return level.startswith("{") and level.endswith("}")
