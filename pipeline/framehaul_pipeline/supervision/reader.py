"""A film's reader process, as the server sees it. Runs on the server's event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from framehaul_pipeline.errors import PipelineError
from framehaul_pipeline.highlight.messages import (
    MAX_MESSAGE_BYTES,
    FromReader,
    ReaderSetup,
    ToReader,
    decode_from_reader,
    encode,
)

_MODULE: Final = "framehaul_pipeline.highlight.reader"


class ReaderLost(PipelineError):
    """A reader process ended by itself, or by one of its limits."""


class ReaderProcess:
    """A process that reads one film, from its start until `close`."""

    def __init__(self, setup: ReaderSetup) -> None:
        """Spawn; of `setup`'s descriptors, all but the connection's are the caller's."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            setup = msgspec.structs.replace(setup, connection_fd=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, msgspec.json.encode(setup).decode()],
                pass_fds=(theirs.fileno(), setup.ring_fd, setup.film_fd, setup.pictures_fd),
                stdin=subprocess.DEVNULL,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._slot: tuple[int, Callable[[], None]] | None = None
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def send(self, message: ToReader) -> None:
        """Tell it something.

        Raises:
            ReaderLost: it is gone.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, encode(message))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ReaderLost("the film's reader ended") from error

    async def receive(self) -> FromReader:
        """Its next message.

        Cancellation: nothing is lost but the reader's use: it must be closed.

        Raises:
            ReaderLost: it is gone.
        """
        try:
            raw = await asyncio.get_running_loop().sock_recv(self._socket, MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            raw = b""
        if not raw:
            raise ReaderLost("the film's reader ended")
        message: FromReader = decode_from_reader(raw)
        return message

    def lend(self, slot: int, give_back: Callable[[], None]) -> None:
        """Note a slot that it may write into; when its process is truly gone, `give_back` is called, be that now."""
        if self._pidfd < 0:
            give_back()  # it died while it waited for the slot
        else:
            self._slot = slot, give_back

    def take_back(self) -> int:
        """The slot that it has filled.

        Raises:
            ReaderLost: it has none, so it is out of its mind.
        """
        if self._slot is None:
            raise ReaderLost("the film's reader filled a slot that it doesn't have")
        slot, self._slot = self._slot[0], None
        return slot

    def close(self) -> None:
        """Kill it; its slot is free once it is truly gone. Twice is fine."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._socket.close()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._process.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        if self._slot is not None:
            self._slot[1]()
            self._slot = None
