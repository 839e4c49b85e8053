"""The Python API: one `FrameClient` for each connection to a frame server."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

import grpc.aio
import numpy as np

from framehaul.allocator import tune_allocator as tune_process_allocator
from framehaul.v1 import frames_pb2 as pb
from framehaul.v1 import highlights_pb2
from framehaul.v1.frames_pb2_grpc import FrameServiceStub
from framehaul_client.access import Access
from framehaul_client.core.highlights import Query
from framehaul_client.core.info import Location, ServerInfo, read_info
from framehaul_client.core.session_config import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_TARGET,
    SessionConfig,
    check_layout,
    check_target,
)
from framehaul_client.highlight.request import METHOD, Highlights
from framehaul_client.session import Session
from framehaul_client.source.arrays import ClipReader, as_array
from framehaul_client.source.iterators import Latents
from framehaul_client.source.latents_file import StoredLatents
from framehaul_client.transport.connection import DEFAULT_LOOKAHEAD_BYTES, connect
from framehaul_client.transport.rpc import MessageRpc
from framehaul_client.transport.servers import CALL_TIMEOUT_S, Servers
from framehaul_client.transport.status import call_error
from framehaul_client.transport.trace import trace_responses

if TYPE_CHECKING:
    from framehaul.v1.frames_pb2_grpc import FrameServiceAsyncStub  # the stubs' own name for it

AnswerT = TypeVar("AnswerT")
KeywordsP = ParamSpec("KeywordsP")


def _keywords_of(
    config: Callable[KeywordsP, SessionConfig], method: Callable[[FrameClient, Latents, SessionConfig], Session]
) -> Callable[Concatenate[FrameClient, Latents, KeywordsP], Session]:
    """Let callers of `method` give the config's fields as keyword arguments, so that each is defined once."""

    def session(
        client: FrameClient, latents: Latents, /, *args: KeywordsP.args, **keywords: KeywordsP.kwargs
    ) -> Session:
        return method(client, latents, config(*args, **keywords))

    session.__doc__ = method.__doc__
    return session


