"""Plugins that read the bodies of requests while they come; the same in a thread and on a loop."""

from __future__ import annotations

import hashlib
from typing import Any

from walmill_hookspecs import HTTPError, hookimpl


class Reader:
    @hookimpl
    def on_request(self, request: Any, body: Any, ctx: Any) -> Any:
        do = request.query_params.get("do", "count")
        if do == "count":
            digest, size = hashlib.sha256(), 0
            while piece := body.read1(1 << 20):
                digest.update(piece)
                size += len(piece)
            ctx.write(f"seen size={size}i")
            return {"size": size, "digest": digest.hexdigest(), "whole": len(request.body), "more": len(body.read())}
        if do == "echo":
            return self.echo(body)
        if do == "half":
            return body.read(5)
        if do == "refuse":
            raise HTTPError(413, "too much for me")
        if do == "lines":
            return {"lines": [line.decode().rstrip() for line in body]}
        if do == "count-up":
            first = body.read(5)
            ctx.cache.put("n", ctx.cache.get("n", 0) + 1)
            return first + body.read()
        raise ValueError(do)

    def echo(self, body: Any) -> Any:
        yield b"<"
        while piece := body.read1(1 << 16):
            yield piece.upper()
        yield b">"


class AsyncReader:
    @hookimpl
    async def on_request(self, request: Any, body: Any, ctx: Any) -> Any:
        do = request.query_params.get("do", "count")
        if do == "count":
            digest, size = hashlib.sha256(), 0
            async for piece in body:
                digest.update(piece)
                size += len(piece)
            ctx.write(f"seen size={size}i")
            return {
                "size": size,
                "digest": digest.hexdigest(),
                "whole": len(request.body),
                "more": len(await body.read()),
            }
        if do == "echo":
            return self.echo(body)
        if do == "half":
            return await body.read(5)
        if do == "refuse":
            raise HTTPError(413, "too much for me")
        if do == "lines":
            return {"lines": (await body.read()).decode().splitlines()}
        if do == "count-up":
            first = await body.read(5)
            ctx.cache.put("n", ctx.cache.get("n", 0) + 1)
            return first + await body.read()
        raise ValueError(do)

    async def echo(self, body: Any) -> Any:
        yield b"<"
        async for piece in body:
            yield piece.upper()
        yield b">"
