"""uv, or pip where there is no uv: commands that make environments and install into them, and what they say while they do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import field, frozen

from walmill.errors import Unavailable, WalmillError

Say = Callable[[str], None]
"""Takes a line that a tool says."""

MINUTES = 30.0
TAIL = 30
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class InstallFailed(WalmillError):
    """A tool could not do what it was asked for; the message ends with what it said."""

    status = 422


@frozen
class Pin:
    """A distribution of an index, as it was resolved.

    Attributes:
        name: Its name.
        version: Its version.
        hashes: `sha256:…` of the files that it may come from.
    """

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    def requirement(self) -> str:
        """As a line of a requirements file."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={one}" for one in self.hashes)])


def find_uv() -> str | None:
    """The program uv: on the path, or beside the interpreter of this process."""
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else None)


@frozen(kw_only=True)
class Tool:
    """Installs.

    Attributes:
        uv: The program uv; None takes pip.
        wheels: A directory with wheels: then nothing is asked for over the network.
        own: A directory with the wheels that belong to this engine.
    """

    uv: str | None = field(factory=find_uv)
    wheels: Path | None = None
    own: Path | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return "uv" if self.uv is not None else "pip"

    def make(self, place: Path, say: Say) -> Path:
        """Makes a virtual environment with the interpreter of this process.

        Returns:
            Its interpreter.

        Raises:
            InstallFailed: If that is not possible.
        """
        if self.uv is not None:
            run([self.uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(place)], say)
        else:
            run([sys.executable, "-m", "venv", str(place)], say)
        return place / "bin" / "python"

    def resolve(self, python: Path, requirements: Sequence[str], say: Say) -> list[Pin]:
        """Which distributions of an index requirements come to.

        Args:
            python: The interpreter for which.
            requirements: The requirements, or paths of projects, which are not among what is returned.
            say: Takes what the tool says.

        Raises:
            InstallFailed: If there is no solution, or no index.
        """
        if self.uv is not None:
            asked = ["compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--python", str(python)]
            text = run([self.uv, "pip", *asked, _NO_SOURCES, *self._places(), "-"], say, given="\n".join(requirements))
            return pins_of(text)
        asked = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
        text = run([str(python), *_PIP, *asked, *self._places(), *requirements], say)
        found = []
        for one in json.loads(text[text.index("{") :])["install"]:
            hashes = one["download_info"].get("archive_info", {}).get("hashes", {})
            if "sha256" in hashes:
                found.append(Pin(one["metadata"]["name"], one["metadata"]["version"], (f"sha256:{hashes['sha256']}",)))
        return found

    def install(self, python: Path, pins: Sequence[Pin], project: Path | None, say: Say) -> None:
        """Installs exactly this into an environment.

        Args:
            python: Its interpreter.
            pins: Distributions of an index; each file must have one of the hashes.
            project: The directory of a project; its requirements are among the pins.
            say: Takes what the tool says.

        Raises:
            InstallFailed: If that is not possible, or a file has another hash.
        """
        into = [*self._pip(python), *self._places(), "--no-deps"]
        if pins:
            descriptor, name = tempfile.mkstemp(prefix="walmill-requirements-", suffix=".txt")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write("\n".join(one.requirement() for one in pins) + "\n")
                run([*into, "--require-hashes", "-r", name], say)
            finally:
                Path(name).unlink(missing_ok=True)
        if project is not None:
            # uv takes a directory for what it was as long as its pyproject.toml has the same time
            fresh = [_NO_SOURCES, "--refresh", "--reinstall"] if self.uv is not None else []
            run([*into, *fresh, str(project)], say)

    def install_files(self, python: Path, wheels: Sequence[Path], say: Say) -> None:
        """Installs wheels of this engine into an environment, and nothing else.

        Raises:
            InstallFailed: If that is not possible.
        """
        run([*self._pip(python), "--no-deps", "--no-index", *map(str, wheels)], say)

    def install_here(self, requirements: Sequence[str], say: Say) -> None:
        """Installs into the environment of this process.

        Raises:
            InstallFailed: If that is not possible.
        """
        run([*self._pip(Path(sys.executable)), *self._places(), *requirements], say)

    def _pip(self, python: Path) -> list[str]:
        if self.uv is not None:
            return [self.uv, "pip", "install", "--python", str(python)]
        return [str(python), *_PIP, "install"]

    def _places(self) -> list[str]:
        """Where distributions come from."""
        found = [] if self.own is None else ["--find-links", str(self.own)]
        if self.wheels is not None:
            return [*found, "--no-index", "--find-links", str(self.wheels)]
        if found and self.uv is not None:  # for uv, an option takes the place of its variable
            found += [f"--find-links={place}" for place in os.environ.get("UV_FIND_LINKS", "").split(",") if place]
        return found


_NO_SOURCES = "--no-sources"
"""Where an author's own checkout has a plugin's requirements (`tool.uv.sources`) is of no use elsewhere; pip does not read it."""
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


def pins_of(text: str) -> list[Pin]:
    """The distributions of a requirements file with hashes; what is no pin is left out."""
    found: list[Pin] = []
    for line in text.replace("\\\n", " ").splitlines():
        pin = _PIN.match(line.strip())
        if pin is not None:
            found.append(Pin(pin["name"], pin["version"], tuple(_HASH.findall(line))))
    return found


def run(command: Sequence[str], say: Say, *, given: str | None = None, cwd: Path | None = None) -> str:
    """Runs a tool to its end.

    Args:
        command: The program and its arguments.
        say: Takes each line that it writes to its standard error, and to its output if that is not what is asked for.
        given: Its standard input.
        cwd: Where it runs.

    Returns:
        What it wrote to its output.

    Raises:
        InstallFailed: If it does not end well; the message has the last lines.
        Unavailable: If it cannot be started.
    """
    lines: list[str] = []

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            told = _COLOUR.sub("", line.rstrip())
            if told:
                lines.append(told)
                say(told)

    try:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            list(command),
            stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "GIT_TERMINAL_PROMPT": "0"},
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started: {error.strerror}") from None
    timer = threading.Timer(MINUTES * 60, process.kill)
    timer.daemon = True
    timer.start()
    listener = threading.Thread(target=listen, args=(process,), daemon=True)
    listener.start()
    try:
        if given is not None:
            assert process.stdin is not None
            with process.stdin as file:
                file.write(given + "\n")
        assert process.stdout is not None
        output = process.stdout.read()
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
        listener.join()
        process.stdout.close()  # type: ignore[union-attr]
        process.stderr.close()  # type: ignore[union-attr]
    if status:
        said = "\n".join([*lines, *output.splitlines()][-TAIL:]) or "it said nothing"
        raise InstallFailed(f"{Path(command[0]).name} ended with the status {status}: {said}")
    return output
