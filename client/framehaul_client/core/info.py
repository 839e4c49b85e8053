"""What a server says about itself, as typed values; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from framehaul.causes import Cause
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import CAUSES, DATA_TYPES, PIXEL_FORMATS
from framehaul_client.errors import ProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a model took of the server's device, for frames of one size.

    Attributes:
        width: of a frame.
        height: likewise.
        num_frames: decoded.
        device_s: for which the device was theirs alone.
        kernels_s: of it, from the first kernel of a chunk to its last; 0 if that isn't known.
    """

    width: int
    height: int
    num_frames: int
    device_s: float
    kernels_s: float

    @property
    def frames_per_s(self) -> float:
        """Of a device that does nothing else."""
        return self.num_frames / self.device_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder that the server offers.

    Attributes:
        name: what `model` takes.
        channels: of a latent.
        spatial_factor: pixels of a frame for each latent cell, in each direction.
        temporal_factor: frames of every latent after the first.
        first_frames: frames of the first latent.
        lookahead_latents: the most later latents that a frame waits for.
        exactness: how streamed frames compare with a whole-clip decode.
        receptive_latents: how far back a frame depends on latents; None for all of them.
        state_bytes_per_pixel: device memory of a session, for each pixel of a frame.
        normalization: it has a mean and deviation of its own, which it applies to normalised latents.
        tile_latents: latents of a temporal tile, whose frames come together; 0 for decoders without tiles.
        tile_stride_latents: latents from one tile's start to the next one's; 0 for decoders without tiles.
        period_latents: each latent whose index is a multiple of it gives `first_frames`; 0: the first alone.
        rates: measured by the server in service, for callers that may watch it; smaller frames first.
    """

    name: str
    channels: int
    spatial_factor: int
    temporal_factor: int
    first_frames: int
    lookahead_latents: int
    exactness: str
    receptive_latents: int | None
    state_bytes_per_pixel: float
    normalization: bool
    tile_latents: int
    tile_stride_latents: int
    period_latents: int
    rates: tuple[Rate, ...] = ()

    def state_bytes(self, width: int, height: int) -> int | None:
        """Device memory of a session with frames of this size; None if there can be none of it."""
        cell = max(1, self.spatial_factor)  # a server may leave it unsaid
        if width % cell or height % cell:
            return None
        return round(self.state_bytes_per_pixel * width * height)


@dataclass(frozen=True, slots=True, kw_only=True)
class HighlightInfo:
    """How a server searches films.

    Attributes:
        model: what films are compared by; empty: they aren't.
        reads_text: a query may be words.
        has_films: films that the server has may be named.
        max_upload_bytes: of one film.
        num_readers: processes that may read films at a time.
        num_reading: of those, now.
        saliency: it can say where people look.
    """

    model: str
    reads_text: bool
    has_films: bool
    max_upload_bytes: int
    num_readers: int
    num_reading: int
    saliency: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server offers and how busy it is.

    Attributes:
        version: of the server.
        device: where it decodes.
        epoch: of this start of the server; another one means that it restarted.
        models: decoders, the default first.
        pixel_formats: how frames can arrive.
        dtypes: number formats of latents that it takes.
        synthetic: it makes latents itself when asked.
        max_sessions: sessions at once.
        max_pixels: of one frame.
        max_request_bytes: of one message of latents.
        max_response_bytes: of one message of frames.
        chunk_latents: most latents decoded together.
        max_queued: sessions that may wait for a place.
        num_sessions: open now.
        num_queued: waiting for a place now.
        num_slots: places for decoded frames.
        num_slots_in_use: of those, now.
        charged_s: what its last minute went to, in seconds.
        highlights: how it searches films; None: it doesn't.
    """

    version: str
    device: str
    epoch: int
    models: tuple[Model, ...]
    pixel_formats: tuple[str, ...]
    dtypes: tuple[str, ...]
    synthetic: bool
    max_sessions: int
    max_pixels: int
    max_request_bytes: int
    max_response_bytes: int
    chunk_latents: int
    max_queued: int
    num_sessions: int
    num_queued: int
    num_slots: int
    num_slots_in_use: int
    charged_s: dict[Cause, float]
    highlights: HighlightInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a session should go.

    Attributes:
        target: `HOST:PORT`.
        epoch: of the server there.
        lease_s: how long this answer may be kept, in seconds.
        alternatives: where to go if that server can't be reached or refuses, in this order.
    """

    target: str
    epoch: int
    lease_s: float
    alternatives: tuple[str, ...] = ()


def read_info(message: pb.ServerInfo) -> ServerInfo:
    """Make a `ServerInfo` of the server's message; formats that this client doesn't know are left out.

    Raises:
        ProtocolError: a model's memory is no number.
    """
    pixel_formats = {number: each.value for each, number in PIXEL_FORMATS.items()}
    dtypes = {number: each.value for each, number in DATA_TYPES.items()}
    return ServerInfo(
        version=message.version,
        device=message.device,
        epoch=message.epoch,
        models=tuple(_read_model(model) for model in message.models),
        pixel_formats=tuple(pixel_formats[number] for number in message.pixel_formats if number in pixel_formats),
        dtypes=tuple(dtypes[number] for number in message.dtypes if number in dtypes),
        synthetic=message.synthetic,
        max_sessions=message.limits.max_sessions,
        max_pixels=message.limits.max_pixels,
        max_request_bytes=message.limits.max_request_bytes,
        max_response_bytes=message.limits.max_response_bytes,
        chunk_latents=message.limits.chunk_latents,
        max_queued=message.limits.max_queued,
        num_sessions=message.load.sessions,
        num_queued=message.load.queued,
        num_slots=message.load.slots,
        num_slots_in_use=message.load.slots_in_use,
        charged_s=read_charged(message.charged),
        highlights=_read_highlights(message.highlights) if message.HasField("highlights") else None,
    )


def read_charged(message: Iterable[pb.Charged]) -> dict[Cause, float]:
    """Time by what it went to, in seconds; causes that this client doesn't know are left out.

    Raises:
        ProtocolError: it is no time.
    """
    causes = {number: cause for cause, number in CAUSES.items()}
    for each in message:
        if not 0 <= each.seconds < math.inf:
            raise ProtocolError(f"the server says charged.seconds={each.seconds}: must be 0 or more")
    return {causes[each.cause]: each.seconds for each in message if each.cause in causes}


def _read_highlights(message: pb.HighlightInfo) -> HighlightInfo:
    return HighlightInfo(
        model=message.model,
        reads_text=message.reads_text,
        has_films=message.has_films,
        max_upload_bytes=message.max_upload_bytes,
        num_readers=message.readers,
        num_reading=message.readers_in_use,
        saliency=message.saliency,
    )


def _read_model(model: pb.ModelInfo) -> Model:
    try:
        exactness = pb.Exactness.Name(model.exactness).removeprefix("EXACTNESS_").lower().replace("_", "-")
    except ValueError:  # newer than this client
        exactness = "unspecified"
    if not 0 <= model.state_bytes_per_pixel < math.inf:
        raise ProtocolError(f"the server says state_bytes_per_pixel={model.state_bytes_per_pixel}: must be 0 or more")
    return Model(
        name=model.name,
        channels=model.channels,
        spatial_factor=model.spatial_factor,
        temporal_factor=model.temporal_factor,
        first_frames=model.first_frames,
        lookahead_latents=model.lookahead_latents,
        exactness=exactness,
        receptive_latents=model.receptive_latents if model.HasField("receptive_latents") else None,
        state_bytes_per_pixel=model.state_bytes_per_pixel,
        normalization=model.normalization,
        tile_latents=model.tile_latents,
        tile_stride_latents=model.tile_stride_latents,
        period_latents=model.period_latents,
        rates=tuple(map(_read_rate, model.rates)),
    )


def _read_rate(rate: pb.MeasuredRate) -> Rate:
    if not (rate.num_frames and 0 < rate.device_s < math.inf and 0 <= rate.kernels_s < math.inf):
        found = f"{rate.num_frames} frames in {rate.device_s} s, kernels {rate.kernels_s} s"
        raise ProtocolError(f"the server says rates={found}: must be 1 or more, over 0, and 0 or more")
    return Rate(
        width=rate.width,
        height=rate.height,
        num_frames=rate.num_frames,
        device_s=rate.device_s,
        kernels_s=rate.kernels_s,
    )
