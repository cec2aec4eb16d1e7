"""What the engine knows of a plugin: plain data, so that it can come from another process as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs import field, frozen

from walmill.errors import Conflict, InvalidRequest
from walmill.triggers.spec import Spec
from walmill_hookspecs.settings import SettingInfo, check
from walmill_worker.describe import Described

Status = Literal["active", "disabled", "broken"]
PACKAGE = "package"
OBJECT = "object"
TRIGGER_HOOKS = ("on_write", "on_schedule", "on_request", "on_service", "on_snapshot")


@frozen(kw_only=True)
class PluginDescription:
    """A plugin as `walmill plugin list` shows it.

    Attributes:
        name: Name of the entry point; what triggers call it by.
        distribution: Name of the installed distribution; None for an object that an application registered.
        version: Version of that distribution.
        value: Where the entry point points to.
        hooks: Names of the hooks that it implements, and whether each is `async def`.
        parameters: Names of the parameters that each of them takes.
        settings: Its settings, if it describes them.
        suggests: The triggers that it suggests, as JSON types.
        status: `active`, `disabled` by the server's settings, or `broken`.
        cause: Why it is broken, in one sentence.
        summary: First line of its documentation.
        wraps: Whether it has hook wrappers.
        installed: Whether it is a package or a file; False for an object that an application registered.
        location: Where it is: `package`, `object`, or the path in the plugin directory.
        digest: Hash of its content, 64 hexadecimal digits; None for an object, and for a package until somebody asks.
        environment: The virtual environment that it has for itself; None for the engine's.
        source: Where that was installed from, as it was written.
        commit: The commit of a repository.
        checks: Whether its settings check more than each by itself, which only the plugin can do.
        deprecated: What it uses that the contract is going to lose, one sentence each.
        problem: Why what is there now is not used, but the version before it, in one sentence; None if all is well.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    value: str = ""
    hooks: Mapping[str, bool] = field(factory=dict)
    parameters: Mapping[str, tuple[str, ...]] = field(factory=dict)
    settings: tuple[SettingInfo, ...] | None = None
    suggests: tuple[Mapping[str, Any], ...] = ()
    status: Status = "active"
    cause: str | None = None
    summary: str = ""
    wraps: bool = False
    installed: bool = True
    location: str = PACKAGE
    digest: str | None = None
    environment: str | None = None
    source: str | None = None
    commit: str | None = None
    problem: str | None = None
    checks: bool = False
    deprecated: tuple[str, ...] = ()

    @property
    def in_folder(self) -> bool:
        """Whether it is in the plugin directory."""
        return self.location not in (PACKAGE, OBJECT) and self.environment is None

    @property
    def python(self) -> str | None:
        """The interpreter of the environment that it has for itself."""
        return None if self.environment is None else f"{self.environment}/bin/python"

    def with_found(self, found: Described) -> PluginDescription:
        """The same with what was found out about it."""
        return attrs.evolve(
            self,
            hooks=found.hooks,
            parameters=found.parameters,
            settings=found.settings,
            suggests=found.triggers,
            status="active" if found.broken is None else "broken",
            cause=found.broken,
            summary=found.summary,
            wraps=found.wraps,
            checks=found.checks,
            deprecated=found.deprecated,
        )

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types."""
        data = attrs.asdict(self, recurse=False)
        del data["wraps"], data["installed"], data["checks"]
        data["suggests"] = [dict(one) for one in self.suggests]
        data["hash"] = data.pop("digest")
        data["hooks"] = dict(self.hooks)
        data["deprecated"] = list(self.deprecated)
        data["parameters"] = {hook: list(names) for hook, names in self.parameters.items()}
        data["settings"] = None if self.settings is None else [info.to_json() for info in self.settings]
        return data

    def require(self, spec: Spec) -> None:
        """Checks that a trigger of this spec can use the plugin.

        Raises:
            Conflict: If the plugin is broken; the message gives the cause.
            InvalidRequest: If it is disabled, or lacks the hook; the message names the hooks that it has.
        """
        if self.status == "broken":
            # not PluginFailure: nothing of the server failed, so it is no 500, and repeating the call does not help
            again = "correct it" if self.in_folder else "correct it, start the server again"
            raise Conflict(f"the plugin {self.name!r} is broken: {self.cause}; {again}, then create the trigger")
        if self.status == "disabled":
            raise InvalidRequest(f"the plugin {self.name!r} is disabled by the server's settings")
        if spec.hook not in self.hooks:
            have = [hook for hook in TRIGGER_HOOKS if hook in self.hooks]
            raise InvalidRequest(
                f"the plugin {self.name!r} lacks the hook {spec.hook}, which the spec {str(spec)!r} needs; "
                f"it has {', '.join(have) if have else 'no hook for triggers'}"
            )

    def check_arguments(self, arguments: Mapping[str, Any]) -> list[str]:
        """All problems of a trigger's arguments, one sentence each."""
        if self.settings is None:
            return []
        _, problems = check(self.settings, arguments)
        return problems

    def hide_secrets(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments with the values of secrets hidden; references (`env:`, `file:`) stay, they are no secrets."""
        secrets = {info.name for info in self.settings or () if info.kind == "secret"}
        return {name: _hidden(value) if name in secrets else value for name, value in arguments.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        return value
    return "***"


def names(descriptions: Sequence[PluginDescription]) -> str:
    """The names of plugins, for a message."""
    return ", ".join(sorted(description.name for description in descriptions)) or "none"
