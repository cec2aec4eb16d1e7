"""What the examples of a page are run on: a directory, a server, and things in the places that the page names."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import define, field, frozen
from tests.cli.conftest import Said, Server, clean_environment

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBERS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d[\d.,]*")
ROWS = 'press,line=3,machine=a force=71.3,serial="P1234" 1769851800000000000\npress,line=7,machine=b force=60.5'


@frozen
class Example:
    """A block of a page.

    Attributes:
        kind: Its language; empty if it names none.
        text: What is in it.
        line: Where it begins.
    """

    kind: str
    text: str
    line: int

    @property
    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """The commands of a console, each with the lines that follow it: what it says, or what is typed into a file."""
        joined = self.text.replace("\\\n", " ")
        for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
            command, *after = part.rstrip("\n").split("\n")
            yield re.sub(r"\s+#\s.*$", "", command).strip(), after


def examples(page: Path) -> list[Example]:
    """The blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [Example(one["kind"], one["text"], text.count("\n", 0, one.start()) + 1) for one in BLOCK.finditer(text)]


@define
class Stage:
    """Where commands are run.

    Attributes:
        home: The directory: of the server, and in which commands are given.
        command_line: Runs a `walmill` command in this process.
        start: Starts a server there.
        setenv: Sets a variable of this process until the test ends.
        rest: What ends with the test.
        variables: Further variables of the environment, of commands and of servers.
        replaced: What a page shows, and what is taken for it.
        server: The server; None before the first one is started.
        flags: What it was started with.
    """

    home: Path
    command_line: Callable[..., Said]
    start: Callable[..., Server]
    setenv: Callable[[str, str], None]
    rest: contextlib.ExitStack
    variables: dict[str, str] = field(factory=dict)
    replaced: dict[str, str] = field(factory=dict)
    server: Server | None = None
    flags: tuple[str, ...] = ()

    def real(self, text: str) -> str:
        """The text with what is here in the place of what it shows."""
        for shown, here in self.replaced.items():
            text = text.replace(shown, here)
        return text

    def serve(self, *flags: str) -> None:
        """Starts a server; what has served before ends in order."""
        if self.server is not None:
            assert self.server.end() == 0, self.server.log.read_text()
        self.flags, self.server = flags, self.start(*flags, **self.variables)
        self.setenv("WALMILL_HOST_URL", self.server.url)
        address = self.server.url.partition("://")[2]
        self.replaced |= {"127.0.0.1:8181": address, "localhost:8181": address, "port=8181": f"port={address[-5:]}"}

    def set(self, name: str, value: str) -> None:
        """Sets a variable for all commands and servers that follow."""
        self.variables[name] = value
        self.setenv(name, value)

    @property
    def token(self) -> str:
        """The operator token."""
        assert self.server is not None
        return self.server.token

    def run(self, command: str, *, code: int = 0) -> str:
        """Runs a command, and gives what it said; it has to end with this code."""
        if command.startswith("walmill serve"):
            self.serve(*shlex.split(command.removesuffix("&"))[2:])
            return ""
        if command.startswith("export "):
            for one in shlex.split(command)[1:]:
                self.set(*one.split("=", 1))
            return ""
        if self.server is None:
            self.serve()
        if command.startswith("walmill ") and not {"|", "$"} & set(command):
            said = self.command_line(*shlex.split(command)[1:])
            ended, text = said.code, said.out + said.err
        else:
            bin_ = Path(sys.executable).parent
            shell = clean_environment(
                PATH=f"{bin_}:{os.environ['PATH']}",
                WALMILL_HOST_URL=os.environ["WALMILL_HOST_URL"],
                TOKEN=self.token,
                WALMILL_AUTH_TOKEN=self.token,
                **self.variables,
            )
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=self.home,
                env=shell,
                capture_output=True,
                text=True,
                check=False,
            )
            ended, text = done.returncode, done.stdout + done.stderr
        assert ended == code, f"$ {command}\n{text}"
        return text

    def file(self, name: str, text: str | bytes) -> Path:
        """Makes a file in the directory."""
        place = self.home / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode() if isinstance(text, str) else text)
        return place

    def write(self, lines: str = ROWS, database: str = "plant") -> None:
        """Has rows written."""
        self.run(f"walmill write --database {database} {shlex.quote(lines)}")

    def python(self, code: str, given: Mapping[str, str]) -> None:
        """Runs Python in a process of its own, with these names for these texts."""
        names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
        done = subprocess.run(
            [sys.executable, "-c", names + code], cwd=self.home, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


def shape(line: str) -> str:
    """A line without its numbers and times."""
    return NUMBERS.sub("N", line)
