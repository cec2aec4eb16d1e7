"""Every example of a how-to, of the reference and of a plugin's page is run: commands on a server, SQL, settings, clients.

A page needs no entry here: its commands are run on a server with one table. What a page shows of other places (paths, host
names, repositories) is replaced by what is there, and what has to be there before is made. `elsewhere` names the few commands
that cannot be run, with the reason. The tutorial and the README have tests of their own, and so has Python that needs no server.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pytest
import trustme
from attrs import field, frozen
from tests.cli.conftest import Said, Server, start, walmill  # noqa: F401 - fixtures
from tests.docs.stage import ROOT, ROWS, Example, Stage, examples, shape
from tests.environments.conftest import Repository, project
from tests.seaweed import BUCKET, seaweed

pytestmark = pytest.mark.slow

Make = Callable[[Stage], None]
T = TypeVar("T")
SHELVES = ("docs/how-to/*.md", "docs/reference/*.md", "docs/explanation/*.md", "contrib_plugins/*/README.md")
HERE_ALREADY = "the plugin is in the environment of the tests; tests/environments installs others"


def nothing(stage: Stage) -> None:
    """What most pages need: a table."""
    stage.write()


@frozen(kw_only=True)
class Page:
    """What a page needs.

    Attributes:
        before: Makes what has to be there.
        first: What has to be done right before a command that begins so.
        replaced: What the page shows of other places, and what is taken for it.
        codes: Codes other than 0 with which a command ends that begins so.
        elsewhere: Commands that begin so cannot be run here, and why.
        blocks: What else is done with a block of this language.
        database: Where the page's SQL is asked.
    """

    before: Make = nothing
    first: Mapping[str, Make] = field(factory=dict)
    replaced: Mapping[str, str] = field(factory=dict)
    codes: Mapping[str, int] = field(factory=dict)
    elsewhere: Mapping[str, str] = field(factory=dict)
    blocks: Mapping[str, Callable[[Stage, Example], None]] = field(factory=dict)
    database: str = "plant"


def of(found: Mapping[str, T], command: str) -> T | None:
    """What is said of a command: the longest beginning counts."""
    return next((found[one] for one in sorted(found, key=len, reverse=True) if command.startswith(one)), None)


def zstd(text: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(text.encode())
    return sink.getvalue().to_pybytes()


def one_year(stage: Stage) -> None:
    stage.file("year.lp.gz", gzip.compress(ROWS.encode()))


def large_files(stage: Stage) -> None:
    good = "".join(f"mem,host=a v={n}i {1735689600000000000 + n}\n" for n in range(1, 1000))
    stage.file("2024.lp.zst", zstd(good))
    stage.file("2025.lp.gz", gzip.compress((good + "mem,host=a v=1.5 1735689600\n").encode()))
    stage.file("archive/1.gz", gzip.compress(good.encode()))


def dumps(stage: Stage) -> None:
    stage.write()
    stage.write(ROWS, "copy")
    stage.file(
        "dump.txt",
        "# INFLUXDB EXPORT: 1677-09-21T00:12:43Z - 2262-04-11T23:47:16Z\n# DDL\nCREATE DATABASE old WITH NAME autogen\n"
        "# DML\n# CONTEXT-DATABASE:old\n# CONTEXT-RETENTION-POLICY:autogen\npress,line=3 force=71.3 1\n",
    )
    stage.file("bucket.lp", ROWS)


def tables(stage: Stage) -> None:
    stage.serve()


def old_rows(stage: Stage) -> None:
    stage.write("vibration v=1\nbatches n=1i")
    stage.write("press,line=3 force=1700")


def air(stage: Stage) -> None:
    page = next(one for one in examples(ROOT / "docs/how-to/sql-functions.md") if one.kind == "python")
    info = stage.home / "site" / "my_package-1.0.dist-info"
    stage.file(f"{info}/METADATA", "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    stage.file(f"{info}/entry_points.txt", "[walmill]\nair = my_package:Air\n")
    stage.file("site/my_package.py", page.text)
    stage.set("PYTHONPATH", str(stage.home / "site"))


def has_air(stage: Stage) -> None:
    stage.write("air,room=1 t=20,h=50")


def presses(place: Path, *, code: int = 1) -> None:
    made = project(place / "press", "press", code=code)
    hook = (
        f"from walmill_hookspecs import hookimpl\n\n@hookimpl\ndef on_write(batch, ctx):\n    ctx.log.info('{code}')\n"
    )
    (made / "src" / "walmill_press" / "__init__.py").write_text(hook)


def trees(stage: Stage) -> None:
    """A repository with the plugin `press`, and a directory of wheels with the plugin `one`."""
    repository = Repository(stage.home)
    presses(repository.work)
    repository.commit("refs/heads/main", "refs/tags/v3")
    stage.replaced["https://host/plant/plugins"] = repository.url
    presses(stage.home)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(stage.home / "wheels")]
    place = project(stage.home / "one", "one", version="1.2")
    subprocess.run(build, cwd=place, check=True, capture_output=True)
    stage.set("UV_FIND_LINKS", str(stage.home / "wheels"))
    stage.write()


def without(*names: str) -> Make:
    def remove(stage: Stage) -> None:
        for name in names:
            stage.run(f"walmill plugin remove --force {name}")

    return remove


def upgraded(stage: Stage) -> None:
    presses(stage.home, code=2)


def folder(stage: Stage) -> None:
    (stage.home / "plugins").mkdir()
    stage.write()
    hook = "from walmill_hookspecs import hookimpl\n\n@hookimpl\ndef on_write(batch, ctx):\n    ctx.log.info('rows')\n"
    stage.file("count.py", hook)


def taken(stage: Stage) -> None:
    """What is saved is used some milliseconds later."""
    until = time.monotonic() + 20
    while "count" not in stage.run("walmill show plugins"):
        assert time.monotonic() < until
    if "counting" in stage.run("walmill show triggers -d plant"):
        stage.run("walmill delete trigger -d plant --force counting")


def unused(stage: Stage) -> None:
    stage.run("walmill delete trigger -d plant --force counting")


def bucket(stage: Stage) -> None:
    stage.variables |= stage.rest.enter_context(seaweed(stage.file("weed/here", "").parent)).environment
    for name, value in stage.variables.items():
        stage.set(name, value)
    stage.serve("--data-dir", "other")


def another_place(stage: Stage) -> None:
    """The log of each of the two examples is new."""
    shutil.rmtree(stage.home / "walmill-data", ignore_errors=True)


def devices(stage: Stage) -> None:
    (stage.home / "plugins").mkdir()
    stage.serve("--plugin-dir", "plugins")
    hook = "from walmill_hookspecs import hookimpl\n\n@hookimpl\ndef on_request(request, ctx):\n    return request.path_params\n"
    stage.file("plugins/devices.py", hook)
    stage.write()
    until = time.monotonic() + 20
    while "devices" not in stage.run("walmill show plugins"):
        assert time.monotonic() < until
    stage.run("walmill create trigger -d plant --plugin devices --trigger-spec 'request:devices/{id}' devices")


def again(stage: Stage) -> None:
    stage.run(
        "walmill create trigger -d plant --plugin downsample --trigger-spec table:press --arg window=1m by_minute"
    )


def page_code(path: str, holds: str) -> str:
    """The plugin that is on a page, without what runs it there."""
    code = next(one.text for one in examples(ROOT / path) if holds in one.text)
    return code.partition("\nwith ")[0]


def sums(stage: Stage) -> None:
    code = (
        "from walmill_hookspecs import hookimpl\n\n"
        "@hookimpl\ndef on_write(batch, ctx):\n    ctx.write(f'sums rows={batch.num_rows}i')\n\n"
        "@hookimpl\ndef on_schedule(ctx):\n    ctx.write('ticks n=1i')\n\n"
        "@hookimpl\ndef on_request(request, ctx):\n    return {'id': request.path_params['id']}\n"
    )
    stage.file("sums.py", code)
    for name, text in (("src/walmill_sums/__init__.py", code), ("pyproject.toml", PROJECT)):
        stage.file(f"walmill-sums/{name}", text)
    stage.file("follow.py", page_code("docs/how-to/sources.md", "class Follow"))
    stage.file("lines.lp", ROWS + "\n")
    stage.file("archive.py", page_code("docs/how-to/files.md", "class Archive"))
    stage.file("cpu.csv", "host,v,time\na,1.5,1769851800000000000\n")
    stage.file("body.json", "{}")
    (stage.home / "plugins").mkdir()
    stage.file("plugins/sums.py", code)
    stage.serve("--plugin-dir", "plugins")
    stage.write()
    again(stage)


PROJECT = """
[project]
name = "walmill-sums"
version = "1.0"
[project.entry-points.walmill]
sums = "walmill_sums"
"""


def somebody_writes(stage: Stage) -> None:
    """A writer that goes on until the page ends."""

    url = f"{os.environ['WALMILL_HOST_URL']}/api/v3/write_lp?db=plant"
    request = urllib.request.Request(url, ROWS.encode(), {"Authorization": f"Bearer {stage.token}"})

    def go_on() -> None:
        while not done.wait(0.05):
            urllib.request.urlopen(request, timeout=30).close()

    done = threading.Event()
    writer = threading.Thread(target=go_on)
    writer.start()
    stage.rest.callback(writer.join)
    stage.rest.callback(done.set)


def certificates(stage: Stage) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(str(stage.home / "key.pem"))
    for place in ("cert.pem", "ca.pem"):
        authority.cert_pem.write_to_path(str(stage.home / place))
    for number, blob in enumerate(made.cert_chain_pems):
        blob.write_to_path(str(stage.home / "cert.pem"), append=number > 0)
    stage.set("WALMILL_TLS_CA", str(stage.home / "ca.pem"))


def forecasts(stage: Stage) -> None:
    stage.write()
    stage.write("press_forecast,line=3 force=1,force_lower=0,force_upper=2")


def findings(stage: Stage) -> None:
    stage.write()
    stage.write("quality,rule=x rows=1i")


def cpu(stage: Stage) -> None:
    stage.write('cpu,host=a usage=1.5,state="on"')


def rejected(stage: Stage, block: Example) -> None:
    """What is in the file of refused lines is what the page shows."""
    assert shape((stage.home / "refused.lp").read_text()).strip() == shape(block.text).strip()


def client(stage: Stage, block: Example) -> None:
    stage.python(stage.real(block.text), {"token": stage.token})


def spikes(stage: Stage) -> None:
    info = stage.home / "site" / "walmill_spikes-1.0.dist-info"
    stage.file(f"{info}/METADATA", "Metadata-Version: 2.1\nName: walmill-spikes\nVersion: 1.0\n")
    stage.file(f"{info}/entry_points.txt", "[walmill]\nspikes = walmill_spikes\n")
    stage.file("site/walmill_spikes.py", SPIKES)
    stage.set("PYTHONPATH", str(stage.home / "site"))


SPIKES = '''
"""Keeps what is above a limit."""
from walmill_hookspecs import setting, settings
from walmill_hookspecs import Line, hookimpl

@settings
class Settings:
    limit: float = setting("What is above it is a spike.", default=90.0)

@hookimpl
def register_settings():
    return Settings

@hookimpl
def on_write(batch, ctx):
    for name, table in batch.tables.items():
        if "force" in table.fields:
            for row in table.rows(["force"]):
                if isinstance(row["force"], float) and row["force"] > ctx.settings.limit:
                    ctx.write(Line("spikes", {"of": name}, {"force": row["force"]}, row["time"]))

@hookimpl
def on_request(request, ctx):
    return {"line": request.query_params.get("line")}
'''


def as_tests(stage: Stage, block: Example) -> None:
    """Python that is a file of tests is run by pytest, what else there is as it is."""
    if "def test_" not in block.text and "plugin_suite(" not in block.text:
        stage.python(block.text, {})
        return
    place = stage.file(f"tests/test_{block.line}.py", block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)]
    done = subprocess.run(command, cwd=stage.home, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


PAGES = {
    "docs/how-to/back-up-and-restore.md": Page(
        replaced={"/mnt/backups": "backups", "/var/lib/walmill": "restored"},
    ),
    "docs/how-to/bulk-load.md": Page(
        before=large_files, codes={"walmill write --database plant -f": 1}, blocks={"": rejected}
    ),
    "docs/how-to/clients.md": Page(blocks={"python": client}),
    "docs/how-to/export-and-import.md": Page(
        before=dumps,
        elsewhere={"influx_inspect": "a tool of InfluxDB 1", "influxd": "a tool of InfluxDB 2"},
    ),
    "docs/how-to/install-plugins.md": Page(
        before=trees,
        replaced={"/srv/wheels": "wheels", "walmill-anomaly": "walmill-one"},
        first={
            "walmill plugin install 'walmill-one": without("walmill-one"),
            "walmill plugin install ./press": without("press"),
            "walmill plugin upgrade": upgraded,
        },
        elsewhere={
            "pip download": "tests/environments/test_house.py does it",
            "walmill plugin install walmill-one --wheels": "the same test does it, with what it fetched",
        },
    ),
    "docs/how-to/keep-and-delete.md": Page(before=tables, first={"walmill update table --database plant": old_rows}),
    "docs/how-to/limits.md": Page(replaced={"walmill top": "walmill top --once"}),
    "docs/how-to/object-stores.md": Page(
        before=bucket,
        replaced={"s3://plant-data": f"s3://{BUCKET}"},
        first={"walmill serve": another_place},
        elsewhere={"export ": "the credentials are those of the bucket of the test"},
    ),
    "docs/how-to/plugin-directory.md": Page(
        before=folder, first={"walmill create trigger": taken, "walmill plugin remove": unused}
    ),
    "docs/how-to/sql-functions.md": Page(before=air, first={"walmill query": has_air}),
    "docs/how-to/test-a-plugin.md": Page(before=spikes, blocks={"python": as_tests}),
    "docs/how-to/tls.md": Page(
        before=certificates,
        replaced={
            "/etc/walmill/": "",
            "0.0.0.0:8181": "127.0.0.1:0",
            "db.plant.example:8181": "127.0.0.1:8181",
        },
        first={"walmill query": nothing},
    ),
    "docs/how-to/triggers.md": Page(
        before=devices,
        replaced={"2026-11-01T00:00:00Z": "2020-01-01T00:00:00Z", "2026-11-02T00:00:00Z": "2100-01-01T00:00:00Z"},
        codes={"walmill replay trigger --database plant --from dead-letters": 1},  # it has none, and says so
        database="_internal",
    ),
    "docs/how-to/write.md": Page(before=one_year),
    "docs/how-to/try-a-plugin.md": Page(before=sums, first={"walmill plugin test write -d": somebody_writes}),
    "docs/reference/sql.md": Page(before=cpu),
    "contrib_plugins/walmill-forecast/README.md": Page(
        before=forecasts, elsewhere={"walmill plugin install": HERE_ALREADY}
    ),
    "contrib_plugins/walmill-lakehouse/README.md": Page(elsewhere={"walmill plugin install": HERE_ALREADY}),
    "contrib_plugins/walmill-quality/README.md": Page(before=findings),
}


def pages() -> list[str]:
    """The pages with something to run."""
    found = [str(one.relative_to(ROOT)) for shelf in SHELVES for one in sorted(ROOT.glob(shelf))]
    kinds = {"console", "sql", "toml", "json"}
    return [one for one in found if one in PAGES or kinds & {each.kind for each in examples(ROOT / one)}]


@pytest.fixture
def stage(
    tmp_path: Path,
    walmill: Callable[..., Said],  # noqa: F811
    start: Callable[..., Server],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    with contextlib.ExitStack() as rest:
        yield Stage(tmp_path, walmill, start, monkeypatch.setenv, rest)


def test_no_page_is_named_that_is_not_there() -> None:
    assert all((ROOT / one).is_file() for one in PAGES)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", pages())
def test_the_examples_of(path: str, stage: Stage) -> None:
    page = PAGES.get(path, Page())
    stage.replaced |= page.replaced
    blocks = examples(ROOT / path)
    page.before(stage)
    for block in blocks:
        if block.kind == "console":
            console(stage, page, block)
        elif block.kind == "sql":
            stage.run(f"walmill query -d {page.database} {shlex.quote(block.text)}")
        elif block.kind == "toml":
            if {"trigger", "plugin"} & set(tomllib.loads(block.text)):
                stage.file("walmill.toml", block.text)
                stage.serve(*stage.flags)
        elif block.kind == "json":
            json.loads(block.text)
        if (handle := page.blocks.get(block.kind)) is not None:
            handle(stage, block)


def console(stage: Stage, page: Page, block: Example) -> None:
    for shown, after in block.commands:
        command = stage.real(shown)
        if of(page.elsewhere, command) is not None:
            continue
        if (make := of(page.first, command)) is not None:
            make(stage)
        if command.startswith("cat > "):
            stage.file(command.removeprefix("cat > "), "\n".join(after))
            continue
        said = stage.run(command, code=of(page.codes, command) or 0)
        for line in after:
            assert shape(line) in shape(said), f"line {block.line}: $ {command}\n{said}\nexpected: {line}"
