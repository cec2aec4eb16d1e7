"""Every command against one real server: what it says when it works, and one sentence with exit code 1 or 2 when it does not."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from walmill import Engine
from walmill.cli.client import Client
from walmill.cli.options import connect
from walmill.errors import DataCorruption

Command = Callable[..., Any]


def good(said: Any) -> str:
    """What a command that worked printed."""
    assert (said.code, said.err) == (0, "")
    return str(said.out)


def sentence(said: Any, code: int = 1) -> str:
    """The sentence with which a command failed: the last line, and for a usage error a hint at the help before it."""
    assert said.code == code, said
    assert said.out == ""
    *before, last = said.err.rstrip("\n").split("\n")
    assert last.startswith("Error: ")
    assert bool(before) is (code == 2)
    assert code == 1 or before[0].startswith("Usage: walmill")
    return last.removeprefix("Error: ")


def test_a_database_from_its_creation_to_its_end(local: Command) -> None:
    assert good(local("create", "database", "one")) == 'Database "one" created successfully\n'
    assert "exists already" in sentence(local("create", "database", "one"))
    assert "one" in good(local("show", "databases"))
    shown = json.loads(good(local("show", "databases", "--format", "json")))
    assert {"db": "one", "iox::database": "one", "retention_period": None, "tables": 0} in shown
    assert "--yes" in sentence(local("delete", "database", "one"), 2)
    assert good(local("delete", "database", "-y", "one")) == 'Database "one" deleted successfully\n'
    assert "there is no database 'one'" in sentence(local("delete", "database", "-y", "one"))


def test_the_limits_of_a_trigger_and_what_it_does(local: Command) -> None:
    create = ("create", "trigger", "-d", "lim", "--plugin", "webhook", "--trigger-spec", "table:alerts")
    arguments = ("--arg", "url=http://127.0.0.1:1/")
    limits = ("--timeout", "2s", "--memory", "300MB", "--cpu", "0.5", "--max-rows", "10", "--breaker", "3")
    more = ("--max-batch-wait", "100ms", "--attempts", "2", "--executor", "process")
    assert good(local(*create, *arguments, *limits, *more, "t")) == "Trigger t created successfully\n"
    shown = json.loads(good(local("show", "trigger", "-d", "lim", "--format", "json", "t")))
    assert shown["limits"] == {"timeout": "2s", "memory": "300MB", "cpu": "0.5", "rows": "10"}
    assert (shown["breaker"], shown["attempts"], shown["max_batch_wait"]) == (3, 2, "100ms")
    pretty = good(local("show", "trigger", "-d", "lim", "t"))
    assert "limit memory" in pretty
    said = sentence(local(*create, *arguments, "--timeout", "5", "--cpu", "no", "u"))
    assert "the limit timeout: " in said
    assert "the limit cpu: 'no' is not a number" in said
    said = sentence(local(*create, *arguments, "--executor", "inline", "--memory", "1GB", "u"))
    assert "the limit memory cannot be enforced by the executor 'inline'" in said
    assert "has replayed the commits 1 to " in good(local("replay", "trigger", "-d", "lim", "--from", "start", "t"))
    assert "there is nothing" in sentence(local("replay", "trigger", "-d", "lim", "--from", "1000000", "t"))
    good(local("write", "-d", "lim", "other v=1"))
    assert "no trigger" in sentence(local("replay", "trigger", "-d", "lim", "--from", "start", "nosuch"))
    assert "has no dead letters" in sentence(local("replay", "trigger", "-d", "lim", "--from", "dead-letters", "t"))
    assert "have no sequence" in sentence(
        local("replay", "trigger", "-d", "lim", "--from", "dead-letters", "--to", "7", "t")
    )
    good(local("replay", "trigger", "-d", "lim", "--stop", "t"))
    assert good(local("replay", "trigger", "-d", "lim", "--stop", "t")) == "Trigger t was not replaying\n"
    assert local("replay", "trigger", "-d", "lim", "t").code == 2
    assert local("replay", "trigger", "-d", "lim", "--stop", "--from", "start", "t").code == 2
    table = good(local("top", "-d", "lim", "--once", "--interval", "0.1"))
    assert "lim.t" in table
    assert "executor" in table
    assert good(local("delete", "trigger", "-d", "lim", "--force", "t"))


def test_a_trigger_from_its_creation_to_its_end(local: Command) -> None:
    # what a value holds arrives as it is given
    odd = 'a,b="c"\nd=e'
    create = ("create", "trigger", "-d", "two", "--plugin", "webhook", "--trigger-spec", "table:alerts")
    arguments = ("--arg", "url=http://127.0.0.1:1/", "--arg", f"template={odd}", "--trigger-arguments", "token=hush=1")
    assert good(local(*create, *arguments, "--error-policy", "log", "t")) == "Trigger t created successfully\n"
    assert "has a trigger 't' already" in sentence(local(*create, *arguments, "t"))
    shown = json.loads(good(local("show", "trigger", "-d", "two", "--format", "json", "t")))
    assert shown["trigger_arguments"] == {"url": "http://127.0.0.1:1/", "template": odd, "token": "***"}
    assert shown["error_behavior"] == "skip"
    pretty = good(local("show", "trigger", "-d", "two", "t"))
    assert "argument token         ***" in pretty
    assert "hush" not in pretty
    [row] = csv.DictReader(io.StringIO(good(local("show", "triggers", "-d", "two", "--format", "csv"))))
    assert (row["trigger"], row["plugin"], row["event"], row["state"]) == ("t", "webhook", "table:alerts", "enabled")
    assert "Disable it first or use --force" in sentence(local("delete", "trigger", "-d", "two", "t"))
    assert good(local("disable", "trigger", "-d", "two", "t")) == "Trigger t disabled successfully\n"
    assert "| disabled" in good(local("show", "triggers", "-d", "two"))
    assert good(local("enable", "trigger", "-d", "two", "t")) == "Trigger t enabled successfully\n"
    assert "`run trigger` is for every: and cron:" in sentence(local("run", "trigger", "-d", "two", "t"))
    assert good(local("delete", "trigger", "-d", "two", "--force", "t")) == "Trigger t deleted successfully\n"
    assert good(local("show", "triggers", "-d", "two")) == "There is no trigger in the database 'two'.\n"


def test_a_schedule_is_run_by_hand(local: Command) -> None:
    create = ("create", "trigger", "-d", "three", "--plugin", "deadman", "--trigger-spec", "cron:0 3 1 1 *")
    good(local(*create, "--arg", "table=cpu", "--arg", "timeout=1m", "still"))
    good(local("write", "-d", "three", "--precision", "ns", "cpu,host=a v=1 1000"))
    said = good(local("run", "trigger", "-d", "three", "still", "--at", "2026-01-31T09:30:00Z"))
    assert said.startswith("Trigger still ran successfully (committed as ")
    found = json.loads(good(local("query", "-d", "three", "--format", "json", "SELECT state FROM alerts")))
    assert found == [{"state": "firing"}]
    again = json.loads(good(local("run", "trigger", "-d", "three", "still", "--format", "json")))
    assert (again["status"], again["sequence"]) == ("ok", None)
    assert "'yesterday' is not a time" in sentence(local("run", "trigger", "-d", "three", "still", "--at", "yesterday"))


def test_a_request_trigger_is_run_by_hand(local: Command) -> None:
    create = ("create", "trigger", "-d", "four", "--plugin", "chart", "--trigger-spec", "request:pictures/{name}")
    good(local(*create, "pic"))
    good(local("write", "-d", "four", "--precision", "ns", "cpu,host=a v=1 1000\ncpu,host=a v=2 2000"))
    run = ("run", "trigger", "-d", "four", "pic")
    found = local(*run, "--path", "pictures/a?table=cpu&field=v&format=svg")
    assert (found.code, "<svg" in found.out) == (0, True), found
    refused = local(*run, "-X", "GET", "--path", "/pictures/a", "--header", "Accept: image/svg+xml")
    assert (refused.code, refused.err) == (1, "Error: the trigger pic answered 400\n")
    assert "error" in refused.out
    assert local(*run, "--path", "pictures/a", "-X", "PUT").code == 1
    for more, text in (((), "has parameters"), (("--at", "2026-01-31T09:30:00Z"), "--at is for schedules")):
        found = local(*run, *more)
        assert (found.code, text in found.err) == (2, True), found
    assert local(*run, "--path", "x", "--header", "nothing").code == 2
    good(local("delete", "trigger", "-d", "four", "--force", "pic"))


def test_caches_of_values(local: Command) -> None:
    good(local("write", "-d", "six", "--precision", "ns", "cpu,region=us,host=a v=1 1"))
    made = good(
        local("create", "last_cache", "-d", "six", "-t", "cpu", "--key-columns", "host", "--count", "3", "--ttl", "1h")
    )
    assert made == "Last value cache cpu_host_last_cache created successfully\n"
    made = good(
        local(
            "create",
            "distinct_cache",
            "-d",
            "six",
            "-t",
            "cpu",
            "--columns",
            "region,host",
            "--max-age",
            "none",
            "places",
        )
    )
    assert made == "Distinct value cache places created successfully\n"
    good(local("write", "-d", "six", "--precision", "ns", "cpu,region=eu,host=b v=2 2"))
    found = json.loads(good(local("query", "-d", "six", "--format", "json", "SELECT host, v FROM last_cache('cpu')")))
    assert found == [{"host": "b", "v": 2.0}]
    shown = json.loads(good(local("show", "caches", "-d", "six", "--format", "json")))
    assert [(one["kind"], one["name"]) for one in shown] == [("last", "cpu_host_last_cache"), ("distinct", "places")]
    assert "places" in good(local("show", "caches", "-d", "six"))
    assert "already" in sentence(local("create", "last_cache", "-d", "six", "-t", "cpu", "--key-columns", "host"))
    good(local("delete", "distinct_cache", "-d", "six", "-t", "cpu", "places"))
    assert "'places'" in sentence(local("delete", "distinct_cache", "-d", "six", "-t", "cpu", "places"))
    good(local("delete", "last_cache", "-d", "six", "-t", "cpu", "cpu_host_last_cache"))
    assert "There is no cache" in good(local("show", "caches", "-d", "six"))


def test_queries_are_listed_and_stopped(local: Command) -> None:
    good(local("write", "-d", "five", "cpu v=1"))
    assert good(local("show", "queries")) == "No query runs.\n"
    good(local("query", "-d", "five", "SELECT 41 + 1 AS answer"))
    shown = json.loads(good(local("query", "-l", "influxql", "-d", "five", "--format", "json", "SHOW DATABASES")))
    assert {"iox::database": "five", "deleted": False} in shown
    shown = json.loads(good(local("show", "queries", "--all", "--format", "json")))
    assert (shown[-1]["query_text"], shown[-1]["success"]) == ("SELECT 41 + 1 AS answer", True)
    assert "no query 1000000 waits or runs" in sentence(local("query", "--cancel", "1000000"))
    assert local("query", "--cancel", "1", "SELECT 1").code == 2
    assert local("query", "SELECT 1").code == 2


def test_a_token_from_its_creation_to_its_end(local: Command, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = good(local("create", "token", "--admin", "--expiry", "10d", "telegraf"))
    assert "cannot be shown again" in text
    token = next(line.removeprefix("Token: ") for line in text.split("\n") if line.startswith("Token: "))
    assert "there is a token 'telegraf' already" in sentence(local("create", "token", "telegraf"))
    made = json.loads(good(local("create", "token", "--format", "json", "--name", "other")))
    assert made["expires_at"] is None
    shown = good(local("show", "tokens")) + good(local("show", "tokens", "--format", "json"))
    assert "telegraf" in shown
    assert not any(secret in shown for secret in (token, made["token"], server.token))
    monkeypatch.setenv("WALMILL_DATA_DIR", "elsewhere")
    monkeypatch.setenv("WALMILL_AUTH_TOKEN", token)
    good(local("show", "databases"))
    assert "refused the token; check --token" in sentence(local("show", "databases", "--token", "wm_unknown"))
    good(local("delete", "token", "other"))
    good(local("delete", "token", "--token-name", "telegraf", "--token", server.token))
    assert "refused the token" in sentence(local("show", "databases"))


def test_what_a_token_may_ask(local: Command) -> None:
    three = "SELECT value FROM generate_series(1, 3)"
    good(local("create", "database", "asked"))
    made = good(local("create", "token", "--query-max-rows", "2", "--query-timeout", "10s", "--format", "json", "wall"))
    token = json.loads(made)["token"]
    ask = ("query", "-d", "asked", "--token", token, three)
    assert "more than 2 rows, which is the limit of this token" in sentence(local(*ask))
    assert "max_rows 2, timeout 10s" in good(local("show", "tokens"))
    good(local("update", "token", "wall", "--query-memory-limit", "64MiB", "--query-max-files", "3"))
    assert good(local(*ask)).count("|") > 0
    assert "max_files 3, memory_limit 64MiB" in good(local("show", "tokens"))
    assert "there is no token 'nobody'" in sentence(local("update", "token", "nobody"))
    assert "query_timeout" in sentence(local("update", "token", "wall", "--query-timeout", "soon"))
    assert local("update", "token", "wall", "--query-max-rows", "0").code == 2
    good(local("delete", "token", "wall"))


def test_the_last_token_cannot_be_deleted(local: Command) -> None:
    assert "'_operator' is the last one" in sentence(local("delete", "token", "_operator"))
    good(local("show", "tokens"))


ROWS = 'cpu,host=a v=1.5,n=3i,ok=true,s="x,y" 1700000000000000001\ncpu,host=b v=2 1700000000000000002\n'


@pytest.fixture(scope="session")
def rows(server: Any) -> str:
    """A database with two rows."""
    with Client(server.url, server.token) as client:
        client.write("rows", ROWS.encode(), precision="ns")
    return "rows"


ALL = "SELECT host, v, n, ok, s, time FROM cpu ORDER BY time"


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (
            "pretty",
            "+------+-----+---+------+-----+-------------------------------+\n"
            "| host | v   | n | ok   | s   | time                          |\n"
            "+------+-----+---+------+-----+-------------------------------+\n"
            "| a    | 1.5 | 3 | true | x,y | 2023-11-14T22:13:20.000000001 |\n"
            "| b    | 2.0 |   |      |     | 2023-11-14T22:13:20.000000002 |\n"
            "+------+-----+---+------+-----+-------------------------------+\n",
        ),
        (
            "csv",
            'host,v,n,ok,s,time\na,1.5,3,true,"x,y",2023-11-14T22:13:20.000000001\nb,2.0,,,,2023-11-14T22:13:20.000000002\n',
        ),
        (
            "jsonl",
            '{"host":"a","v":1.5,"n":3,"ok":true,"s":"x,y","time":"2023-11-14T22:13:20.000000001"}\n'
            '{"host":"b","v":2.0,"time":"2023-11-14T22:13:20.000000002"}\n',
        ),
    ],
)
def test_results_as_text(local: Command, rows: str, form: str, shown: str) -> None:
    assert good(local("query", "-d", rows, "--format", form, ALL)) == shown


def test_results_in_files(local: Command, rows: str, tmp_path: Path) -> None:
    good(local("query", "-d", rows, ALL, "-o", str(tmp_path / "r.parquet")))
    assert pq.read_table(tmp_path / "r.parquet").column("v").to_pylist() == [1.5, 2.0]
    good(local("query", "-d", rows, ALL, "-o", str(tmp_path / "r.json")))
    assert len(json.loads((tmp_path / "r.json").read_text())) == 2
    (tmp_path / "q.sql").write_text("SELECT v FROM cpu WHERE host = $host AND v > $least")
    asked = ("query", "-d", rows, "--format", "csv", "-f", str(tmp_path / "q.sql"))
    assert good(local(*asked, "--param", "host=a", "--param", "$least=1")) == "v\n1.5\n"
    missing = tmp_path / "no" / "r.json"
    assert sentence(local("query", "-d", rows, ALL, "-o", str(missing))) == (
        f"the file {str(missing)!r} cannot be written: No such file or directory; name another"
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["q.sql", "r.json", "r.parquet"]


def test_the_plugins_of_the_server_and_of_this_machine(local: Command) -> None:
    theirs = json.loads(good(local("show", "plugins", "--format", "json")))
    ours = json.loads(good(local("plugin", "list", "--format", "json", "--strict")))
    assert [{**one, "triggers": None} for one in theirs] == [{**one, "triggers": None} for one in ours]
    assert {"alerts", "chart", "deadman", "downsample", "webhook"} <= {one["name"] for one in ours}
    assert re.search(r"\| downsample +\| walmill-downsample +\|", good(local("show", "plugins")))
    shown = good(local("plugin", "show", "downsample"))
    assert 'list of enum (mean|min|max|sum|count|first|last|median|stddev) | ["mean"]' in shown
    assert json.loads(good(local("plugin", "show", "chart", "--format", "json")))["status"] == "active"
    assert "did you mean 'downsample'?" in sentence(local("plugin", "show", "downsampl"))


TRIGGER = ("create", "trigger", "-d", "bad")
WRONG: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("qurey",), "there is no command qurey; did you mean 'query'?"),
    (2, ("show", "database"), "did you mean 'databases'?"),
    (2, ("wal", "zzz"), "there are dump, verify"),
    (2, ("query", "--nope"), "No such option"),
    (2, ("query", "SELECT 1"), "WALMILL_DATABASE_NAME"),
    (2, ("query", "-d", "rows", ""), "the SQL is empty"),
    (2, ("query", "-d", "rows", "SELECT 1", "-f", "no.sql"), "no.sql"),
    (2, ("query", "-d", "rows", "SELECT 1", "--format", "xml"), "'xml' is not one of"),
    (2, ("query", "-d", "rows", "SELECT 1", "--param", "x"), "is not NAME=VALUE"),
    (2, ("query", "-d", "rows", "SELECT 1", "--param", "x=1", "--param", "x=2"), "given twice"),
    (1, ("query", "-d", "rows", "SELECT 1", "--param", "x=1"), "no placeholder $x"),
    (2, ("write", "-d", "rows", __file__), "is a file, not a line: write it with --file"),
    (1, ("query", "-d", "rows", "SELECT * FRM cpu"), "FRM"),
    (1, ("query", "-d", "rows", "DROP TABLE cpu"), "queries only read"),
    (1, ("query", "-d", "nowhere", "SELECT 1"), "there is no database 'nowhere'"),
    (1, ("query", "-d", "rows", "SELECT * FROM nothing"), "nothing"),
    (1, ("create", "database", "a b"), "invalid character"),
    (1, ("delete", "database", "-y", "_internal"), "the engine's own"),
    (2, ("create", "token"), "the token has no name"),
    (2, ("create", "token", "--name", "a", "b"), "two names were given"),
    (1, ("create", "token", "--expiry", "10", "x"), "has no unit"),
    (1, ("create", "token", "--expiry", "1500ms", "x"), "whole number of seconds"),
    (1, ("create", "token", "a\nb"), "printable"),
    (1, ("delete", "token", "nobody"), "there is no token 'nobody'"),
    (1, ("show", "trigger", "-d", "nowhere", "t"), "there is no database 'nowhere'"),
    (1, ("show", "trigger", "-d", "rows", "t"), "there is no trigger 't' in the database 'rows'"),
    (1, ("run", "trigger", "-d", "rows", "t"), "there is no trigger 't'"),
    (1, ("enable", "trigger", "-d", "rows", "t"), "there is no trigger 't'"),
    (1, ("disable", "trigger", "-d", "rows", "t"), "there is no trigger 't'"),
    (1, ("delete", "trigger", "-d", "rows", "t"), "there is no trigger 't'"),
    (1, (*TRIGGER, "--plugin", "alert", "--trigger-spec", "table:x", "t"), "did you mean 'alerts'?"),
    (1, (*TRIGGER, "--plugin", "zzz", "--trigger-spec", "table:x", "t"), "there are: "),
    (1, (*TRIGGER, "--plugin", "alerts", "--trigger-spec", "tabel:x", "t"), "failed to parse trigger from tabel:x"),
    (1, (*TRIGGER, "--plugin", "alerts", "--trigger-spec", "every:5s", "t"), "lacks the hook on_schedule"),
    (1, (*TRIGGER, "--plugin", "deadman", "--trigger-spec", "cron:0 0 30 2 *", "t"), "no date has this day"),
    (1, (*TRIGGER, "--plugin", "alerts", "--trigger-spec", "table:x", "--arg", "abov=1", "t"), "did you mean above?"),
    (1, (*TRIGGER, "--plugin", "chart", "--trigger-spec", "request:c", "--methods", "FOO", "t"), "'FOO' is not one of"),
    (2, (*TRIGGER, "--plugin", "alerts", "--trigger-spec", "table:x", "--arg", "a", "t"), "is not NAME=VALUE"),
    (2, (*TRIGGER, "--plugin", "alerts", "--trigger-spec", "table:x", "--max-concurrency", "0", "t"), "1<=x<=256"),
    (1, ("plugin", "show", "zzz"), "there are: alerts"),
    (1, ("plugin", "new", "--name", "Bad Name!", "--no-input"), "no package can be made"),
    (1, ("plugin", "new", "--name", "x", "--hooks", "wr", "--no-input"), "not of write, schedule, request"),
    (2, ("completion", "tcsh"), "'tcsh' is not one of"),
    (1, ("wal", "dump", "nowhere"), "there is no directory nowhere"),
    (1, ("wal", "verify", "."), "there is no log in ."),
    (1, ("show", "databases", "--host", "ftp://x"), "is not a URL of a server"),
    (1, ("show", "databases", "--host", "http://127.0.0.1:1"), "no server answers at http://127.0.0.1:1"),
    (1, ("show", "databases", "--token", "a b"), "characters that no token has"),
    (1, ("show", "databases", "--token", "wm_wrong"), "refused the token; check --token, or WALMILL_AUTH_TOKEN"),
    (1, ("show", "databases", "--data-dir", "nowhere"), "wants a token; there is no token file"),
]


@pytest.mark.parametrize(("code", "arguments", "said"), WRONG, ids=[" ".join(args)[:60] for _, args, _ in WRONG])
def test_what_is_wrong_is_a_sentence(
    local: Command, rows: str, code: int, arguments: tuple[str, ...], said: str
) -> None:
    assert said in sentence(local(*arguments), code)


def test_a_line_longer_than_any_name_of_a_file_is_taken_for_a_line(local: Command, rows: str) -> None:
    said = local("write", "-d", rows, "x" * 5000)
    assert said.code == 1
    assert said.err.startswith("line 1: Expected at least one space character")


def test_what_is_refused_leaves_nothing(local: Command) -> None:
    sentence(local(*TRIGGER, "--plugin", "alerts", "--trigger-spec", "table:x", "t"))
    assert '"bad"' not in good(local("show", "databases", "--format", "json"))


SPEAK: list[tuple[str, ...]] = [
    ("show", "databases"),
    ("show", "triggers"),
    ("show", "tokens"),
    ("show", "plugins"),
    ("show", "trigger", "-d", "d", "t"),
    ("create", "database", "d"),
    ("create", "token", "t"),
    ("create", "trigger", "-d", "d", "--plugin", "p", "--trigger-spec", "all_tables", "t"),
    ("enable", "trigger", "-d", "d", "t"),
    ("disable", "trigger", "-d", "d", "t"),
    ("run", "trigger", "-d", "d", "t"),
    ("delete", "trigger", "-d", "d", "t"),
    ("delete", "token", "t"),
    ("delete", "database", "-y", "d"),
    ("query", "-d", "d", "SELECT 1"),
]


class _WebPage(BaseHTTPRequestHandler):
    """A server that is no Walmill."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b"<html><body>It works!</body></html>"
        self.send_response(200 if self.command == "GET" else 501)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that http.server asks for

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web_page() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _WebPage) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("arguments", SPEAK, ids=[" ".join(one[:2]) for one in SPEAK])
def test_every_command_says_what_is_wrong_with_the_server(
    walmill: Command, web_page: str, arguments: tuple[str, ...]
) -> None:
    said = sentence(walmill(*arguments, "--host", web_page))
    assert "is a Walmill" in said
    assert "<" not in said
    with socket.socket() as bound:  # bound and not listening: nothing answers there
        bound.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert sentence(walmill(*arguments, "--host", nowhere)).startswith(f"no server answers at {nowhere} (")


