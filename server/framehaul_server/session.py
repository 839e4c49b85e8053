"""One session: latents from a client to the worker, frames from the worker to the client.

Runs on the event loop, in the RPC's own task and three children: the reader, the sender and, for synthetic latents,
the feed. The worker's events arrive as plain calls and never wait for a socket: a published chunk is copied into
messages and its slot given back at once, because its frames were within the window before it was decoded.

The session owns its worker handle, grant, input and delivery, and lets go of all of them in one synchronous `close`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, OutOfOrder, PipelineError
from framehaul_pipeline.lease import FrameLease
from framehaul_server import responses
from framehaul_server.boundary import leading_error
from framehaul_server.delivery import Delivery, WritableContext
from framehaul_server.errors import ClientStalled, ServerError, SessionCancelled
from framehaul_server.grant import LatentGrant, latent_budget
from framehaul_server.input import LatentInput, check_finite
from framehaul_server.logs import SessionRecord
from framehaul_server.requests import Request, Requests
from framehaul_server.stall import StallTimer
from framehaul_server.synthetic import SyntheticFeed
from framehaul_server.tenants import Caller
from framehaul_server.validation import OpenRules, check_synthetic, read_open
from framehaul_server.window import WindowLimits, allowed_latents
from framehaul_server.worker_link import WorkerHandle, WorkerOpener

_CHECKED_AT_ONCE_BYTES: Final = 4 << 20
"""Latents checked before other sessions get a turn: about a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What every session of a server is held to."""

    opening: OpenRules
    window_bytes: int
    latent_bytes: int
    chunk_latents: int
    stall_timeout_s: float


class Session:
    """A session from its first request to its end."""

    def __init__(
        self, first: Request, worker: WorkerOpener, rules: SessionRules, record: SessionRecord, caller: Caller
    ) -> None:
        """Check the first request; nothing is opened yet.

        Raises:
            PipelineError: the request isn't allowed.
            ServerError: likewise.
        """
        self._rules = rules
        self._worker = worker
        self._record = record
        self.caller = caller
        """The session's owner."""
        self._first = first
        self._open_message, self._request = read_open(first.header, rules.opening)
        caller.tenant.check_priority(self._request.priority)
        self._explicit = self._request.explicit
        self._input = LatentInput(self._request)
        self._num_pushed = 0
        self._feed = SyntheticFeed(self._request.geometry, self._request.dtype) if self._request.synthetic else None
        self._limits = WindowLimits.of(self._request.spec, self._request.frame_bytes, rules.window_bytes)
        self._delivery = Delivery(self._request, self._limits, record, window_moved=self._allow)
        self._grant = LatentGrant(
            latent_budget(self._request.spec, self._request.latent_bytes, rules.latent_bytes, rules.chunk_latents)
        )
        self._stall = StallTimer(rules.stall_timeout_s, position=self._position, stalled=self._stalled)
        self._handle: WorkerHandle | None = None
        self._fed = asyncio.Event()
        """Pulsed when the worker took over latents."""
        self._over = asyncio.Event()
        """Set when the last response was written, or with `_error`."""
        self._error: PipelineError | ServerError | None = None
        height, width = self._request.frame_size
        record.model = self._request.spec.name
        record.size = f"{width}x{height}"
        record.mode = "explicit" if self._explicit else "auto"

    @property
    def max_waiting_bytes(self) -> int:
        """Most bytes of latents and frames that can wait in the server for this session."""
        request = self._request
        return self._limits.max_frames * request.frame_bytes + self._grant.budget * request.latent_bytes

    async def run(self, requests: Requests, context: WritableContext) -> None:
        """Serve the session to its end; `Done` was sent when this returns.

        Cancellation: releases everything; so does every error.

        Raises:
            PipelineError: the session can't go on: bad input, a lost worker.
            ServerError: likewise; the client cancelled.
            grpc.aio.BaseError: the client is gone.
        """
        try:
            self._open()
            # Not left to the first write: if that one is cancelled, grpc.aio sends the headers a second time with the
            # status, which fails, and the client never hears of the end. Not earlier either: only a refusal without
            # headers is retried by gRPC clients.
            await context.send_initial_metadata(())
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(self._read(requests))]
                if self._feed is not None:
                    helpers.append(tasks.create_task(self._make_latents(self._feed)))
                helpers.append(tasks.create_task(self._send(context)))
                await self._over.wait()
                if self._error is not None:
                    raise self._error
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as group:
            raise leading_error(group) from None
        finally:
            self.close()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self._stall.stop()
        if self._handle is not None:
            self._handle.close()
        self._delivery.close()
        self._record.num_latents = self._input.num_received

    def drain(self, grace_s: float) -> None:
        """Tell the client that the server will stop."""
        self._delivery.put(responses.drain(grace_s), urgent=True)

    def fail(self, error: PipelineError | ServerError) -> None:
        """End the session with `error`; the first one counts."""
        if not self._over.is_set():
            self._error = error
            self._over.set()

    # The worker's events

    def on_opened(self) -> None:
        """Nothing to do: the client was answered when the session was accepted."""

    def on_fed(self, num_fed: int) -> None:
        """Make room for more latents."""
        self._input.num_fed = num_fed
        self._fed.set()
        if self._explicit:
            self._grant.fed(num_fed)
            if self._grant.overdue and not self._input.ended:
                self._delivery.put(responses.grant(self._grant.announce()))

    def on_published(self, lease: FrameLease) -> None:
        """Copy the frames into messages and give the slot back."""
        latents_until = self._grant.announce() if self._explicit and not self._input.ended else 0
        self._delivery.publish(lease, latents_until=latents_until)

    def on_ended(self, num_frames: int) -> None:
        """Queue the last response."""
        self._delivery.put(responses.done(num_frames, self._input.num_received), last=True)

    def on_failed(self, error: PipelineError) -> None:
        """End the session."""
        self.fail(error)

    # Its tasks

    def _open(self) -> None:
        request = self._request
        self._handle = self._worker.open(
            model=request.spec.name,
            geometry=request.geometry,
            num_latents=request.num_latents,
            dtype=request.dtype,
            normalized=request.normalized,
            pixel_format=request.pixel_format,
            priority=request.priority,
            tenant=self.caller.tenant.name,
            weight=self.caller.tenant.weight,
            events=self,
        )
        announced = self._grant.announce() if self._explicit else 0
        self._delivery.put(responses.opened(request, self._limits, latents_until=announced), urgent=True)
        self._allow()
        self._stall.start()

    async def _read(self, requests: Requests) -> None:
        request: Request | None = self._first
        del self._first  # its latents must not outlive their way into the worker
        while request is not None:
            await self._take(request)
            request = None
            while not self._explicit and self._input.num_pending >= self._grant.budget:
                await self._more_fed()
            request = await requests.read()
        if self._explicit:
            self._delivery.hear_end()
        else:
            self._end_input()

    async def _take(self, request: Request) -> None:
        header = request.header
        if header.cancel:
            raise SessionCancelled("cancelled by the client")
        if header.HasField("open") and header.open != self._open_message:
            raise OutOfOrder("open: this session was opened with other values")
        if header.HasField("ack"):
            self._acknowledge(header.ack)
        if header.HasField("synthetic"):
            self._add_synthetic(header.synthetic)
        if request.payload or header.num_latents or header.HasField("index") or header.HasField("crc32c"):
            await self._add_latents(request)
        if header.end_of_latents:
            self._end_input()

    def _acknowledge(self, ack: pb.Ack) -> None:
        if not self._explicit:
            raise OutOfOrder("ack: only sessions in EXPLICIT mode are acknowledged")
        self._delivery.acknowledge(ack)

    async def _add_latents(self, request: Request) -> None:
        first_index = self._input.num_received
        latents = self._input.accept(
            request.header, request.payload, latents_until=self._grant.until if self._explicit else None
        )
        checked_bytes = 0
        for index, latent in enumerate(latents, first_index):
            check_finite(latent, self._request.dtype, index)
            checked_bytes += len(latent)
            if checked_bytes >= _CHECKED_AT_ONCE_BYTES:
                checked_bytes = 0
                await asyncio.sleep(0)  # others' turn
        for latent in latents:
            self._push(latent)

    def _add_synthetic(self, synthetic: pb.Synthetic) -> None:
        if self._feed is None:
            raise OutOfOrder("synthetic: this session was opened for latents of the client's own")
        geometry = check_synthetic(synthetic, self._request.spec, self._rules.opening)
        if geometry != self._request.geometry:
            height, width = self._request.frame_size
            raise InvalidInput("synthetic", f"{synthetic.height}x{synthetic.width}", f"{height}x{width} as before")
        self._input.count(synthetic.num_latents)
        self._feed.add(synthetic.seed, synthetic.num_latents)

    def _end_input(self) -> None:
        if self._input.ended:
            return
        self._input.end()
        if self._feed is not None:
            self._feed.end()
        else:
            self._opened_handle().end()
        self._allow()

    async def _make_latents(self, feed: SyntheticFeed) -> None:
        await feed.run(self._push, self._room)
        self._opened_handle().end()

    async def _room(self) -> None:
        while self._num_pushed - self._input.num_fed >= self._grant.budget:
            await self._more_fed()

    async def _more_fed(self) -> None:
        self._fed.clear()
        await self._fed.wait()

    async def _send(self, context: WritableContext) -> None:
        await self._delivery.run(context)
        self._over.set()

    # A client that does nothing

    def _position(self) -> object:
        request, delivery = self._request, self._delivery
        num_received, num_published = self._input.num_received, delivery.num_published
        num_latents = min(num_received, allowed_latents(request.spec, delivery.frames_until, self._input.num_latents))
        if request.spec.frames_after(num_latents, ended=self._input.ended) > num_published:
            return object()  # it is the worker's turn: unlike any other position
        return num_received, num_published, delivery.num_taken

    def _stalled(self) -> None:
        timeout_s = self._rules.stall_timeout_s
        self.fail(ClientStalled(f"no frame was taken and no latent sent for {timeout_s:g} s"))

    # The worker's handle

    def _opened_handle(self) -> WorkerHandle:
        assert self._handle is not None, "opened before any task starts"
        return self._handle

    def _push(self, latent: memoryview) -> None:
        self._num_pushed += 1
        self._opened_handle().push(latent)

    def _allow(self) -> None:
        self._opened_handle().allow(
            allowed_latents(self._request.spec, self._delivery.frames_until, self._input.num_latents)
        )
