"""Typed messages over a socketpair: a blocking end for the worker's threads, a non-blocking one for the server's loop.

SOCK_SEQPACKET keeps message boundaries, shows end-of-file when the peer dies, and carries file descriptors.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from framehaul_pipeline.link.messages import (
    MAX_MESSAGE_BYTES,
    Alive,
    Configure,
    Probe,
    ToServer,
    ToWorker,
    decode_to_server,
    decode_to_worker,
    encode,
)

_PROBE: Final = encode(Probe())


class WorkerChannel:
    """The worker's end. Any thread may send: a datagram is written whole. One thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        """Own `connection`, which must block."""
        self._connection = connection

    def send(self, message: ToServer) -> None:
        """Send; a server that is gone is noticed by `receive`, so its loss is silent here."""
        try:
            self._connection.send(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> ToWorker | None:
        """Wait for a message; None at end-of-file.

        Raises:
            msgspec.DecodeError: the bytes are no message.
        """
        try:
            raw = self._connection.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        return decode_to_worker(raw) if raw else None

    def receive_configure(self) -> tuple[Configure, list[int]] | None:
        """Wait for `Configure` and the descriptors that come with it, and answer `Probe`; None at end-of-file.

        Raises:
            ValueError: the message is neither.
        """
        raw, ancillary, _, _ = self._connection.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * 8))
        while raw == _PROBE:
            self.send(Alive(oldest=None))
            raw, ancillary, _, _ = self._connection.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * 8))
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if not raw:
            return None
        message = decode_to_worker(raw)
        if not isinstance(message, Configure):
            raise ValueError(f"first message is {type(message).__name__}: must be Configure")
        return message, list(fds)

    def close(self) -> None:
        """Close; twice is fine."""
        self._connection.close()


class ServerChannel:
    """The server's end, on the event loop. What the socket can't take now waits in order."""

    def __init__(
        self, connection: socket.socket, *, on_message: Callable[[ToServer], None], on_eof: Callable[[], None]
    ) -> None:
        """Own `connection`; call `on_message` for each message and `on_eof` once when the worker is gone."""
        connection.setblocking(False)
        self._connection = connection
        self._on_message = on_message
        self._on_eof = on_eof
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[bytes] = deque()
        self._open = True
        self._loop.add_reader(connection.fileno(), self._read)

    def send(self, message: ToWorker) -> None:
        """Send, or queue behind what is queued; silent when the worker is gone."""
        if not self._open:
            return
        self._unsent.append(encode(message))
        if len(self._unsent) == 1:
            self._write()

    def send_configure(self, message: Configure, fds: Sequence[int]) -> None:
        """Send the first message with descriptors; the socket is empty then, so it goes at once.

        A worker that is gone is noticed by its end-of-file, so its loss is silent here.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendmsg([encode(message)], rights)

    def close(self) -> None:
        """Stop reading and close; twice is fine."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()

    def _read(self) -> None:
        while self._open:
            try:
                raw = self._connection.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it died with messages unread; what it sent itself comes after the error
            if not raw:
                self.close()
                self._on_eof()
                return
            self._on_message(decode_to_server(raw))

    def _write(self) -> None:
        while self._unsent:
            try:
                self._connection.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._connection.fileno(), self._write)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()
                break
            self._unsent.popleft()
        self._loop.remove_writer(self._connection.fileno())
