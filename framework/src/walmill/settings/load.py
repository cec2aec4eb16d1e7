"""Reading settings: flag before environment before file before default, and each value knows where it came from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from walmill import units
from walmill.errors import InvalidRequest
from walmill.settings.limits import parse_limits
from walmill.settings.model import CONFIG_FILE, PREFIX, SETTINGS, SettingInfo, Settings, Source, split_address
from walmill.settings.nearest import did_you_mean
from walmill.settings.triggers import TriggerEntry, parse_triggers

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
CLIENT_VARIABLES = (
    f"{PREFIX}HOST_URL",
    f"{PREFIX}DATABASE_NAME",
    f"{PREFIX}AUTH_TOKEN",
    CONFIG_VARIABLE,
    f"{PREFIX}DEBUG",
)
"""Variables of the command line that are no settings of a server."""

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


def load_settings(
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    config_file: Path | None = None,
    directory: Path,
) -> Settings:
    """Puts the settings of a server together.

    Args:
        flags: Values from the command line by setting name: texts, bools, lists of texts; None is as if it were not given.
        environ: The environment.
        config_file: The file that `--config` names; else `WALMILL_CONFIG`, else `walmill.toml` in `directory` if it is there.
        directory: The current directory; relative paths start here, those in the file at the file's own directory.

    Returns:
        The settings, with the source of each value.

    Raises:
        InvalidRequest: With all problems of all sources at once.
        NotFound: The named file is not there.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[str] = []
    file = find_config_file(config_file, environ, directory)
    triggers: tuple[TriggerEntry, ...] = ()
    file_values: Mapping[str, Any] = {}
    plugin_limits: Mapping[str, Mapping[str, Any]] = {}
    if file is not None:
        file_values, triggers, plugin_limits, wrong = _read_file(file)
        problems += [f"{file}: {problem}" for problem in wrong]
    for name, info in SETTINGS.items():
        given = (flags or {}).get(name)
        if given is not None and given != ():
            source = Source(origin="flag", name=_flag_of(info, given))
            base = directory
        elif environ.get(info.environment, "") != "":
            source, given, base = (
                Source(origin="environment", name=info.environment),
                environ[info.environment],
                directory,
            )
        elif file is not None and name in file_values:
            source, given, base = Source(origin="file", name=str(file)), file_values[name], file.parent
        else:
            if isinstance(info.default, Path):
                values[name] = directory / info.default
            continue
        try:
            values[name] = parse_value(info, given, base)
        except InvalidRequest as error:
            place = f"{source.name}: {name}" if source.origin == "file" else source.name
            problems.append(f"{place}: {error.message}")
        else:
            sources[name] = source
    settings = Settings(**values, triggers=triggers, plugin_limits=plugin_limits, sources=sources, config_file=file)
    problems += settings.problems()
    if problems:
        raise InvalidRequest("; ".join(problems))
    return settings


def find_config_file(named: Path | None, environ: Mapping[str, str], directory: Path) -> Path | None:
    """The settings file that is to be read; None if there is none and none is named.

    Raises:
        InvalidRequest: A file is named and is not there.
    """
    if named is None:
        variable = environ.get(CONFIG_VARIABLE, "")
        if not variable:
            usual = directory / CONFIG_FILE
            return usual if usual.is_file() else None
        named, how = Path(variable), CONFIG_VARIABLE
    else:
        how = "--config"
    path = directory / named.expanduser()
    if not path.is_file():
        raise InvalidRequest(f"there is no settings file {str(path)!r} ({how}); make it, or name one that is there")
    return path


