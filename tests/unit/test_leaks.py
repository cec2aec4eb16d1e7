"""The watch over what tests leave behind, seen by an inner run of pytest: breaks if a kind of leak passes, or order fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

CONFTEST = Path(__file__).parents[1] / "conftest.py"

INNER = """
    import asyncio, os, subprocess, sys, threading, time
    import pytest

    kept = []
    end = threading.Event()

    @pytest.fixture(scope="module")
    def of_the_module():
        opened = open(__file__), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        yield
        opened[0].close()
        opened[1].communicate()

    @pytest.fixture
    def forgotten():
        kept.append(open(os.devnull))

    @pytest.fixture
    def closed():
        with open(__file__) as opened:
            yield opened

    async def forever():
        await asyncio.Event().wait()

    def test_file():
        kept.append(open(__file__))

    def test_file_of_a_fixture(forgotten):
        pass

    def test_socketpair_or_pipe():
        kept.append(os.pipe())

    def test_thread():
        threading.Thread(target=end.wait, name="forgotten-thread").start()

    def test_engine_thread():
        threading.Thread(target=end.wait, name="walmill-forgotten", daemon=True).start()

    def test_task():
        loop = asyncio.new_event_loop()
        kept.append(loop.create_task(forever(), name="forgotten-task"))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def test_child():
        kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # forgotten-child"]))

    def test_child_that_nobody_waited_for():
        process = os.posix_spawn("/bin/true", ["true"], {})
        kept.append(process)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    def test_fine_what_is_closed_or_of_the_module(of_the_module, closed):
        asyncio.run(asyncio.sleep(0))
        subprocess.run([sys.executable, "-c", ""], check=True)

    @pytest.mark.may_leave("file", reason="it is a library's")
    def test_fine_what_is_marked():
        kept.append(open(__file__))

    @pytest.mark.may_leave("file", reason="it is a library's")
    def test_marked_for_another_kind():
        threading.Thread(target=end.wait, name="of-another-kind").start()

    def test_fine_what_ends_soon(of_the_module):
        threading.Thread(target=time.sleep, args=(0.2,)).start()

    def test_fine_what_only_waits_for_the_collector():
        one = [open(__file__)]
        one.append(one)

    def test_the_end():
        end.set()
        [child] = [one for one in kept if isinstance(one, subprocess.Popen)]
        child.kill()
        child.wait()
"""

FOUND = {
    "test_file": r"an open file, \S+/test_inner\.py",
    "test_file_of_a_fixture": r"an open file, /dev/null",
    "test_socketpair_or_pipe": r"an open file, pipe:\[\d+\]; an open file, pipe:\[\d+\]",
    "test_thread": r"the thread 'forgotten-thread'",
    "test_engine_thread": r"the thread 'walmill-forgotten'",
    "test_task": r"the task 'forgotten-task' of <coroutine object forever at \w+>",
    "test_child": r"the child process \S+ -c .*# forgotten-child",
    "test_child_that_nobody_waited_for": r"the child process true, which has ended and was not waited for",
    "test_marked_for_another_kind": r"the thread 'of-another-kind'",
}


def test_each_kind_of_leak_fails_its_test_and_no_other(tmp_path: Path) -> None:
    # A shorter wait, since each of these leaks is meant.
    text = CONFTEST.read_text()
    assert "SETTLE = 2.0" in text
    (tmp_path / "conftest.py").write_text(text.replace("SETTLE = 2.0", "SETTLE = 0.4"))
    (tmp_path / "test_inner.py").write_text(dedent(INNER))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = may_leave\n")
    options = ["-q", "-rA", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_inner.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    failed = dict(re.findall(r"^ERROR test_inner\.py::(\w+) - Failed: (.*)$", done.stdout, re.MULTILINE))
    assert set(failed) == set(FOUND), done.stdout
    for name, sentence in FOUND.items():
        full = re.search(rf"ERROR at teardown of {name} .*\n(.*(?:\n[^_=].*)*)", done.stdout)
        assert full, done.stdout
        assert re.fullmatch(f"the test left behind: {sentence}", full[1].strip()), (name, full[1])