class FrameClient:
    """A connection to a frame server, or a front of several, for any number of sessions; an async context manager.

    async with FrameClient("127.0.0.1:50051") as client, client.session(latents) as session:
        async for frame in session:
            ...

    Sessions at a front go to the servers that it names, and on to others when one is lost.

    A process must not fork while it is open: gRPC's threads crash the child. Start others with multiprocessing's
    "spawn", as data loaders can too.
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
            target: `HOST:PORT` or `unix:PATH` of the server, or of the front of several.
            connect_timeout_s: how long to wait for it to answer.
            lookahead_bytes: what the connection buffers for a session; also the most that crosses a long link in each
                round trip.
            tune_allocator: keep large freed blocks in this process, which doubles the throughput. Off by default, since
                the memory of the whole process then stays at its high-water mark.
            access: TLS, certificates and token; `Access.from_environment(os.environ)` reads them from there. None: no
                TLS, no token.

        Raises:
            InvalidOption: the token would cross a network in the clear.
            ValueError: `target` names no server.
        """
        self._channel: grpc.aio.Channel | None = None
        self._target = check_target(target)
        self._connect_timeout_s = connect_timeout_s
        self._lookahead_bytes = lookahead_bytes
        self._tune_allocator = tune_allocator
        self._access = access or Access()
        self._metadata = self._access.metadata(target)
        self._servers: Servers | None = None
        self._sessions: set[Session] = set()  # open ones

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            InvalidOption: a certificate or key can't be read.
            ServerUnavailable: no server answered in time; the text says why, if that is known.

        Cancellation: gives up connecting.
        """
        if self._channel is not None:
            raise RuntimeError("this client is connected already")
        if self._tune_allocator:
            tune_process_allocator()
        reach = partial(
            connect, timeout_s=self._connect_timeout_s, lookahead_bytes=self._lookahead_bytes, access=self._access
        )
        self._channel = await reach(self._target)
        self._servers = Servers(self._channel, self._target, self._access, partial(reach, fail_fast=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; see `aclose`."""
        await self.aclose()

    def __del__(self) -> None:
        """Warn when the connection was left open."""
        if self._channel is not None:
            warnings.warn(f"client of {self._target} was never closed: use `async with`", ResourceWarning, stacklevel=2)

    def _session(self, latents: Latents, config: SessionConfig) -> Session:
        """Make a session, an async context manager; `SessionConfig` has the keyword arguments.

        Args:
            latents: an open `LatentsFile`; one array, `[T, C, h, w]` or `[1, C, T, h, w]` unless `layout` says
                otherwise, float16 or float32; or an iterable of such arrays, or of single latents `[C, h, w]`. An async
                iterable runs on this event loop, any other on a thread of its own. It is advanced when the server has
                room for more. A generator is closed with the session.
            config: what is asked for.

        Raises:
            InvalidLatents: an array has other axes.
            ValueError: an argument is out of its range.
        """
        self._connected()
        servers = self._servers
        assert servers is not None, "made with the connection"
        latents = as_array(latents)
        if isinstance(latents, np.ndarray):
            latents = ClipReader(check_layout(config.layout)).read(latents)
            config = replace(config, num_latents=config.num_latents or len(latents))
        elif isinstance(latents, StoredLatents):
            if config.layout is not None:
                raise ValueError(
                    f"layout={config.layout}: must be given to {type(latents).__name__}, which reads the file"
                )
            config = replace(
                config,
                num_latents=config.num_latents or latents.num_latents,
                num_frames=config.num_frames or latents.num_frames,
            )
        if config.num_frames is not None and config.num_latents is None:
            raise ValueError(f"num_frames={config.num_frames}: must come with num_latents")
        session = Session(servers, latents, config, self._sessions.discard)
        self._sessions.add(session)
        return session

    session = _keywords_of(SessionConfig, _session)

    def highlight(self, film: str, query: Query) -> Highlights:
        """Look for the best excerpts of `film`; an async context manager, and an iterator of what comes of it.

        Args:
            film: a file here, which is sent to the server; `server:PATH` for one that the server has.
            query: what is looked for.
        """
        start_rpc = partial(
            MessageRpc,
            self._connected(),
            self._target,
            self._metadata,
            METHOD,
            highlights_pb2.HighlightResponse,
        )
        return Highlights(start_rpc, film, query)

    async def info(self) -> ServerInfo:
        """Ask what the server offers and how busy it is.

        Raises:
            FramehaulError: the server can't be reached or doesn't answer.

        Cancellation: cancels the call.
        """
        call = self._stub().GetServerInfo(pb.GetServerInfoRequest(), timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        return read_info(await self._answer(call))

    async def locate(self, model: str = "") -> Location:
        """Ask where a new session for `model` should go.

        Raises:
            FramehaulError: the server can't be reached or doesn't answer.

        Cancellation: cancels the call.
        """
        call = self._stub().Locate(pb.LocateRequest(model=model), timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        found = await self._answer(call)
        return Location(
            target=found.target,
            epoch=found.epoch,
            lease_s=found.lease_ms / 1000,
            alternatives=tuple(found.alternatives),
        )

    def trace(self, seconds: float, *, kernels: bool = False) -> AsyncGenerator[pb.TraceResponse, None]:
        """Listen to what the server does, for 1 to 300 seconds; what comes is as docs/protocol.md, "Traces", says.

        With `kernels` also to which of them its GPU runs, for 10 seconds at most; they come at the end.

        Raises, when it is iterated over:
            Unsupported: the server is older than that.
            FramehaulError: it refuses, can't be reached or ends.

        Cancellation: ends the trace, as closing the generator does.
        """
        request = pb.TraceRequest(seconds=seconds, kernels=kernels)
        return trace_responses(self._stub(), request, self._metadata, self._target)

    async def aclose(self) -> None:
        """Close the connection. Sessions that are still open are cancelled, with a `ResourceWarning`.

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
            assert self._servers is not None, "made with the connection"
            await self._servers.aclose()
            await channel.close()

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("the client is not connected: use it inside `async with`")
        return self._channel

    def _stub(self) -> FrameServiceAsyncStub:
        return FrameServiceStub(self._connected())

    async def _answer(self, call: Awaitable[AnswerT]) -> AnswerT:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._target) from error
