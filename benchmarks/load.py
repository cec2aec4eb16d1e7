"""A load generator for HTTP writes on loopback: one thread, no parsing, little of its own to measure."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple


class Load(NamedTuple):
    """What a run measured.

    Attributes:
        seconds: From the first byte to the last answer.
        waits: ns from sending to answer, for each request.
        statuses: How often each status came.
        probes: ns that `/health` took, every 20 ms.
    """

    seconds: float
    waits: list[int]
    statuses: dict[int, int]
    probes: list[int]


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.out = memoryview(b"")
        self.answer = b""
        self.started = 0
        self.busy = False

    def start(self, request: bytes) -> None:
        self.out, self.answer, self.busy = memoryview(request), b"", True
        self.started = time.perf_counter_ns()
        self.send()

    def send(self) -> None:
        while self.out:
            try:
                self.out = self.out[self.socket.send(self.out) :]
            except BlockingIOError:
                return

    def receive(self) -> int | None:
        """The status when an answer is whole."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"the server closed a connection: {self.answer[:200]!r}")
        self.answer += piece
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.answer[:end].lower()
        size = 0
        place = head.find(b"content-length:")
        if place >= 0:
            size = int(head[place + 15 :].split(b"\r\n", 1)[0])
        if len(self.answer) < end + 4 + size:
            return None
        self.busy = False
        return int(self.answer[9:12])


def request(path: str, body: bytes, *, content_type: str = "text/plain") -> bytes:
    """A whole POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def run(port: int, requests: Sequence[bytes], connections: int, *, probe: bool = False) -> Load:
    """Sends all requests, each connection one after the other.

    Args:
        port: Of the server.
        requests: As bytes.
        connections: How many at a time.
        probe: Whether another connection asks `/health` every 20 ms.
    """
    watch = selectors.DefaultSelector()
    senders = [_Connection(port) for _ in range(connections)]
    prober = _Connection(port) if probe else None
    for one in [*senders, *([prober] if prober else [])]:
        watch.register(one.socket, selectors.EVENT_READ, one)
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    waits: list[int] = []
    probes: list[int] = []
    statuses: dict[int, int] = {}
    position = 0
    began = time.perf_counter()
    due = began

    def follow(one: _Connection) -> None:
        watch.modify(one.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if one.out else 0), one)

    for one in senders[: len(requests)]:
        one.start(requests[position])
        position += 1
        follow(one)
    while len(waits) < len(requests):
        if prober is not None and not prober.busy and time.perf_counter() >= due:
            prober.start(health)
            due = time.perf_counter() + 0.02
        for key, mask in watch.select(0.02 if prober is not None else None):
            one = key.data
            if mask & selectors.EVENT_WRITE:
                one.send()
                if not one.out:
                    follow(one)
            if mask & selectors.EVENT_READ:
                status = one.receive()
                if status is None:
                    continue
                taken = time.perf_counter_ns() - one.started
                if one is prober:
                    probes.append(taken)
                    continue
                waits.append(taken)
                statuses[status] = statuses.get(status, 0) + 1
                if position < len(requests):
                    one.start(requests[position])
                    position += 1
                    follow(one)
    seconds = time.perf_counter() - began
    for one in [*senders, *([prober] if prober else [])]:
        one.socket.close()
    watch.close()
    return Load(seconds, waits, statuses, probes)