@pytest.mark.parametrize("arguments", SPEAK, ids=[" ".join(one[:2]) for one in SPEAK])
def test_every_command_wants_a_token(walmill: Command, server: Any, arguments: tuple[str, ...]) -> None:
    said = sentence(walmill(*arguments, "--host", server.url))
    assert said.startswith(f"the server at {server.url} wants a token; there is no token file")
    assert "--data-dir" in said


def test_the_operators_token_goes_to_this_machine_only(walmill: Command, server: Any) -> None:
    """A host that is not loopback gets no token from a file, unless its directory is named."""
    with connect("http://192.0.2.1:8181", None, None) as client:
        assert "authorization" not in client._http.headers
    with connect("http://192.0.2.1:8181", None, server.directory / "walmill-data") as client:
        assert client._http.headers["authorization"] == f"Bearer {server.token}"


def test_the_log_beside_a_running_server(local: Command, rows: str, server: Any) -> None:
    assert "| ok " in good(local("wal", "verify", "walmill-data"))
    commits = [json.loads(line) for line in good(local("wal", "dump", "--rows", "walmill-data")).splitlines()]
    data = [row for one in commits for section in one["sections"] for row in section.get("data", ())]
    assert any(row.get("host") == "a" and row.get("v") == 1.5 for row in data)
    later = [json.loads(line) for line in good(local("wal", "dump", "walmill-data", "--from", "3")).splitlines()]
    assert [one["sequence"] for one in later] == [one["sequence"] for one in commits if one["sequence"] >= 3]


