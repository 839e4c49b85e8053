"""Latents made from a seed, for load tests: full-size frames come out, and nothing has to be sent in.

To its session, such a client sends ordinary latents: they are made here as it takes them. Runs on the event loop, so a
latent must be cheap: noise is drawn once a seed, and each latent is that noise shifted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from framehaul import wire
from framehaul.formats import LatentDtype
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.errors import InvalidInput, Lack, OutOfOrder, Overloaded
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_server.core.latents import LatentInput, holds_latents
from framehaul_server.core.open_request import MAX_LATENTS, OpenRules, check_open, find_model
from framehaul_server.errors import NotPermitted
from framehaul_server.session.connection import Connection, Request

_MAX_WAITING_CLIPS: Final = 1024
_SHIFT: Final = 7919
"""Elements between latents: a prime, so that no two latents of a clip are equal before all shifts were used."""


def make_latents(connection: Connection, first: Request, rules: OpenRules) -> tuple[Connection, Request]:
    """A session's connection and its first request, such that it finds latents where `first` asks to make some.

    Raises:
        PipelineError: what is asked for isn't allowed.
        NotPermitted: synthetic latents aren't allowed here.
    """
    if first.header.cancel or not first.header.HasField("synthetic"):
        return connection, first
    maker = SyntheticConnection(connection, first.header, rules)
    return maker, maker.unfold(first)


class SyntheticConnection:
    """The connection of a client that asks for synthetic latents; see `Connection`."""

    def __init__(self, connection: Connection, first: pb.StreamRequest, rules: OpenRules) -> None:
        """Serve the client on `connection`, whose first request is `first`.

        Raises:
            PipelineError: what is asked for isn't allowed.
            NotPermitted: synthetic latents aren't allowed here.
        """
        self._connection = connection
        self._rules = rules
        self._given = first.open
        self._filled = _fill(first.open, first.synthetic, rules)
        self._request = check_open(self._filled, rules)
        self._asked = LatentInput(self._request)
        """Counts latents when they are asked for."""
        self._clips: deque[tuple[int, int]] = deque()
        """Seeds, and numbers of latents still to be made."""
        self._end_waits = False
        """The client ended its latents, and not all are made."""
        self._num_made = 0
        self._latents_until = 0
        """The session's grant, in EXPLICIT mode."""
        self._waiting: asyncio.Timeout | None = None
        """Ends the wait for a request when more latents are granted."""
        self._latents: SyntheticLatents | None = None
        """Of the seed that was made last."""

    async def read(self) -> Request | None:
        """See `Connection.read`: a latent if one may be sent, else what the client sends."""
        while True:
            if self._clips and (not self._request.explicit or self._num_made < self._latents_until):
                await asyncio.sleep(0)  # others' turn
                return wire.Envelope(pb.StreamRequest(), self._make())
            if self._end_waits and not self._clips:
                self._end_waits = False
                return wire.Envelope(pb.StreamRequest(end_of_latents=True), memoryview(b""))
            try:
                async with asyncio.timeout(None) as self._waiting:
                    request = await self._connection.read()
            except TimeoutError:
                continue
            finally:
                self._waiting = None
            return None if request is None else self.unfold(request)

    async def send_headers(self) -> None:
        """See `Connection.send_headers`."""
        await self._connection.send_headers()

    async def write(self, message: bytes) -> None:
        """See `Connection.write`; takes note of grants."""
        if self._request.explicit:
            granted = wire.split_response(message).header.latents_until
            if granted > self._latents_until:
                self._latents_until = granted
                if self._clips and self._waiting is not None and not self._waiting.expired():
                    self._waiting.reschedule(asyncio.get_running_loop().time())
        await self._connection.write(message)

    def unfold(self, request: Request) -> Request:
        """What the session is to see of a request at once: all but its synthetic latents, and their end.

        Raises:
            OutOfOrder: latents of the client's own, or more after their end.
            InvalidInput: a field of `synthetic`, another size than before, or not as many latents as were declared.
            Overloaded: too many clips wait already.
        """
        header = request.header
        if header.cancel:
            return request
        if holds_latents(request):
            raise OutOfOrder("latents: this session was opened with synthetic latents")
        seen = pb.StreamRequest()
        seen.CopyFrom(header)
        if header.open == self._given:
            seen.open.CopyFrom(self._filled)
        if header.HasField("synthetic"):
            self._add(header.synthetic)
            seen.ClearField("synthetic")
        if header.end_of_latents:
            self._asked.end()
            self._end_waits = True
            seen.end_of_latents = False
        return wire.Envelope(seen, request.payload)

    def _add(self, synthetic: pb.Synthetic) -> None:
        geometry = check_synthetic(synthetic, self._request.spec, self._rules)
        if geometry != self._request.opening.geometry:
            height, width = self._request.frame_size
            raise InvalidInput("synthetic", f"{synthetic.height}x{synthetic.width}", f"{height}x{width} as before")
        if len(self._clips) >= _MAX_WAITING_CLIPS:
            reason = f"synthetic: {_MAX_WAITING_CLIPS} clips of this session wait already"
            raise Overloaded(reason, Lack.CALLS, retry_after_s=1.0)
        self._asked.count(synthetic.num_latents)
        self._clips.append((synthetic.seed, synthetic.num_latents))

    def _make(self) -> memoryview:
        seed, num_latents = self._clips.popleft()
        if num_latents > 1:
            self._clips.appendleft((seed, num_latents - 1))
        if self._latents is None or seed != self._latents.seed:
            self._latents = SyntheticLatents(seed, self._request.opening.geometry, self._request.opening.dtype)
        self._num_made += 1
        return self._latents.latent(self._num_made - 1)


