"""The template: rendered both ways, for every choice; built, installed, running; refusing what makes no package."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import copier
import pytest
from cookiecutter.main import cookiecutter

from walmill.cli.main import run as walmill
from walmill.scaffold import render

pytestmark = pytest.mark.slow

TEMPLATE = Path(__file__).parents[2] / "cookiecutter-plugin"
HOOKS = ("write", "schedule", "request", "service", "snapshot")
CHOICES: list[tuple[str, ...]] = [
    *((hook,) for hook in HOOKS),
    *itertools.combinations(HOOKS[:4], 2),
    ("service", "snapshot"),
    HOOKS,
]
FILES = {
    ".gitignore",
    "AGENTS.md",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/{package}/__init__.py",
    "src/{package}/py.typed",
    "src/{package}/settings.py",
    "tests/test_contract.py",
    "tests/test_plugin.py",
}


def contents(project: Path) -> dict[str, str]:
    """All files of a project, by path."""
    return {
        path.relative_to(project).as_posix(): path.read_text(encoding="utf-8")
        for path in project.rglob("*")
        if path.is_file()
    }


def made(directory: Path, **answers: str) -> Path:
    """The project that cookiecutter renders."""
    return Path(
        cookiecutter(
            str(TEMPLATE), no_input=True, default_config=True, output_dir=str(directory), extra_context=answers
        )
    )


def check(project: Path, *command: str) -> None:
    """Runs a tool in a rendered project, or in a directory of some, on the packages of the running environment."""
    packages = os.pathsep.join(map(str, (project / "src", *project.glob("*/src"))))
    environment = {**os.environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{project.name}: {command}\n{done.stdout}{done.stderr}"


def test_both_ways_make_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_cookiecutter = made(tmp_path / "a", name="spike-filter", hooks="write,request")
    command = ["plugin", "new", "--name", "spike-filter", "--hooks", "write,request", "--no-input"]
    assert walmill([*command, "-o", str(tmp_path / "b")]) == 0
    assert str(tmp_path / "b" / "walmill-spike-filter") in capsys.readouterr().out
    by_walmill = contents(tmp_path / "b" / "walmill-spike-filter")
    assert set(by_walmill) == {name.format(package="walmill_spike_filter") for name in FILES}
    assert by_walmill == contents(by_cookiecutter)


def test_the_name_is_asked_for_once_and_not_at_all_without_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks if `--no-input` asks, if a question comes twice, or if the next steps name another plugin than was made."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert walmill(["plugin", "new", "--no-input", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "walmill-my-plugin").is_dir()
    pip = "pip" if importlib.util.find_spec("pip") else "uv pip"
    assert f"\n  {pip} install -e " in capsys.readouterr().out, "the pip of another environment would install elsewhere"
    monkeypatch.setattr("sys.stdin", io.StringIO("cooler\n" + "\n" * 8))
    assert walmill(["plugin", "new", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("Name of the plugin") == 1
    assert "walmill plugin show cooler\n" in said
    assert (tmp_path / "walmill-cooler").is_dir()


@pytest.mark.parametrize("asynchronous", ["yes", "no"])
def test_every_choice_passes_its_own_checks(asynchronous: str, tmp_path: Path) -> None:
    for chosen in CHOICES:
        name = "-".join(["mill", asynchronous, *chosen])
        project = made(tmp_path, name=name, hooks=",".join(chosen), asynchronous=asynchronous)
        code = contents(project)[f"src/walmill_{name.replace('-', '_')}/__init__.py"]
        there = {hook for hook in HOOKS if f"def on_{hook}(" in code}
        assert there == set(chosen)
        assert ("async def" in code) == (asynchronous == "yes")
    alone = [str(one) for one in sorted(tmp_path.glob("*/tests/test_plugin.py"))]
    assert len(alone) == len(CHOICES)
    # one process for all: each has a rootdir of its own otherwise, and a start of pytest takes longer than its tests
    check(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=.", *alone)
    check(project, "pytest", "-q", "-p", "no:cacheprovider")  # the last one has all hooks, and is tried on an engine
    check(tmp_path, "ruff", "check", "--no-cache", ".")
    check(tmp_path, "ruff", "format", "--no-cache", "--check", ".")
    check(project, "mypy", "--cache-dir", os.devnull)


@pytest.mark.parametrize("licence", ["Apache-2.0", "MIT", "BSD-3-Clause", "none"])
def test_licences(licence: str, tmp_path: Path) -> None:
    import tomllib

    project = made(tmp_path, name="licensed", author="Zoë", licence=licence, hooks="write")
    told = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told.get("license") == (None if licence == "none" else licence)
    text = (project / "LICENSE").read_text(encoding="utf-8") if licence != "none" else ""
    assert (project / "LICENSE").exists() == (licence != "none")
    assert {"Apache-2.0": "Apache License", "MIT": "Copyright (c) Zoë", "BSD-3-Clause": "Neither the name"}.get(
        licence, ""
    ) in text


def test_answers_with_quotes_and_dots_make_a_sound_package(tmp_path: Path) -> None:
    project = made(
        tmp_path, name="a.b", description='Says "no" \\ and é', author="Zoë 'Z' O\"N", python="3.12", hooks="write"
    )
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    import tomllib

    told = tomllib.loads(text)["project"]
    assert told["description"] == 'Says "no" \\ and é'
    assert told["authors"] == [{"name": "Zoë 'Z' O\"N"}]
    assert told["entry-points"] == {"walmill": {"a.b": "walmill_a_b"}}
    assert told["requires-python"] == ">=3.12"
    check(project, "ruff", "check", "--no-cache", ".")
    check(project, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_plugin.py")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"name": "Foo Bar"}, "the name 'Foo Bar' must be lower-case"),
        ({"dist_name": "-x"}, "the distribution '-x' must be"),
        ({"package": "class"}, "the package 'class' is not a Python name"),
        ({"package": "json"}, "the package 'json' would hide another"),
        ({"hooks": "write,never"}, "the hooks 'write,never' are not of write, schedule, request, service, snapshot"),
        ({"hooks": " "}, "the hooks ' ' are not of"),
        ({"python": "2.7"}, "the Python '2.7' must be 3.11"),
        ({"description": "two\nlines"}, "the description 'two\\nlines' must be one line"),
    ],
)
def test_answers_without_a_package_are_refused(
    answers: dict[str, str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from cookiecutter.exceptions import FailedHookException

    with pytest.raises(FailedHookException):
        made(tmp_path, **answers)
    assert said in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = render(name="twice", hooks=["write"], output_dir=tmp_path)
    before = contents(there)
    for arguments, said in [
        (["--name", "twice"], f"Error: {there} exists already; move it away, or take another name"),
        (["--name", "Foo Bar"], "Error: no package can be made from the name 'Foo Bar'"),
        (["--name", "hookspecs"], "Error: the name 'hookspecs' would make a package that hides walmill_hookspecs"),
        (["--name", "x", "--hooks", "write,never"], "Error: the hooks 'write,never' are not of"),
    ]:
        assert walmill(["plugin", "new", *arguments, "--no-input", "-o", str(tmp_path)]) == 1
        assert capfd.readouterr().err.startswith(said)
    assert list(tmp_path.iterdir()) == [there]
    assert contents(there) == before


@pytest.mark.timeout(400)
def test_from_the_template_to_a_running_plugin(
    tmp_path: Path, fresh: Mapping[str, str], run: Callable[..., str], start: Callable[[list[str]], None]
) -> None:
    # The command comes from the installed wheel, which carries the template.
    run("walmill plugin new --name counter --hooks write,schedule,request --no-input", "Plugin counter created")
    project = tmp_path / "walmill-counter"
    assert contents(project) == contents(made(tmp_path / "other", name="counter"))

    # Its wheel is built and installed without network.
    run("python -m hatchling build -t wheel -d ../wheels", directory=project)
    run("pip install --no-deps --find-links wheels walmill-counter")
    (row,) = [line for line in run("walmill plugin list").split("\n") if "counter" in line]
    assert "walmill-counter" in row
    assert "active" in row
    assert "on_write*" in row

    # Its triggers are created; rows go in; what it wrote comes back.
    start(["walmill", "serve"])
    create = "walmill create trigger --database plant --plugin counter --trigger-spec"
    run(f"{create} all_tables rows")
    run(f"{create} every:1h hourly")
    run(f"{create} request:hello asked")
    run("walmill write --database plant 'press,line=3 force=71.3' 'press,line=4 force=60'")
    counted = "walmill query --database plant --format csv"
    run(f"""{counted} "SELECT max(rows) AS n FROM walmill_counter WHERE \\"table\\" = 'press'" """, "n\n2")
    run("walmill run trigger --database plant hourly", "ran successfully")
    run(f"""{counted} "SELECT missed FROM walmill_counter WHERE \\"table\\" = 'tick'" """, "missed\n0")
    token = (tmp_path / "walmill-data" / "operator-token").read_text().strip()
    ask = urllib.request.Request(
        f"{fresh['WALMILL_HOST_URL']}/api/v3/engine/hello?name=mill", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(ask, timeout=10) as answer:
        assert answer.read() == b'{"hello": "mill", "asked": 1}'

    # Its own tests and the type checker find the installed package; ruff looks at its source.
    run("python -m pytest -q -p no:cacheprovider", "passed in", directory=project)
    run(f"python -m mypy --cache-dir {os.devnull}", "Success", directory=project)
    ruff = Path(sysconfig.get_path("scripts")) / "ruff"
    run(f"{ruff} check --no-cache && {ruff} format --no-cache --check", directory=project)


class Versions:
    """The template in a repository, and the projects that copier makes of it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TEMPLATE, place / "cookiecutter-plugin", ignore=ignore)
        shutil.copyfile(TEMPLATE.parent / "copier.yml", place / "copier.yml")
        self.git(place, "init", "--quiet")
        self.tag("v1.0.0")

    def git(self, place: Path, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True)

    def tag(self, version: str) -> None:
        self.git(self.place, "add", "--all")
        self.git(self.place, "commit", "--quiet", "-m", version)
        self.git(self.place, "tag", version)

    def copy(self, into: Path, **answers: Any) -> None:
        copier.run_copy(str(self.place), into, data=answers, defaults=True, quiet=True, vcs_ref="v1.0.0")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    (tmp_path / "template").mkdir()
    return Versions(tmp_path / "template")