def test_a_damaged_log_is_shown_and_refused(walmill: Command, tmp_path: Path) -> None:
    for number in range(2):  # each start has a segment of its own
        with Engine.open(data_dir=tmp_path / "data", discover_plugins=False) as engine:
            engine.write(f"cpu v={number}", database="d")
    segment = min((tmp_path / "data" / "wal").glob("*.seg"))
    damaged = bytearray(segment.read_bytes())
    damaged[200] ^= 0xFF
    segment.write_bytes(damaged)
    said = walmill("wal", "verify", "data", "--format", "json")
    assert said.code == 1
    assert [one["status"] for one in json.loads(said.out)] == ["damaged", "ok"]
    with pytest.raises(DataCorruption, match=segment.name):
        Engine.open(data_dir=tmp_path / "data", discover_plugins=False)


def test_doctor(local: Command, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = server.url.removeprefix("http://")

    def checks(*flags: str, code: int = 0) -> dict[str, dict[str, str]]:
        said = local("doctor", "--format", "json", *flags)
        assert said.code == code
        return {one["name"]: one for one in json.loads(said.out)}

    found = checks("--http-bind", address)
    assert found["lock"]["result"].startswith(f"held by process {server.process.pid}, since ")
    assert f"{address} is served: Walmill" in found["port"]["result"]
    assert {one["status"] for one in found.values()} <= {"ok", "note", "warning"}  # a container's disk may be overlay
    elsewhere = checks("--http-bind", address, "--data-dir", str(tmp_path / "other"), code=1)
    assert elsewhere["port"]["status"] == "failed"
    assert elsewhere["lock"]["result"] == "free"
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").touch()
    assert checks("--data-dir", str(tmp_path / "file"), code=1)["data directory"]["status"] == "failed"
    assert checks("--log-level", "loud", code=1)["settings"]["status"] == "failed"
    assert found["object store"]["status"] == "ok"
    assert "none of s3://" in checks("--object-store", "s4://b", code=1)["object store"]["result"]
    monkeypatch.setenv("WALMILL_LOG_LEVL", "debug")
    assert checks()["environment"]["result"] == "nothing reads WALMILL_LOG_LEVL; did you mean WALMILL_LOG_LEVEL?"
    assert "| plugins " in local("doctor").out
