"""The Python API: one `FrameClient` for each connection to a frame server."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc.aio
import numpy as np

from framehaul.allocator import tune_allocator as tune_process_allocator
from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.frames_pb2_grpc import FrameServiceStub
from framehaul_client.access import Access
from framehaul_client.core.info import Location, ServerInfo, read_info
from framehaul_client.core.session_config import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TARGET,
    SessionConfig,
)
from framehaul_client.session import Session
from framehaul_client.source.iterators import Latents
from framehaul_client.transport.connection import DEFAULT_LOOKAHEAD_BYTES, connect
from framehaul_client.transport.status import call_error

if TYPE_CHECKING:
    from framehaul.v1.frames_pb2_grpc import FrameServiceAsyncStub  # the stubs' own name for it

_CALL_TIMEOUT_S: Final = 10.0


class FrameClient:
    """A connection to one frame server, for any number of sessions; an async context manager, on one event loop.

    async with FrameClient("127.0.0.1:50051") as client, client.session(latents) as session:
        async for frame in session:
            ...
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        lookahead_bytes: int = DEFAULT_LOOKAHEAD_BYTES,
        tune_allocator: bool = False,
        access: Access | None = None,
    ) -> None:
        """Prepare a connection; entering it connects.

        Args:
            target: `HOST:PORT` or `unix:PATH` of the server.
            connect_timeout_s: how long to wait for it to answer.
            lookahead_bytes: what the connection buffers for a session; a long link carries this much each round trip.
            tune_allocator: keep large freed blocks in this process, which doubles the throughput. It changes the whole
                process (its memory stays at its high-water mark), so it is off unless asked for.
            access: TLS, certificates and token; `Access.from_environment(os.environ)` takes them from there. None:
                neither.

        Raises:
            InvalidOption: the token would cross a network in the clear.
        """
        self._target = target
        self._connect_timeout_s = connect_timeout_s
        self._lookahead_bytes = lookahead_bytes
        self._tune_allocator = tune_allocator
        self._channel: grpc.aio.Channel | None = None
        self._access = access or Access()
        self._metadata = self._access.metadata(target)
        self._sessions: set[Session] = set()  # open ones

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            InvalidOption: a certificate or key can't be read.
            ServerUnavailable: no server answered in time; the text says why, as far as that is known.

        Cancellation: gives up connecting.
        """
        if self._channel is not None:
            raise RuntimeError("this client is connected already")
        if self._tune_allocator:
            tune_process_allocator()
        self._channel = await connect(self._target, self._connect_timeout_s, self._lookahead_bytes, self._access)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection; see `aclose`."""
        await self.aclose()

    def __del__(self) -> None:
        """Warn when the connection was left open."""
        if self._channel is not None:
            warnings.warn(f"client of {self._target} was never closed: use `async with`", ResourceWarning, stacklevel=2)

    def session(
        self,
        latents: Latents,
        *,
        model: str = "",
        pixel_format: PixelFormat | str = PixelFormat.RGB24,
        dtype: LatentDtype | str | None = None,
        num_latents: int | None = None,
        normalized: bool = False,
        priority: int = 0,
        window_frames: int | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
        on_queued: Callable[[int], None] | None = None,
    ) -> Session:
        """Make a session, an async context manager.

        Args:
            latents: an iterable of arrays, `[C, h, w]` or `[T, C, h, w]`, float16 or float32; or one such array of
                rank 4. An async iterable runs on this event loop, a plain one on a thread of its own. It is advanced
                when the server has room for more, and closed with the session if it is a generator.
            model: the decoder's name; empty for the server's default.
            pixel_format: `rgb24`, `yuv420p`, `yuv420p10le` or `gbrpf16le`; see `PixelFormat` for the arrays.
            dtype: `bfloat16` for bit patterns held as uint16; else taken from the first array.
            num_latents: take exactly so many; some decoders must know it. Known anyway when `latents` is an array.
            normalized: the latents have zero mean and unit variance, and the server must undo that.
            priority: -100..100, higher is served first.
            window_frames: frames that may wait here, within the server's limits; about 64 MiB of them if not given.
            max_message_bytes: largest message that the server may send.
            retry_for_s: how long to try to take the session up again when the connection or the server is lost, as
                long as nothing comes; 0 to fail at once. What an iterator yielded is kept until frames that need it
                have come: for some decoders, that is the whole clip. Time in a server's queue doesn't count.
            on_queued: called on this event loop with each position in the queue of a server that has no place for the
                session yet, 1 is next. To wait no longer, cancel the task that enters the session.

        Raises:
            ValueError: an argument is out of its range.
        """
        if self._channel is None:
            raise RuntimeError("the client is not connected: use it inside `async with`")
        if num_latents is None and isinstance(latents, np.ndarray) and len(latents):
            num_latents = len(latents)
        config = SessionConfig(
            model=model,
            pixel_format=PixelFormat(pixel_format),
            dtype=None if dtype is None else LatentDtype(dtype),
            num_latents=num_latents,
            normalized=normalized,
            priority=priority,
            window_frames=window_frames,
            max_message_bytes=max_message_bytes,
            retry_for_s=retry_for_s,
        )
        session = Session(
            self._channel, self._target, latents, config, self._sessions.discard, self._metadata, on_queued
        )
        self._sessions.add(session)
        return session

    async def info(self) -> ServerInfo:
        """Ask what the server offers and how busy it is.

        Raises:
            FramehaulError: the server can't be reached or doesn't answer.

        Cancellation: cancels the call.
        """
        request = pb.GetServerInfoRequest()
        try:
            return read_info(await self._stub.GetServerInfo(request, timeout=_CALL_TIMEOUT_S, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._target) from error

    async def locate(self, model: str = "") -> Location:
        """Ask where a new session for `model` should go.

        Raises:
            FramehaulError: the server can't be reached or doesn't answer.

        Cancellation: cancels the call.
        """
        request = pb.LocateRequest(model=model)
        try:
            found = await self._stub.Locate(request, timeout=_CALL_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._target) from error
        return Location(target=found.target, epoch=found.epoch, lease_s=found.lease_ms / 1000)

    async def aclose(self) -> None:
        """Close the connection; a session that is still open is cancelled, with a `ResourceWarning`.

        Cancellation: the connection is closed all the same.
        """
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            for session in list(self._sessions):
                if session.is_open:
                    warnings.warn("a session was left open: use `async with`", ResourceWarning, stacklevel=2)
                await session.aclose()
        finally:
            await channel.close()

    @property
    def _stub(self) -> FrameServiceAsyncStub:
        if self._channel is None:
            raise RuntimeError("the client is not connected: use it inside `async with`")
        return FrameServiceStub(self._channel)
