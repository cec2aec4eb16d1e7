"""A plugin for tests of worker processes: does what its settings say, good and bad."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pyarrow.compute as pc

from walmill_hookspecs import (
    DisableTrigger,
    HTTPError,
    Response,
    RetryLater,
    Secret,
    SkipBatch,
    hookimpl,
    setting,
    settings,
)


@settings
class Asked:
    """What to do."""

    do: str = setting("What to do.", default="copy")
    amount: int = setting("How much of it.", default=0)
    text: str = setting("A text.", default="")
    key: Secret = setting("A secret.", default="none")
    keys: list[Secret] = setting("Secrets.", default=())


class Trouble:
    """Does what it is told."""

    def __init__(self) -> None:
        self.batches = 0
        self.kept: list[Any] = []

    @hookimpl
    def register_settings(self) -> type:
        return Asked

    @hookimpl
    def on_startup(self, ctx: Any) -> None:
        ctx.cache.incr("startups")
        ctx.cache.put("pid", os.getpid())

    @hookimpl
    def on_shutdown(self, ctx: Any) -> None:
        ctx.cache.incr("shutdowns")

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> Any:
        self.batches += 1
        return getattr(self, f"do_{ctx.settings.do}")(batch, ctx)

    @hookimpl
    def on_schedule(self, tick: Any, ctx: Any) -> Any:
        return getattr(self, f"do_{ctx.settings.do}")(tick, ctx)

    @hookimpl
    def on_request(self, request: Any, ctx: Any) -> Any:
        return getattr(self, f"do_{ctx.settings.do}")(request, ctx)

    # ---- good things

    def do_copy(self, batch: Any, ctx: Any) -> None:
        for table in batch.tables.values():
            rows = [
                {"host": row.get("host"), "v": row["v"], "time": row["time"], "first": batch.first_sequence}
                for row in table.rows()
            ]
            ctx.write(rows, table="copy", tags=["host"])
        ctx.cache.incr("rows", batch.num_rows)
        ctx.cache.incr("runs")

    def do_where(self, batch: Any, ctx: Any) -> None:
        """Where the buffers of the batch lie: inside a mapped segment of the log?"""
        maps = []
        with open("/proc/self/maps") as file:
            for line in file:
                if line.rstrip().endswith((".seg", ".seg (deleted)")):
                    begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                    maps.append((begin, end))
        inside = outside = 0
        for table in batch.tables.values():
            for column in table.data.columns:
                for chunk in column.chunks:
                    for buffer in chunk.buffers():
                        if buffer is not None and buffer.size:
                            if any(begin <= buffer.address < end for begin, end in maps):
                                inside += 1
                            else:
                                outside += 1
        ctx.cache.put("inside", inside)
        ctx.cache.put("outside", outside)
        ctx.cache.put("sum", sum(pc.sum(table.data.column("v")).as_py() for table in batch.tables.values()))

    def do_context(self, batch: Any, ctx: Any) -> None:
        """Uses everything of the context."""
        found = ctx.query("SELECT count(*) AS n FROM cpu WHERE v >= $least", {"least": 0.0})
        ctx.cache.put("count", found.column("n")[0].as_py())
        rows = 0
        for part in ctx.stream("SELECT * FROM cpu"):
            rows += part.num_rows
        ctx.cache.put("streamed", rows)
        ctx.cache.put("table", found)
        ctx.cache.shared.put("shared", (1, {"a": {2}}))
        ctx.cache.put("gone", 1, ttl=1e6)
        assert ctx.cache.delete("gone") is True
        assert ctx.cache.get("gone", "no") == "no"
        assert ctx.cache.incr("big", 2**70) >= 2**70
        ctx.cache.put("keys", ctx.cache.keys())
        ctx.write("lp,host=a v=1 1")
        ctx.write(found, table="arrow", tags=[])
        sequence = ctx.write_now("now v=1i 1")
        assert sequence > batch.last_sequence
        ctx.log.info("said %s", "by log")
        print("printed")
        logging.getLogger("mine").warning("logged")
        subprocess.run(["sh", "-c", "echo from a child"], check=True)
        ctx.on_commit(lambda: ctx.log.info("called back"))
        try:
            ctx.query("SELECT * FROM nosuch")
        except Exception as error:
            ctx.cache.put("query error", [type(error).__name__, str(error)])
        for bad in ("cpu v=", 5, [{"v": object()}], [{"v": float("inf")}]):
            try:
                ctx.write(
                    bad,
                    table=None if isinstance(bad, str | int) else "bad",
                    tags=None if isinstance(bad, str | int) else [],
                )
            except Exception as error:
                ctx.cache.put(
                    f"write error {type(bad).__name__}{len(str(bad)) > 8}", [type(error).__name__, str(error)]
                )

    def do_secrets(self, batch: Any, ctx: Any) -> None:
        ctx.cache.put("secrets", [ctx.settings.key.reveal(), *(one.reveal() for one in ctx.settings.keys)])
        ctx.cache.put("told", str(ctx.trigger.arguments))

    def do_tools(self, batch: Any, ctx: Any) -> None:
        done = subprocess.run(
            "printf 'a\\nb\\n' | gzip -c | gunzip -c | wc -l", shell=True, capture_output=True, check=True
        )
        ctx.cache.put("lines", int(done.stdout))
        git = subprocess.run(["git", "init", "-q", "repository"], capture_output=True, text=True, check=False)
        ctx.cache.put("git", [git.returncode, git.stderr])
        ctx.cache.put("directory", os.getcwd())
        ctx.cache.put("environment", sorted(os.environ))

    def do_checkpoint(self, batch: Any, ctx: Any) -> None:
        ctx.write([{"v": 1.0, "time": 1}], table="before", tags=[])
        ctx.checkpoint()
        ctx.write([{"v": 1.0, "time": 1}], table="after", tags=[])

    def do_keep(self, batch: Any, ctx: Any) -> None:
        """Keeps each batch, and looks whether all that it has kept is still as it was."""
        self.kept.append((batch, list(batch.tables["cpu"].rows())))
        same = all(list(kept.tables["cpu"].rows()) == rows for kept, rows in self.kept)
        ctx.cache.put("same", [len(self.kept), same])

    def do_touch(self, batch: Any, ctx: Any) -> None:
        """Reads every byte that it is given, and keeps hold of all of it."""
        self.kept.append(batch)
        for table in batch.tables.values():
            for column in table.data.columns:
                for chunk in column.chunks:
                    ctx.cache.incr(
                        "bytes", sum(len(bytes(memoryview(one))) for one in chunk.buffers() if one is not None)
                    )

    # ---- what a hook may say

    def do_skip(self, event: Any, ctx: Any) -> None:
        raise SkipBatch("not this one")

    def do_later(self, event: Any, ctx: Any) -> None:
        if ctx.run.attempt == 1:
            raise RetryLater("not yet", after=0.01)
        ctx.cache.put("attempt", ctx.run.attempt)

    def do_disable(self, event: Any, ctx: Any) -> None:
        raise DisableTrigger("enough")

    def do_raise(self, event: Any, ctx: Any) -> None:
        raise KeyError(ctx.settings.text or "wrong")

    def do_exit(self, event: Any, ctx: Any) -> None:
        sys.exit(3)

    # ---- bad things

    def do_loop(self, event: Any, ctx: Any) -> None:
        while True:
            pass

    def do_deaf(self, event: Any, ctx: Any) -> None:
        """Ignores what can be ignored, and blocks in C."""
        for number in range(1, signal.NSIG):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        ctypes.CDLL(None).sleep(1000)

    def do_sleep(self, event: Any, ctx: Any) -> None:
        time.sleep(ctx.settings.amount or 1000)

    def do_allocate(self, event: Any, ctx: Any) -> None:
        while True:
            self.kept.append(bytearray(8 << 20))

    def do_fill_files(self, event: Any, ctx: Any) -> None:
        """Fills a memory file without ever having it mapped."""
        self.kept.append(descriptor := os.memfd_create("large"))
        for _ in range(100):
            os.write(descriptor, bytes(8 << 20))
            time.sleep(0.01)

    def do_allocate_in_children(self, event: Any, ctx: Any) -> None:
        code = "import time; a = [bytearray(1 << 20) for _ in range(150)]; time.sleep(1000)"
        children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
        for child in children:
            child.wait()

    def do_segfault(self, event: Any, ctx: Any) -> None:
        ctypes.string_at(0)

    def do_overflow(self, event: Any, ctx: Any) -> None:
        sys.setrecursionlimit(10**9)
        a: list[Any] = []
        for _ in range(10**6):
            a = [a]
        repr(a)
        hash_me: Any = ()
        for _ in range(10**6):
            hash_me = (hash_me,)
        hash(hash_me)

    def do_os_exit(self, event: Any, ctx: Any) -> None:
        os._exit(9)

    def do_fork(self, event: Any, ctx: Any) -> None:
        """Starts children that outlive it, one of them in a session of its own."""
        one = subprocess.Popen(["sleep", "1000"])
        two = subprocess.Popen(["sh", "-c", "setsid sleep 1001 & setsid sleep 1002 &"])
        two.wait()
        ctx.cache.put("child", one.pid)
        ctx.log.info("started")
        if ctx.settings.amount:
            os._exit(1)

    def do_close_sockets(self, event: Any, ctx: Any) -> None:
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.close(int(name))
            except OSError:
                pass
        time.sleep(1000)

    def do_shout(self, event: Any, ctx: Any) -> None:
        for number in range(ctx.settings.amount):
            print("line", number)

    def do_change(self, event: Any, ctx: Any) -> None:
        os.chdir("/")
        os.environ.clear()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        import locale

        locale.setlocale(locale.LC_ALL, "C")
        ctx.cache.incr("changed")

    def do_threads(self, event: Any, ctx: Any) -> None:
        for _ in range(4):
            threading.Thread(target=time.sleep, args=(1000,)).start()
        ctx.cache.incr("threads")

    def do_garbage(self, event: Any, ctx: Any) -> None:
        _engine(ctx).send(b"\xff\x00 this is no message" * 10)
        time.sleep(1000)

    def do_endless(self, event: Any, ctx: Any) -> None:
        link = _engine(ctx)
        data = b"\xdb\xff\xff\xff\xff" + b"x" * 150_000
        while True:
            link.send(data)

    def do_pickle(self, event: Any, ctx: Any) -> None:
        import pickle

        class Bomb:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {ctx.settings.text}",)

        _engine(ctx).send(pickle.dumps(Bomb()))
        time.sleep(1000)

    def do_lie(self, event: Any, ctx: Any) -> None:
        """Says that it is done, in a wrong form."""
        import msgpack

        _engine(ctx).send(msgpack.packb({"op": "done", "started": "x", "ended": [], "error": 5}))
        time.sleep(1000)

    def do_cut(self, event: Any, ctx: Any) -> None:
        """Gives a memory file that can still be cut."""
        import msgpack

        descriptor = os.memfd_create("cut")
        os.write(descriptor, b"x" * 100_000)
        message = msgpack.packb({"op": "ask", "n": 1, "what": "write", "table": "t", "tags": None, "database": None})
        socket.send_fds(_engine(ctx), [message], [descriptor])
        time.sleep(1000)

    def do_wrong_arrow(self, event: Any, ctx: Any) -> None:
        """Gives Arrow data whose offsets point anywhere."""
        import struct

        import pyarrow as pa

        from walmill_worker.wire import memory_file

        sink = pa.BufferOutputStream()
        table = pa.table({"s": ["abc"], "time": pa.array([1], pa.timestamp("ns"))})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        place = data.rindex(struct.pack("<ii", 0, 3))  # the offsets of the one text
        wrong = memory_file([data[:place], struct.pack("<ii", 0, 2**30), data[place + 8 :]])
        ctx._run.engine.ask("write", {"table": "bad", "tags": [], "database": None}, [wrong])

    def do_burn(self, event: Any, ctx: Any) -> None:
        until = time.monotonic() + ctx.settings.amount
        while time.monotonic() < until:
            pass

    # ---- answers

    def do_answer(self, request: Any, ctx: Any) -> Any:
        kind = request.query_params.get("kind", "echo")
        match kind:
            case "echo":
                return {
                    "method": request.method,
                    "path": request.path,
                    "params": {name: str(value) for name, value in request.path_params.items()},
                    "query": request.query_params.getlist("a"),
                    "header": request.headers.get("x-mine"),
                    "body": request.text(),
                    "pid": os.getpid(),
                }
            case "binary":
                return Response(request.body[::-1], 201, {"X-Size": str(len(request.body))})
            case "large":
                return b"x" * int(request.query_params["size"])
            case "stream":
                return (f"piece {number}\n" for number in range(1000))
            case "broken stream":
                return self._broken()
            case "error":
                raise HTTPError(418, "a teapot", {"X-Pot": "yes"})
            case "fail":
                raise ValueError("secret detail")
            case "tuple":
                return 1, 2, 3, 4
            case "write":
                ctx.write("asked v=1i")
                ctx.cache.incr("asked")
                return "written"
            case "exit":
                os._exit(1)
            case "sleep":
                time.sleep(float(request.query_params["seconds"]))
                return "slept"
        return None

    def _broken(self) -> Any:
        yield "one"
        raise ValueError("in the middle")


def _engine(ctx: Any) -> socket.socket:
    """The socket to the engine, which no plugin should touch."""
    found: socket.socket = ctx._run.engine._link
    return found


class Asynchronous:
    """The same with coroutines."""

    def __init__(self) -> None:
        self.ticks = 0
        self.task: Any = None

    @hookimpl
    def register_settings(self) -> type:
        return Asked

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.ticks += 1

    @hookimpl
    async def on_write(self, batch: Any, ctx: Any) -> None:
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._tick())
        if ctx.settings.do == "forever":
            ctx.log.info("begun")
            await asyncio.sleep(1000)
        one, two = await asyncio.gather(ctx.query("SELECT count(*) AS n FROM cpu"), ctx.query("SELECT 2 AS n"))
        ctx.cache.put("counts", [one.column("n")[0].as_py(), two.column("n")[0].as_py()])
        rows = 0
        async for part in ctx.stream("SELECT * FROM cpu"):
            rows += part.num_rows
        ctx.cache.put("streamed", rows)
        ctx.write("lp,host=a v=1 1")
        await ctx.write_now("now v=1i 1")
        await ctx.checkpoint()
        ctx.write("after v=1i 1")
        ctx.cache.put("ticks", self.ticks)
        ctx.cache.incr("runs")

    @hookimpl
    async def on_request(self, request: Any, ctx: Any) -> Any:
        async def pieces() -> Any:
            for number in range(100):
                await asyncio.sleep(0)
                yield f"piece {number}\n"

        return pieces()


class Slow(Trouble):
    """Takes a while to be made."""

    def __init__(self) -> None:
        time.sleep(0.2)
        super().__init__()

    @hookimpl
    def on_shutdown(self, ctx: Any) -> None:
        """Takes longer than to make another one."""
        time.sleep(1.0)


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        os._exit(5)

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        """Never called."""