@pytest.mark.parametrize(
    "answers",
    [
        {"name": "spike-filter", "hooks": ["write", "request"]},
        {"name": "a.b", "hooks": ["service"], "licence": "none", "asynchronous": "no", "author": 'A "B" C'},
        {
            "name": "x",
            "hooks": ["write", "schedule", "request", "service", "snapshot"],
            "licence": "MIT",
            "python": "3.12",
        },
    ],
)
def test_copier_makes_what_cookiecutter_makes(tmp_path: Path, versions: Versions, answers: dict[str, Any]) -> None:
    versions.copy(tmp_path / "mine", **answers)
    by_copier = contents(tmp_path / "mine")
    said = by_copier.pop(".copier-answers.yml")
    assert "_commit: v1.0.0" in said
    assert f"name: {answers['name']}" in said
    plain = {**answers, "hooks": ",".join(answers["hooks"])}
    assert by_copier == contents(made(tmp_path / "theirs", **plain))


def test_copier_updates_what_it_made(tmp_path: Path, versions: Versions) -> None:
    mine = tmp_path / "mine"
    versions.copy(mine, name="spikes", hooks=["write"])
    code = mine / "src" / "walmill_spikes" / "settings.py"
    code.write_text(code.read_text() + "\nMINE = True\n")
    versions.git(mine, "init", "--quiet")
    versions.git(mine, "add", "--all")
    versions.git(mine, "commit", "--quiet", "-m", "mine")
    agents = versions.place / "cookiecutter-plugin" / "{{cookiecutter.dist_name}}" / "AGENTS.md"
    agents.write_text(agents.read_text() + "\nA new rule for {{ cookiecutter.name }}.\n")
    versions.tag("v2.0.0")
    copier.run_update(mine, defaults=True, overwrite=True, quiet=True)
    assert "A new rule for spikes." in (mine / "AGENTS.md").read_text()
    assert "MINE = True" in code.read_text()
    assert "_commit: v2.0.0" in (mine / ".copier-answers.yml").read_text()


@pytest.mark.parametrize(
    "answers",
    [
        {"name": "Not A Name"},
        {"name": "hookspecs"},
        {"package": "1x"},
        {"python": "2.7"},
        {"hooks": []},
        {"author": ""},
    ],
)
def test_copier_refuses_what_makes_no_package(tmp_path: Path, versions: Versions, answers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(answers))):
        versions.copy(tmp_path / "mine", **answers)
    assert not (tmp_path / "mine").exists()
