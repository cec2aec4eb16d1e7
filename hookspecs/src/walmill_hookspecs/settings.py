"""Typed arguments of a trigger.

    @settings
    class Thresholds:
        table: TableName = setting("which table to watch")
        limit: float = setting("alert above this", minimum=0)
        window: Duration = setting("how long", default="10m")

A class made with `@settings` is frozen. Its description is plain data, so that the engine can check arguments, print help
and draw forms without importing the plugin.
"""

from __future__ import annotations

import difflib
import enum
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

import attrs

from walmill_hookspecs.errors import BadSettings

Kind = Literal["int", "float", "bool", "str", "duration", "enum", "table", "column", "secret"]

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)")
_TRUE = frozenset({"true", "t", "yes", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "off", "0"})


class Duration(int):
    """A length of time: an int of nanoseconds that prints as `1h30m`."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """From `10s`, `1h30m`, `0.5s`, `2d`; units ns, us, ms, s, m, h, d, w.

        Raises:
            ValueError: Saying what is wrong; a number without a unit is refused.
        """
        rest = text.strip()
        negative, rest = rest.startswith("-"), rest.lstrip("-").strip()
        total, place = 0.0, 0
        exact = 0
        for match in _DURATION.finditer(rest):
            if rest[place : match.start()].strip():
                break
            number, unit = match.groups()
            if unit not in _UNITS:
                raise ValueError(f"{text!r} has the unknown unit {unit!r}; use ns, us, ms, s, m, h, d or w")
            if "." in number:
                total += float(number) * _UNITS[unit]
            else:
                exact += int(number) * _UNITS[unit]
            place = match.end()
        if place == 0 or rest[place:].strip():
            raise ValueError(f"{text!r} is not a duration; write for example 10s, 5m or 1h30m")
        value = exact + round(total)
        return cls(-value if negative else value)

    @property
    def timedelta(self) -> timedelta:
        """As a timedelta (whole microseconds)."""
        return timedelta(microseconds=self // 1_000)

    def total_seconds(self) -> float:
        """As seconds."""
        return int(self) / 1e9

    def __str__(self) -> str:
        left, parts = abs(int(self)), []
        for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
            count, left = divmod(left, _UNITS[unit])
            if count:
                parts.append(f"{count}{unit}")
        return ("-" if self < 0 else "") + ("".join(parts) or "0s")

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


class TableName(str):
    """The name of a table."""

    __slots__ = ()


class ColumnName(str):
    """The name of a column."""

    __slots__ = ()


class Secret:
    """A value that is never shown: printing, logging and listing give `***`.

    It is given as a reference, `env:NAME` or `file:PATH`, which the engine resolves when a run starts, or as the value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@attrs.frozen(kw_only=True)
class SettingInfo:
    """One setting as plain data.

    Attributes:
        name: Name of the argument.
        kind: Its type.
        many: True for a list of such values.
        description: One sentence.
        required: True if it has no default.
        default: The default as it would be given, if there is one.
        choices: What an enum allows.
        minimum: Smallest value allowed (a duration in ns), if any.
        maximum: Largest value allowed, if any.
        unit: Unit of a number, for people.
    """

    name: str
    kind: Kind
    many: bool = False
    description: str = ""
    required: bool = True
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SettingInfo:
        """From what `to_json` gave."""
        return cls(**{**data, "choices": tuple(data.get("choices", ()))})


def setting(
    description: str = "",
    *,
    default: Any = attrs.NOTHING,
    minimum: float | str | None = None,
    maximum: float | str | None = None,
    unit: str | None = None,
) -> Any:
    """Describes one setting of a class made with `@settings`.

    Args:
        description: One sentence for people.
        default: Value if it is not given; without one it is required. A duration may be given as text.
        minimum: Smallest value allowed; for a duration as text.
        maximum: Largest value allowed.
        unit: Unit of a number, for people.
    """
    about = {"description": description, "minimum": minimum, "maximum": maximum, "unit": unit}
    if isinstance(default, list | dict | set):
        return attrs.field(factory=lambda: type(default)(default), metadata={"walmill": {**about, "default": default}})
    return attrs.field(default=default, metadata={"walmill": {**about, "default": default}})


C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, attrs.field))
def settings(cls: C) -> C:
    """Makes a frozen, keyword-only class of typed settings.

    Annotations may be int, float, bool, str, `Duration`, timedelta, an Enum class, `Literal[...]`, `TableName`, `ColumnName`,
    `Secret`, a list or tuple of one of them, or one of them `| None`.

    Raises:
        TypeError: For an annotation of another kind, naming it.
    """
    made = attrs.frozen(kw_only=True, field_transformer=_read_durations)(cls)
    made.__walmill_settings__ = True  # type: ignore[attr-defined]
    return made