def _read_file(path: Path) -> tuple[Mapping[str, Any], tuple[TriggerEntry, ...], dict[str, dict[str, Any]], list[str]]:
    """Settings, triggers, limits of plugins and problems of a file."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return {}, (), {}, [f"cannot be read as TOML: {reason}"]
    triggers, problems = parse_triggers(data.pop("trigger", []))
    limits, wrong = _plugin_limits(data.pop("plugin", {}))
    problems += wrong
    for key in [key for key in data if key not in SETTINGS]:
        del data[key]
        problems.append(f"there is no setting {key!r}; {did_you_mean(key, [*SETTINGS, 'trigger', 'plugin'])}")
    return data, triggers, limits, problems


def _plugin_limits(tables: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The limits of the `[plugin.NAME]` tables."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        return {}, ["plugin must be tables: write [plugin.NAME.limits] above the limits of one"]
    found: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, table in tables.items():
        problems += [f"plugin {name!r}: there is no key {key!r}; known is limits" for key in table if key != "limits"]
        found[name], wrong = parse_limits(table.get("limits", {}))
        problems += [f"plugin {name!r}: {one}" for one in wrong]
    return found, problems


def parse_value(info: SettingInfo, given: Any, base: Path) -> Any:
    """One value from text or from TOML, checked.

    Args:
        info: The setting.
        given: Text, or for bools, counts, sizes and lists also the TOML type.
        base: Where relative paths start.

    Raises:
        InvalidRequest: It is not one; the message does not name the setting.
    """
    if info.optional and isinstance(given, str) and given.strip().lower() == ("*" if info.kind == "names" else "none"):
        return None
    if info.kind == "bool":
        return _parse_bool(given)
    if info.kind == "names":
        return _parse_names(info, given)
    if info.kind == "part":
        return _parse_part(info, given)
    if info.kind == "int" or (info.kind in ("size", "share", "duration") and isinstance(given, int)):
        return _parse_int(info, given)
    if not isinstance(given, str | Path):
        raise InvalidRequest(f"{given!r} must be a text")
    text = str(given).strip()
    if not text:
        raise InvalidRequest("the value is empty; leave it away for the default")
    if info.kind == "path":
        if "\0" in text:
            raise InvalidRequest(f"{text!r} is no path: it holds a zero byte")
        return base / Path(text).expanduser()
    if info.kind == "store" and text.lower() in info.choices:
        return text.lower()
    if info.kind == "store":
        return text if "://" in text else str(base / Path(text).expanduser())
    if info.kind == "address":
        split_address(text)
        return text
    if info.kind == "name":
        if not text or not text.isprintable() or "," in text:
            raise InvalidRequest(f"{text!r} is no name")
        return text
    if info.kind == "choice":
        if text.lower() not in info.choices:
            raise InvalidRequest(f"{text!r} is not one of {', '.join(info.choices)}")
        return text.lower()
    if info.kind == "share" and text.endswith("%"):
        try:
            part = float(text[:-1]) / 100
        except ValueError:
            part = -1.0
        if not 0 <= part <= 0.9:
            raise InvalidRequest(f"{text!r} is no part of a disk: write 0% to 90%, or a size such as 2GiB")
        return part
    if info.kind in ("size", "share"):
        return units.parse_size(text, minimum=info.minimum, maximum=info.maximum)
    if text == "0" and info.minimum == 0:
        return 0
    return units.parse_duration(text, minimum=info.minimum, maximum=info.maximum)


def _parse_bool(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    word = given.strip().lower() if isinstance(given, str) else ""
    if word not in _TRUE + _FALSE:
        raise InvalidRequest(f"{given!r} is not one of true, false")
    return word in _TRUE


def _parse_part(info: SettingInfo, given: Any) -> float:
    try:
        value = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else -1.0
    except ValueError:
        value = -1.0
    if not 0.01 <= value <= info.maximum:
        raise InvalidRequest(f"{given!r} is no share: it must be a number from 0.01 to {info.maximum:,}, such as 0.5")
    return value


def _parse_names(info: SettingInfo, given: Any) -> tuple[str, ...] | None:
    parts = [given] if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise InvalidRequest(f"{given!r} must be a list of names")
    names = [name.strip() for part in parts for name in part.split(",")]
    if info.optional and names == ["*"]:
        return None
    if not all(names):
        raise InvalidRequest(f"{given!r} holds an empty name; separate names by single commas")
    return tuple(dict.fromkeys(names))


def _parse_int(info: SettingInfo, given: Any) -> int:
    value = given
    if isinstance(given, str):
        text = given.strip().replace("_", "")
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{given!r} is not a whole number")
    if info.kind == "duration" and value != 0:
        raise InvalidRequest(f"{given!r} has no unit: write for example {str(value) + 's'!r} if you mean seconds")
    if not info.minimum <= value <= info.maximum:
        raise InvalidRequest(
            f"{given!r} is out of bounds: it must be from {_bound(info, info.minimum)} to {_bound(info, info.maximum)}"
        )
    return value


def _bound(info: SettingInfo, value: int) -> str:
    return f"{value:,}" if info.kind == "int" else info.show(value)


def _flag_of(info: SettingInfo, given: Any) -> str:
    return info.negative if given is False and info.negative else info.flag


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Sentences about `WALMILL_…` variables that nothing reads, each with the nearest that is read."""
    known = [*(info.environment for info in SETTINGS.values()), *CLIENT_VARIABLES]
    short = {name.removeprefix(PREFIX).lower(): name for name in known}
    found = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            hint = did_you_mean(name.removeprefix(PREFIX).lower(), short)
            near = hint.split("'")[1] if hint.startswith("did") else None
            found.append(f"nothing reads {name}" + (f"; did you mean {short[near]}?" if near else ""))
    return found
