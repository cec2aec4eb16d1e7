"""Paths of request triggers: what they may look like, and whether two of them meet in one URL.

A path is matched against the decoded URL. Its parameters are Starlette's: `{id}` and `{id:str}` take one segment's
characters, `{id:int}`, `{id:float}` and `{id:uuid}` what their names say, `{rest:path}` everything, slashes included.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from attrs import field, frozen

from walmill.errors import InvalidRequest

CONVERTORS = ("str", "path", "int", "float", "uuid")
MAX_PATH = 1024
"""Most characters of a path."""

_PARAMETER = re.compile(r"\{([^{}]*)\}")
_PARAMETER_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def normalise_path(path: str) -> str:
    """The path as it is stored: without slashes at its ends.

    Args:
        path: As a person wrote it.

    Returns:
        The path, not empty.

    Raises:
        InvalidRequest: It is empty or too long, holds `.`, `..` or an empty segment, a query string, a character that a
            decoded path cannot hold, or a parameter that is not well formed or named twice.
    """
    bare = path.strip("/")
    if not bare:
        raise InvalidRequest("request path is empty: write for example request:devices or request:devices/{id}")
    if len(bare) > MAX_PATH:
        raise InvalidRequest(f"request path has {len(bare)} characters: at most {MAX_PATH} are allowed")
    names: set[str] = set()
    for text in _PARAMETER.findall(bare):
        name, colon, convertor = text.partition(":")
        if not _PARAMETER_NAME.fullmatch(name):
            raise InvalidRequest(
                f"the path parameter {{{text}}} needs a name of letters, digits and _ that does not begin with a digit, "
                "as in {id} or {id:int}"
            )
        if colon and convertor not in CONVERTORS:
            raise InvalidRequest(
                f"the path parameter {{{text}}} has the unknown convertor {convertor!r}: use {', '.join(CONVERTORS)}"
            )
        if name in names:
            raise InvalidRequest(f"the path parameter {{{name}}} occurs twice: give each a name of its own")
        names.add(name)
    # a letter in place of each parameter: the rest of the checks is about what is fixed
    fixed = _PARAMETER.sub("x", bare)
    if "{" in fixed or "}" in fixed:
        raise InvalidRequest("a brace of the request path has no partner: a parameter is written {name} or {name:int}")
    if "?" in fixed or "#" in fixed:
        raise InvalidRequest(
            "a request path holds no query string and no fragment: leave out what begins with ? or #; "
            "the plugin finds the query in request.query_params"
        )
    for segment in fixed.split("/"):
        if not segment:
            raise InvalidRequest("the request path has an empty segment: write one slash between segments")
        if segment in (".", ".."):
            raise InvalidRequest(
                f"the request path has the segment {segment!r}, which clients resolve away: leave it out"
            )
    for character in fixed:
        if character in "%\\" or character.isspace() or not character.isprintable():
            raise InvalidRequest(
                f"the request path holds {character!r}: it is compared with the decoded URL, so write the character that "
                "is meant, and neither white space nor % nor a backslash"
            )
    return bare


def shared_url(path_a: str, path_b: str) -> str | None:
    """An example of a URL path that both paths would answer, for a message; None if there is none.

    Exact for all convertors: each path is a small automaton, and their product is searched.

    Args:
        path_a: A normalised path.
        path_b: Another one.
    """
    first, second = _Automaton.of(path_a), _Automaton.of(path_b)
    seen = {(0, 0)}
    queue: deque[tuple[int, int, str]] = deque([(0, 0, "")])
    while queue:
        a, b, text = queue.popleft()
        if a == first.end and b == second.end:
            return text
        for state in first.silent[a]:
            if (state, b) not in seen:
                seen.add((state, b))
                queue.appendleft((state, b, text))
        for state in second.silent[b]:
            if (a, state) not in seen:
                seen.add((a, state))
                queue.appendleft((a, state, text))
        for class_a, next_a in first.steps[a]:
            for class_b, next_b in second.steps[b]:
                if (next_a, next_b) in seen:
                    continue
                character = class_a.shared(class_b)
                if character is not None:
                    seen.add((next_a, next_b))
                    queue.append((next_a, next_b, text + character))
    return None


def paths_overlap(path_a: str, path_b: str) -> bool:
    """Whether some URL matches both normalised paths."""
    return shared_url(path_a, path_b) is not None


@frozen
class _Class:
    """A set of characters: those listed, or all but those listed."""

    characters: frozenset[str]
    inverted: bool = False

    def shared(self, other: _Class) -> str | None:
        """A character that is in both, or None."""
        if self.inverted and other.inverted:
            excluded = self.characters | other.characters
            return next(character for character in "xyz-" if character not in excluded)
        if self.inverted:
            return other.shared(self)
        left = self.characters - other.characters if other.inverted else self.characters & other.characters
        return min(left, default=None)


_ANY = _Class(frozenset(), inverted=True)
_NO_SLASH = _Class(frozenset("/"), inverted=True)
_DIGIT = _Class(frozenset("0123456789"))
_HEX = _Class(frozenset("0123456789abcdefABCDEF"))


@frozen
class _Automaton:
    """States are numbered from 0; `steps` read a character, `silent` read none."""

    steps: list[list[tuple[_Class, int]]] = field(factory=lambda: [[]])
    silent: list[list[int]] = field(factory=lambda: [[]])

    @property
    def end(self) -> int:
        """The accepting state."""
        return len(self.steps) - 1

    @classmethod
    def of(cls, path: str) -> _Automaton:
        """The automaton of a normalised path."""
        automaton = cls()
        for literal, convertor in _pieces(path):
            for character in literal:
                automaton.one(_Class(frozenset(character)))
            match convertor:
                case "str":
                    automaton.many(_NO_SLASH)
                case "int":
                    automaton.many(_DIGIT)
                case "path":
                    start = automaton.end
                    automaton.many(_ANY)
                    automaton.silent[start].append(automaton.end)
                case "float":
                    automaton.many(_DIGIT)
                    start = automaton.end
                    automaton.one(_Class(frozenset(".")))
                    automaton.many(_DIGIT)
                    automaton.silent[start].append(automaton.end)
                case "uuid":
                    for index, length in enumerate((8, 4, 4, 4, 12)):
                        if index:
                            start = automaton.end
                            automaton.one(_Class(frozenset("-")))
                            automaton.silent[start].append(automaton.end)
                        for _ in range(length):
                            automaton.one(_HEX)
        return automaton

    def one(self, characters: _Class) -> None:
        """Reads one character, to a new end."""
        self.steps[self.end].append((characters, self.end + 1))
        self.steps.append([])
        self.silent.append([])

    def many(self, characters: _Class) -> None:
        """Reads one character or more, to a new end."""
        self.one(characters)
        self.steps[self.end].append((characters, self.end))
        # what follows must not enter the loop again
        self.silent[self.end].append(self.end + 1)
        self.steps.append([])
        self.silent.append([])


def _pieces(path: str) -> Iterator[tuple[str, str | None]]:
    """Literal text, each time with the convertor that follows it; None at the end."""
    place = 0
    for match in _PARAMETER.finditer(path):
        yield path[place : match.start()], match[1].partition(":")[2] or "str"
        place = match.end()
    yield path[place:], None
