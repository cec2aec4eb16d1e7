"""`walmill write` against a real server: what breaks in the middle, and what was never good."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from walmill.auth.tokens import read_token_file
from walmill.cli.client import Client
from walmill.cli.main import run

DEADLINE = 60.0
WALMILL = [sys.executable, "-c", "import sys; from walmill.cli.main import run; sys.exit(run())"]


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.01)


@define
class Server:
    """`walmill serve`; it can be killed and started again on the same port and data."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}
        return {**kept, "WALMILL_HOST_URL": self.url, "WALMILL_DATA_DIR": str(self.home / "data")}

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*WALMILL, "serve", "--http-bind", f"127.0.0.1:{self.port}"],
                cwd=self.home,
                env=self.environment,
                stderr=log,
            )
        until(self.is_ready, "the server is ready")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/ready", timeout=5):
            return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)

    def rows(
        self, database: str, sql: str = "SELECT count(*) AS n, count(DISTINCT time) AS t FROM log"
    ) -> dict[str, Any]:
        with Client.local(self.url, self.home / "data") as client:
            (row,) = client.query_rows(database, sql)
            return row

    def writer(self, *args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        command = [*WALMILL, "write", *map(str, args)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.home, env=self.environment, **streams)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Server(tmp_path_factory.mktemp("server"), port)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the test's own, in a process whose environment names the server."""
    monkeypatch.chdir(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def data(count: int, first: int = 0) -> bytes:
    """Lines of 51 bytes or so; each fourth holds a newline in a string."""
    texts = ("plain", "a, b=c", 'say \\"x\\"', "two\nlines")
    return b"".join(
        b'log,host=h%d msg="%s",n=%di %d\n' % (i % 50, texts[i % 4].encode(), i, 1_700_000_000_000_000_000 + i)
        for i in range(first, first + count)
    )


MANY = data(60_000)  # 3 MB: three pieces


def entries(checkpoint: Path) -> int:
    return checkpoint.read_bytes().count(b"\n") - 1 if checkpoint.exists() else 0


# ---- breaks


def test_a_killed_writer_goes_on(server: Server, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    command = ("-d", "killed", "--parallel", "2", "--resume", checkpoint)
    first = server.writer(*command)
    assert first.stdin is not None
    first.stdin.write(MANY[:2_900_000])
    first.stdin.flush()
    until(lambda: entries(checkpoint) == 2, "two pieces are acknowledged")
    first.kill()
    assert first.wait(DEADLINE) == -signal.SIGKILL
    first.communicate()
    before = server.rows("killed")["n"]
    assert 0 < before < 60_000
    second = server.writer(*command)
    out, err = second.communicate(MANY, DEADLINE)
    assert second.returncode == 0, err
    assert (numbers := re.findall(r"going on with line ([\d,]+)", err.decode()))
    assert int(numbers[0].replace(",", "")) > 40_000
    assert b"60,000 lines written" in out
    assert server.rows("killed") == {"n": 60_000, "t": 60_000}
    assert not checkpoint.exists()


def test_ctrl_c_stops_in_order_and_the_command_goes_on(server: Server, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    command = ("-d", "interrupted", "--resume", checkpoint)
    first = server.writer(*command)
    assert first.stdin is not None
    first.stdin.write(MANY[:1_500_000])
    first.stdin.flush()
    until(lambda: entries(checkpoint) == 1, "a piece is acknowledged")
    first.send_signal(signal.SIGINT)
    assert first.wait(DEADLINE) == 130
    _, err = first.communicate()
    assert re.search(
        r"lines written to 'interrupted'[^;]*; the same command goes on from there\nStopped\.", err.decode()
    )
    second = server.writer(*command)
    out, _ = second.communicate(MANY, DEADLINE)
    assert b"60,000 lines written" in out
    assert server.rows("interrupted") == {"n": 60_000, "t": 60_000}


def test_the_writer_survives_a_restart_of_the_server(server: Server, tmp_path: Path) -> None:
    checkpoint, log = tmp_path / "checkpoint", tmp_path / "log"
    with log.open("wb") as told:
        writer = server.writer("-d", "restarted", "--parallel", "2", "--resume", checkpoint, stderr=told)
    assert writer.stdin is not None
    writer.stdin.write(MANY[:1_500_000])
    writer.stdin.flush()
    until(lambda: entries(checkpoint) == 1, "a piece is acknowledged")
    server.kill()
    writer.stdin.write(MANY[1_500_000:])
    writer.stdin.close()
    until(lambda: "trying again for up to 5m" in log.read_text(), "the writer noticed")
    server.start()
    assert writer.wait(DEADLINE) == 0, log.read_text()
    writer.stdout.close()  # type: ignore[union-attr]
    assert "The server answers again" in log.read_text()
    assert server.rows("restarted") == {"n": 60_000, "t": 60_000}


def test_a_file_that_was_cut_off_goes_on_when_it_is_whole(
    server: Server, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress(MANY, 1)
    Path("a.gz").write_bytes(whole[: len(whole) // 2])
    assert run(["write", "-d", "cut", "-f", "a.gz"]) == 1
    said = capsys.readouterr().err
    assert "a.gz is cut off" in said
    assert "the same command goes on from there" in said
    assert [path.name for path in here.glob("*.resume")]
    Path("a.gz").write_bytes(whole)
    assert run(["write", "-d", "cut", "-f", "a.gz"]) == 0
    captured = capsys.readouterr()
    assert "going on with line" in captured.err
    assert "60,000 lines written" in captured.out
    assert server.rows("cut") == {"n": 60_000, "t": 60_000}
    assert [path.name for path in here.iterdir()] == ["a.gz"]


def test_several_files_in_parallel(server: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.lp").write_bytes(data(50_000))
    Path("b.zst").write_bytes(
        subprocess.run(
            [sys.executable, "-c", _ZSTD], input=data(50_000, 50_000), capture_output=True, check=True
        ).stdout
    )
    assert run(["write", "-d", "many", "--parallel", "4", "--gzip", "--no-sync", "-f", "a.lp", "-f", "b.zst"]) == 0
    assert "100,000 lines written to 'many'" in capsys.readouterr().out
    assert server.rows("many") == {"n": 100_000, "t": 100_000}
    assert server.rows("many", "SELECT sum(n) AS n FROM log WHERE msg = 'two\nlines'") == {
        "n": sum(range(3, 100_000, 4))
    }


_ZSTD = """
import sys, pyarrow as pa
with pa.CompressedOutputStream(pa.PythonFile(sys.stdout.buffer, mode="w"), "zstd") as file:
    file.write(sys.stdin.buffer.read())
"""


# ---- what is refused


def test_refused_lines_can_be_mended_and_written(
    server: Server, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = data(40_000)
    number = good.count(b"\n") + 1
    Path("a.lp").write_bytes(b'# c\n\nlog,host=a msg="x\n y", 1\n' + good + b"log v=1.x 5\r\n" + b"log v=2 6\n")
    assert run(["write", "-d", "mended", "-f", "a.lp", "--rejected", "bad.lp", "--parallel", "2"]) == 1
    said = capsys.readouterr().err
    assert "a.lp: line 3: " in said
    assert "2 lines were refused: mend them in 'bad.lp'" in said
    text = Path("bad.lp").read_text()
    # requests are parallel, and so either refusal may come first
    assert sorted(re.findall(r"^# a\.lp line (\d+): ", text, re.MULTILINE)) == ["3", str(number + 4)]
    Path("bad.lp").write_text(text.replace('y", 1', 'y" 1').replace("1.x", "1.5"))
    assert run(["write", "-d", "mended", "-f", "bad.lp"]) == 0
    expected = 40_000 + 3
    assert server.rows("mended", "SELECT count(*) AS n FROM log") == {"n": expected}
    assert server.rows("mended", "SELECT msg FROM log WHERE host = 'a'") == {"msg": "x\n y"}


def test_whole_requests_are_refused_on_wish(server: Server, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.lp").write_text("log v=1 1\nlog v= 2\nlog v=3 3\n")
    command = ["write", "-d", "atomic", "-f", "a.lp", "--no-accept-partial"]
    assert run(command) == 1
    assert "line 2 was refused, and with it its whole request" in capsys.readouterr().err
    assert run([*command, "--rejected", "bad.lp"]) == 1
    assert "3 lines were refused" in capsys.readouterr().err
    assert Path("bad.lp").read_text().partition("\n")[2] == Path("a.lp").read_text()
    Path("bad.lp").write_text(Path("bad.lp").read_text().replace("v= 2", "v=2 2"))
    assert run(["write", "-d", "atomic", "-f", "bad.lp"]) == 0
    assert server.rows("atomic") == {"n": 3, "t": 3}


BAD: Mapping[str, tuple[bytes | None, list[str], str]] = {
    "missing": (None, [], "the file 'a.lp' is not there"),
    "binary": (bytes(range(256)) * 20, [], "a.lp is binary, not line protocol"),
    "cut off": (gzip.compress(MANY, 1)[:3000], [], "a.lp is cut off: its gzip data has no end"),
    "a line too long": (b"log v=1 1\nlog m=" + b"x" * (9 * 2**20), [], "a.lp: line 2 is longer than 8,388,608 bytes"),
    "a token": (b"log v=1 1\n", ["--token", "wrong"], "refused the token"),
    "a database": (b"log v=1 1\n", ["-d", "_x/y"], "db name"),
    "twice": (b"log v=1 1\n", ["-f", "./a.lp"], "was given twice"),
    "a duration": (b"log v=1 1\n", ["--retry-for", "5"], "the --retry-for '5' has no unit"),
    "no checkpoint": (b"log v=1 1\n", ["--resume", "a.lp"], "'a.lp' is no checkpoint of `walmill write`"),
    "rejected is the input": (b"log v=1 1\n", ["--rejected", "a.lp"], "is a file that is written"),
    "nowhere": (b"log v=1 1\n", ["-H", "http://127.0.0.1:1"], "no server answers at http://127.0.0.1:1"),
    "nowhere for a while": (b"log v=1 1\n", ["-H", "http://127.0.0.1:1", "--retry-for", "100ms"], "tried for 0 s"),
}


@pytest.mark.parametrize(("content", "options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_work_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, options: list[str], message: str
) -> None:
    if content is not None:
        Path("a.lp").write_bytes(content)
    assert run(["write", "-d", "bad", "-f", "a.lp", *options]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    if content is not None:
        assert Path("a.lp").read_bytes() == content


def test_directories_and_files_of_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("d").mkdir()
    assert run(["write", "-d", "bad", "-f", "d"]) == 1
    assert "'d' is a directory" in capsys.readouterr().err
    Path("empty.lp").touch()
    assert run(["write", "-d", "bad", "-f", "empty.lp"]) == 0
    assert "0 lines written to 'bad': there was no line to write" in capsys.readouterr().out


def test_a_checkpoint_belongs_to_its_target(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.gz").write_bytes(gzip.compress(MANY, 1)[:-100_000])
    assert run(["write", "-d", "one", "-f", "a.gz", "--resume", "c"]) == 1
    assert run(["write", "-d", "two", "-f", "a.gz", "--resume", "c"]) == 1
    assert "is about the database 'one', not 'two'" in capsys.readouterr().err
    assert run(["write", "-d", "two", "-f", "a.gz", "--no-resume"]) == 1
    assert "the same command goes on" not in capsys.readouterr().err


def test_lines_without_timestamps_are_warned_of(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.lp").write_bytes(b"log v=1\n" * 200_000)
    assert run(["write", "-d", "untimed", "-f", "a.lp"]) == 0
    assert "Warning: a.lp has lines without timestamps" in capsys.readouterr().err
    assert run(["write", "-d", "untimed", "log v=1"]) == 0
    assert capsys.readouterr().err == ""


# ---- what is seen


def test_a_terminal_shows_a_bar_without_colours_on_wish(server: Server, tmp_path: Path) -> None:
    shown = {}
    for name, more in (("plain", {"NO_COLOR": "1"}), ("coloured", {})):
        ours, theirs = pty.openpty()
        environment = {**server.environment, "TERM": "xterm-256color", "COLUMNS": "100", **more}
        if not more:
            environment.pop("NO_COLOR", None)
        command = [*WALMILL, "write", "-d", "seen", "--no-resume"]
        writer = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
        )
        os.close(theirs)
        writer.communicate(MANY, DEADLINE)
        text = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 65536):
                text += part
        os.close(ours)
        assert writer.returncode == 0
        shown[name] = text.decode()
    assert re.search(r"[\d,]+ lines.*[\d,]+ lines/s", shown["plain"], re.DOTALL)
    coloured = re.compile(r"\x1b\[[0-9;]*(3[0-8]|9[0-7])[0-9;]*m")
    assert not coloured.search(shown["plain"])
    assert coloured.search(shown["coloured"])


def test_retry_after_is_waited_for(here: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen.append(time.monotonic())
            body = json.dumps({"error": "the log is full"}).encode() if len(seen) == 1 else b""
            self.send_response(503 if body else 204)
            self.send_header("retry-after", "1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            token = read_token_file(server.home / "data")
            url = f"http://127.0.0.1:{proxy.server_port}"
            assert run(["write", "-d", "busy", "-H", url, "--token", token, "log v=1 1"]) == 0
            assert (
                "the log is full (it says: try again after 1 s); trying again for up to 5m" in capsys.readouterr().err
            )
            seen.clear()
            assert run(["write", "-d", "busy", "-H", url, "--retry-for", "900ms", "log v=1 1"]) == 1
        finally:
            proxy.shutdown()
            thread.join()
    assert len(seen) == 1
