"""A TCP proxy that breaks links on demand, at a moment of the test's choosing. Runs on the test's event loop.

It reads enough of HTTP/2 to count gRPC messages, so that a link can be cut right before the n-th one that passes in a
direction; or after any byte, in the middle of one. Plain connections only: it can't look into TLS.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from enum import Enum
from types import TracebackType
from typing import Self

_READ_BYTES = 64 << 10
_PREFACE_BYTES = 24
_FRAME_HEADER_BYTES = 9
_MESSAGE_PREFIX_BYTES = 5
_DATA_FRAME = 0


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class MessageCounter:
    """Finds the first byte of each gRPC message in one direction of an HTTP/2 connection."""

    def __init__(self, direction: Direction) -> None:
        self._skip = _PREFACE_BYTES if direction is Direction.TO_SERVER else 0
        self._header = bytearray()
        self._data_left = 0
        self._stream = 0
        self._prefixes: dict[int, bytearray] = {}
        self._message_left: dict[int, int] = {}

    def starts(self, data: bytes) -> list[int]:
        """Offsets in `data` where the length prefix of a message is complete: the message is about to begin."""
        found = []
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            elif self._data_left:
                step, started = self._read_data(data, position)
                if started:
                    found.append(position + step)
            else:
                step = min(_FRAME_HEADER_BYTES - len(self._header), len(data) - position)
                self._header += data[position : position + step]
                if len(self._header) == _FRAME_HEADER_BYTES:
                    self._begin_frame()
            position += step
        return found

    def _begin_frame(self) -> None:
        length, kind = int.from_bytes(self._header[:3], "big"), self._header[3]
        self._stream = int.from_bytes(self._header[5:], "big") & 0x7FFFFFFF
        self._header.clear()
        if kind == _DATA_FRAME:
            self._data_left = length
        else:
            self._skip = length

    def _read_data(self, data: bytes, position: int) -> tuple[int, bool]:
        available = min(self._data_left, len(data) - position)
        left = self._message_left.get(self._stream, 0)
        if left:
            step = min(left, available)
            self._message_left[self._stream] = left - step
            self._data_left -= step
            return step, False
        prefix = self._prefixes.setdefault(self._stream, bytearray())
        step = min(_MESSAGE_PREFIX_BYTES - len(prefix), available)
        prefix += data[position : position + step]
        self._data_left -= step
        if len(prefix) < _MESSAGE_PREFIX_BYTES:
            return step, False
        self._message_left[self._stream] = int.from_bytes(prefix[1:], "big")
        prefix.clear()
        return step, True


class FaultProxy:
    """Stands between a client and the server at `server` (`HOST:PORT`); an async context manager."""

    def __init__(self, server: str) -> None:
        self.server = server
        """Where new connections go; may be changed while it runs."""
        self.delay_s = 0.0
        """Every piece of bytes waits this long, in both directions."""
        self.piece_bytes = _READ_BYTES
        """Most bytes passed on at once; 1 for byte at a time."""
        self.refuse = False
        """New connections are reset."""
        self.num_connections = 0
        self.num_cuts = 0
        self.num_messages = dict.fromkeys(Direction, 0)
        """gRPC messages that began to pass, over all connections."""
        self.num_bytes = dict.fromkeys(Direction, 0)
        """Passed on, over all connections."""
        self.cut_now = asyncio.Event()
        """Set at each cut; for the test to wait for, and to clear."""
        self._plan: dict[Direction, deque[int]] = {direction: deque() for direction in Direction}
        self._last_byte: dict[Direction, int] = {}
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None

    @property
    def target(self) -> str:
        """Where clients connect."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def num_links(self) -> int:
        """Connections that pass through now."""
        return len(self._links)

    def cut_at(self, direction: Direction, message: int) -> None:
        """Reset the connection that is about to pass the message of this number, counted from 0; several may be set."""
        self._plan[direction].append(message)

    def cut_after(self, direction: Direction, num_bytes: int) -> None:
        """Reset every connection once so many more bytes have passed in that direction, wherever that is."""
        self._last_byte[direction] = self.num_bytes[direction] + num_bytes

    def forget_plans(self) -> None:
        """Cut nothing but when told to."""
        self._last_byte.clear()
        for plan in self._plan.values():
            plan.clear()

    def cut(self) -> None:
        """Reset every connection now."""
        self.num_cuts += 1
        self.cut_now.set()
        for link in list(self._links):
            link.reset()

    def freeze(self) -> None:
        """Let nothing pass on today's connections, without closing them: half-open links. New ones work."""
        for link in self._links:
            link.frozen = True

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        links = list(self._links)
        for link in links:
            link.reset()
        for link in links:
            await link.closed.wait()

    def passes(self, direction: Direction) -> bool:
        """Count a message that begins; False when the link is to be cut before it."""
        number = self.num_messages[direction]
        self.num_messages[direction] += 1
        plan = self._plan[direction]
        if plan and plan[0] <= number:
            plan.popleft()
            return False
        return True

    def room(self, direction: Direction, num_bytes: int) -> int:
        """Count bytes that pass; fewer than `num_bytes` when the link is to be cut after them."""
        if direction in self._last_byte:
            num_bytes = min(num_bytes, self._last_byte[direction] - self.num_bytes[direction])
        self.num_bytes[direction] += num_bytes
        return num_bytes

    def is_over(self, direction: Direction) -> bool:
        """Whether the byte has passed after which the link is to be cut; tells it once."""
        if self._last_byte.get(direction) != self.num_bytes[direction]:
            return False
        del self._last_byte[direction]
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        if self.refuse:
            _reset(writer)
            return
        host, _, port = self.server.rpartition(":")
        try:
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, server_writer)
        self._links.add(link)
        try:
            await link.run(reader, server_reader)
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []
        self.frozen = False
        self.closed = asyncio.Event()

    async def run(self, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        self._tasks = [
            asyncio.ensure_future(self._pass(client, self._server, Direction.TO_SERVER)),
            asyncio.ensure_future(self._pass(server, self._client, Direction.TO_CLIENT)),
        ]
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.closed.set()

    def reset(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in (self._client, self._server):
            _reset(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        counter = MessageCounter(direction)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                for start in counter.starts(data):
                    if not self._proxy.passes(direction):
                        await self._write(writer, data[: max(0, start - _MESSAGE_PREFIX_BYTES)], direction)
                        self._proxy.cut()
                        return
                await self._write(writer, data, direction)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, direction: Direction) -> None:
        step = self._proxy.piece_bytes
        for start in range(0, len(data), step):
            if self.frozen:
                await asyncio.Event().wait()
            if self._proxy.delay_s:
                await asyncio.sleep(self._proxy.delay_s)
            piece = data[start : start + step]
            writer.write(piece[: self._proxy.room(direction, len(piece))])
            await writer.drain()
            if self._proxy.is_over(direction):
                self._proxy.cut()
                raise ConnectionAbortedError


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a router that has lost its state or a killed host's kernel does."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