def _read_durations(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Lets a duration be given as text in Python as well, as its default may be."""
    del cls
    return [
        one.evolve(converter=_duration) if one.converter is None and "Duration" in str(one.type) else one
        for one in fields
    ]


def _duration(value: Any) -> Any:
    return Duration.parse(value) if isinstance(value, str) else value


def is_settings(cls: object) -> bool:
    """Whether a class was made with `@settings`."""
    return isinstance(cls, type) and "__walmill_settings__" in vars(cls)


def _read_annotation(owner: type, name: str, hint: Any) -> tuple[Kind, bool, tuple[str, ...], Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            return _read_annotation(owner, name, inner[0])
    if origin in (list, tuple, Sequence) and arguments:
        kind, _, choices, leaf = _read_annotation(owner, name, arguments[0])
        return kind, True, choices, leaf
    if hint in (list, tuple):
        return "str", True, (), str
    if origin is Literal:
        return "enum", False, tuple(str(argument) for argument in arguments), hint
    if isinstance(hint, type):
        if issubclass(hint, enum.Enum):
            return "enum", False, tuple(str(member.value) for member in hint), hint
        kinds: list[tuple[type, Kind]] = [
            (bool, "bool"),
            (Duration, "duration"),
            (timedelta, "duration"),
            (TableName, "table"),
            (ColumnName, "column"),
            (Secret, "secret"),
            (int, "int"),
            (float, "float"),
            (str, "str"),
        ]
        for base, kind in kinds:
            if issubclass(hint, base):
                return kind, False, (), hint
    raise TypeError(
        f"the setting {owner.__name__}.{name} has the type {hint!r}; use int, float, bool, str, Duration, an Enum, Literal, "
        "TableName, ColumnName, Secret, or a list of one of them"
    )


def _bound(value: float | str | None) -> float | None:
    return float(Duration.parse(value)) if isinstance(value, str) else value


def _plain(default: Any) -> Any:
    """A default as JSON types, as it would be given; that of a secret is hidden."""
    if isinstance(default, list | tuple | set | frozenset):
        return [_plain(one) for one in default]
    if isinstance(default, enum.Enum):
        return default.value if isinstance(default.value, bool | int | float | str) else str(default.value)
    if isinstance(default, timedelta):
        return str(Duration(round(default.total_seconds() * 1e9)))
    if isinstance(default, Duration):
        return str(default)
    if isinstance(default, Secret):
        return "***"
    if isinstance(default, float) and not math.isfinite(default):
        return str(default)
    return default


def _leaves(cls: type) -> dict[str, tuple[SettingInfo, Any]]:
    hints = typing.get_type_hints(cls)
    found: dict[str, tuple[SettingInfo, Any]] = {}
    for attribute in attrs.fields(cls):
        if not attribute.init:
            continue
        kind, many, choices, leaf = _read_annotation(cls, attribute.name, hints.get(attribute.name, str))
        about = attribute.metadata.get("walmill", {})
        default = about.get("default", attribute.default)
        missing = default is attrs.NOTHING or isinstance(default, attrs.Factory)  # type: ignore[arg-type]
        info = SettingInfo(
            name=attribute.name,
            kind=kind,
            many=many,
            description=about.get("description", ""),
            required=attribute.default is attrs.NOTHING,
            default=None if missing else _plain(default),
            choices=choices,
            minimum=_bound(about.get("minimum")),
            maximum=_bound(about.get("maximum")),
            unit=about.get("unit"),
        )
        found[attribute.name] = (info, leaf)
    return found


def describe(cls: type) -> tuple[SettingInfo, ...]:
    """The settings of a class made with `@settings`, as plain data, in the order of the class."""
    if not is_settings(cls):
        raise TypeError(
            f"{cls!r} was not made with @settings; put the decorator on the class that register_settings returns"
        )
    return tuple(info for info, _ in _leaves(cls).values())


def _one(info: SettingInfo, value: Any) -> Any:
    text = value if isinstance(value, str) else None
    wrong = f"{info.name}={value!r}"
    result: Any
    match info.kind:
        case "bool":
            if isinstance(value, bool):
                return value
            folded = text.strip().lower() if text is not None else None
            if folded not in _TRUE | _FALSE:
                raise ValueError(f"{wrong} is not a bool; give true or false")
            return folded in _TRUE
        case "int":
            try:
                if isinstance(value, bool) or not isinstance(value, int | str):
                    raise ValueError
                result = int(value)
            except ValueError:
                raise ValueError(f"{wrong} is not a whole number") from None
        case "float":
            try:
                if isinstance(value, bool) or not isinstance(value, int | float | str):
                    raise ValueError
                result = float(value)
                if math.isnan(result):
                    raise ValueError
            except ValueError:
                raise ValueError(f"{wrong} is not a number") from None
        case "duration":
            if isinstance(value, timedelta):
                result = Duration(round(value.total_seconds() * 1e9))
            elif isinstance(value, Duration):
                result = value
            elif text is not None:
                try:
                    result = Duration.parse(text)
                except ValueError as error:
                    raise ValueError(f"{info.name}: {error}") from None
            else:
                raise ValueError(f"{wrong} is not a duration; write for example 10s, 5m or 1h30m, as text")
        case "enum":
            shown = str(value.value) if isinstance(value, enum.Enum) else str(value)
            if shown not in info.choices:
                near = difflib.get_close_matches(shown, info.choices, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{wrong} is not one of {', '.join(info.choices)}{hint}")
            return shown
        case "secret":
            if isinstance(value, Secret):
                return value.reveal()
            if text is None:
                raise ValueError(f"{info.name} must be text; give env:NAME, file:PATH, or the value")
            return text
        case "table" | "column":
            if text is None or not text.strip():
                raise ValueError(f"{wrong} is not the name of a {info.kind}")
            return text
        case _:
            if text is None:
                if isinstance(value, bool | int | float):
                    return json.dumps(value)
                raise ValueError(f"{wrong} is not text")
            return text
    if info.minimum is not None and result < info.minimum:
        bound = Duration(int(info.minimum)) if info.kind == "duration" else f"{info.minimum:g}"
        raise ValueError(f"{info.name}={result} is below its minimum, {bound}")
    if info.maximum is not None and result > info.maximum:
        bound = Duration(int(info.maximum)) if info.kind == "duration" else f"{info.maximum:g}"
        raise ValueError(f"{info.name}={result} is above its maximum, {bound}")
    return result


def _list(info: SettingInfo, value: Any) -> list[Any]:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"{info.name}={value!r} looks like a JSON list and is none: {error}") from None
        else:
            value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        value = [value]
    return [_one(info, item) for item in value]


def check(infos: Sequence[SettingInfo], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Checks arguments against a plain description, without the plugin.

    Args:
        infos: What `describe` gave.
        arguments: Values by name, as text or as JSON types.

    Returns:
        The values in their types (enums and secrets as text), and all problems, one sentence each.
    """
    known = {info.name: info for info in infos}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in arguments.items():
        info = known.get(name)
        if info is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
            problems.append(f"there is no argument {name!r}; {hint}")
            continue
        if value is None and not info.required:
            continue
        try:
            values[name] = _list(info, value) if info.many else _one(info, value)
        except ValueError as error:
            problems.append(str(error))
    for info in infos:
        if info.required and info.name not in arguments:
            about = f" ({info.description})" if info.description else ""
            problems.append(f"the argument {info.name!r} is missing{about}")
    return values, problems


def resolve_secret(reference: str) -> str:
    """The value behind `env:NAME` or `file:PATH`; any other text is the value itself.

    Raises:
        ValueError: If the variable is not set or the file cannot be read.
    """
    if reference.startswith("env:"):
        name = reference.removeprefix("env:")
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set")
        return os.environ[name]
    if reference.startswith("file:"):
        path = reference.removeprefix("file:")
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    return reference


S = TypeVar("S")


def parse(cls: type[S], arguments: Mapping[str, Any], *, secret: Callable[[str], str] = resolve_secret) -> S:
    """Makes an instance of a class made with `@settings` from arguments.

    Args:
        cls: The class.
        arguments: Values by name, as text or as JSON types.
        secret: Turns the reference of a secret into its value.

    Raises:
        BadSettings: With every problem at once.
    """
    leaves = _leaves(cls)
    values, problems = check([info for info, _ in leaves.values()], arguments)
    for name, (info, leaf) in leaves.items():
        if name not in values:
            if info.required or info.kind != "duration" or not isinstance(info.default, str):
                continue
            values[name] = Duration.parse(info.default)
        value = values[name]
        try:
            values[name] = (
                [_native(info, leaf, item, secret) for item in value]
                if info.many
                else _native(info, leaf, value, secret)
            )
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise BadSettings(problems)
    try:
        return cls(**values)
    except BadSettings:
        raise
    except (ValueError, TypeError) as error:
        raise BadSettings(str(error)) from None


def _native(info: SettingInfo, leaf: Any, value: Any, secret: Callable[[str], str]) -> Any:
    if info.kind == "enum" and isinstance(leaf, type) and issubclass(leaf, enum.Enum):
        return next(member for member in leaf if str(member.value) == value)
    if info.kind == "secret":
        return Secret(secret(value))
    if info.kind == "duration" and isinstance(leaf, type) and issubclass(leaf, timedelta):
        return Duration(value).timedelta
    if info.kind in ("table", "column"):
        return leaf(value)
    return value
