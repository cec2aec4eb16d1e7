"""What engine, zygote and workers say to each other: messages on a socket that keeps their bounds, bulk in memory files.

A message is msgpack, at most `MESSAGE_BYTES` long, with file descriptors beside it. What is larger lies in a memory file that
is sealed before it is sent: nobody can change or cut it any more, so it can be mapped by whoever does not trust the sender.
Nothing is ever unpickled.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
import pyarrow as pa

MESSAGE_BYTES = 64 * 1024
"""A message on the socket is at most so long; a longer one travels in a memory file."""
BULK_BYTES = 2**31
"""A memory file from a worker is at most so long."""
_FDS = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_SPACE = socket.CMSG_SPACE(_FDS * array.array("i").itemsize)


class Gone(Exception):
    """The other side is not there any more."""


class Nonsense(Exception):
    """What came is no message: the other side is not to be talked to any further."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets for messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def memory_file(pieces: Iterable[Any], name: str = "walmill") -> int:
    """A sealed memory file that holds pieces, one after the other; the descriptor is the caller's to close.

    Raises:
        MemoryError: If there is no memory for it.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for piece in pieces:
            left = memoryview(piece).cast("B")
            while left:
                left = left[os.write(descriptor, left) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(descriptor)
        raise MemoryError(f"a memory file could not be written: {error.strerror}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def table_file(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """A sealed memory file that holds an Arrow IPC stream, written as the batches come."""
    descriptor = os.memfd_create("walmill-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # written by Arrow itself, without a copy between
        with pa.OSFile(f"/proc/self/fd/{descriptor}", "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(descriptor)
        raise MemoryError(f"a memory file could not be written: {error}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_file(descriptor: int, limit: int = BULK_BYTES) -> pa.Buffer:
    """The bytes of a sealed memory file, mapped; the descriptor is closed.

    Raises:
        Nonsense: If it is no such file, or too large.
    """
    try:
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            size = os.fstat(descriptor).st_size
        except OSError as error:
            raise Nonsense(f"a descriptor is no memory file: {error.strerror}") from None
        if sealed & _SEALS != _SEALS:
            raise Nonsense("a memory file is not sealed")
        if size > limit:
            raise Nonsense(f"a memory file has {size:,} bytes; the limit is {limit:,}")
        return pa.py_buffer(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")
    finally:
        os.close(descriptor)


def pack(message: Any) -> bytes:
    """A message as bytes."""
    packed: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="replace")
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """A message from bytes.

    Raises:
        Nonsense: If it is none.
    """
    try:
        return msgpack.unpackb(data, strict_map_key=False, unicode_errors="replace")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with bytes of a stranger
        raise Nonsense(f"a message cannot be read: {type(error).__name__}") from None


def send(link: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Sends a message; the descriptors stay the caller's.

    Raises:
        Gone: If nobody is there.
        BlockingIOError: If the socket does not block, and is full.
    """
    data = pack(message)
    extra = None
    try:
        if len(data) > MESSAGE_BYTES:
            extra = memory_file([data])
            data, descriptors = b"\xc1", [extra, *descriptors]  # a byte that begins no msgpack
        if descriptors:
            socket.send_fds(link, [data], list(descriptors))
        else:
            link.send(data)
    except BlockingIOError:
        raise
    except OSError as error:
        raise Gone(str(error)) from None
    finally:
        if extra is not None:
            os.close(extra)


class Receiver:
    """Reads messages from a socket.

    Args:
        link: The socket.
        limit: Most bytes of a message that lies in a memory file.
    """

    def __init__(self, link: socket.socket, limit: int = BULK_BYTES) -> None:
        self._link = link
        self._limit = limit
        self._buffer = bytearray(MESSAGE_BYTES + 1)
        self._view = memoryview(self._buffer)

    def receive(self, flags: int = 0) -> tuple[Any, list[int]]:
        """The next message, and the descriptors beside it, which are the caller's.

        Raises:
            Gone: If nobody is there any more.
            Nonsense: If what came is no message.
            BlockingIOError: If there is none, and the socket does not block.
        """
        try:
            size, ancillary, found, _ = self._link.recvmsg_into([self._buffer], _SPACE, flags | _FLAGS)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Gone(str(error)) from None
        descriptors: list[int] = []
        if ancillary:
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    given = array.array("i")
                    given.frombytes(data[: len(data) - len(data) % given.itemsize])
                    descriptors += given
        try:
            if not size:
                raise Gone("the socket is closed")
            if found & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or size > MESSAGE_BYTES:
                raise Nonsense(f"a message is longer than {MESSAGE_BYTES:,} bytes")
            if size == 1 and self._buffer[0] == 0xC1:
                if not descriptors:
                    raise Nonsense("a message is said to lie in a memory file, and there is none")
                return unpack(memoryview(map_file(descriptors.pop(0), self._limit))), descriptors
            return unpack(self._view[:size]), descriptors
        except (Gone, Nonsense):
            close_all(descriptors)
            raise


def close_all(descriptors: Iterable[int]) -> None:
    """Closes descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