class SyntheticLatents:
    """The latents of one seed: the same bytes for the same seed, geometry, dtype and index, always."""

    def __init__(self, seed: int, geometry: Geometry, dtype: LatentDtype) -> None:
        """Draw the noise: standard normal, what a normalised latent looks like."""
        self.seed = seed
        count = geometry.channels * geometry.height * geometry.width
        noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(count, dtype=np.float32)
        self._noise = _elements(noise, dtype)

    def latent(self, index: int) -> memoryview:
        """The bytes of latent `index`, `[channels, height, width]`."""
        shifted = np.roll(self._noise, index * _SHIFT % self._noise.size)
        return shifted.data.cast("B").toreadonly()


def _elements(noise: NDArray[np.float32], dtype: LatentDtype) -> NDArray[np.float16 | np.float32 | np.uint16]:
    if dtype is LatentDtype.FLOAT32:
        return noise
    if dtype is LatentDtype.FLOAT16:
        return noise.astype(np.float16)
    return (noise.view(np.uint32) >> 16).astype(np.uint16)


def check_synthetic(message: pb.Synthetic, spec: DecoderSpec, rules: OpenRules) -> Geometry:
    """Check a request for synthetic latents and give their size.

    Raises:
        InvalidInput: a field holds a value that isn't allowed.
        NotPermitted: synthetic latents aren't allowed here.
    """
    if not rules.allow_synthetic:
        raise NotPermitted("synthetic: this server was not started with --allow-synthetic")
    if not 1 <= message.num_latents <= MAX_LATENTS:
        raise InvalidInput("synthetic.num_latents", message.num_latents, f"1..{MAX_LATENTS}")
    factor = spec.spatial_factor
    for name, value in (("height", message.height), ("width", message.width)):
        if value == 0 or value % factor:
            raise InvalidInput(f"synthetic.{name}", value, f"a positive multiple of {factor} pixels")
    if message.height * message.width > rules.max_pixels:
        size = f"{message.height}x{message.width}"
        raise InvalidInput("synthetic", size, f"at most {rules.max_pixels} pixels a frame on this server")
    return Geometry(channels=spec.channels, height=message.height // factor, width=message.width // factor)


def _fill(message: pb.Open, synthetic: pb.Synthetic, rules: OpenRules) -> pb.Open:
    """The `Open` of a client that sends what is asked for with `synthetic`."""
    spec = find_model(message.model, rules.specs, field="open.model")
    wanted, given = check_synthetic(synthetic, spec, rules), message.geometry
    if message.HasField("geometry") and wanted != Geometry(
        channels=given.channels, height=given.height, width=given.width
    ):
        raise InvalidInput(
            "open.geometry",
            f"{given.channels}x{given.height}x{given.width}",
            f"unset, or {wanted.channels}x{wanted.height}x{wanted.width} like the synthetic latents",
        )
    if message.HasField("resume"):
        raise InvalidInput("open.resume", "set", "unset, but in EXPLICIT mode with latents of the client's own")
    if message.start_frame:
        raise InvalidInput("open.start_frame", message.start_frame, "0 with synthetic latents")
    filled = pb.Open()
    filled.CopyFrom(message)
    filled.geometry.CopyFrom(pb.LatentGeometry(channels=wanted.channels, height=wanted.height, width=wanted.width))
    filled.dtype = message.dtype or pb.DATA_TYPE_FLOAT16
    filled.normalized = True
    return filled
