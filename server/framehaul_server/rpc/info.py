"""What clients are told of the models, of the largest response, and of several servers together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from framehaul.formats import SLOT_BYTES_PER_PIXEL
from framehaul.v1 import frames_pb2 as pb
from framehaul_pipeline.spec import DecoderSpec, Exactness
from framehaul_server.core.packing import DEFAULT_MESSAGE_BYTES, message_bytes
from framehaul_server.core.tenants import Caller

_EXACTNESS: Final = MappingProxyType(
    {
        Exactness.FULL: pb.EXACTNESS_FULL,
        Exactness.LIBRARY_PARTITION: pb.EXACTNESS_LIBRARY_PARTITION,
        Exactness.LIBRARY_TILES: pb.EXACTNESS_LIBRARY_TILES,
        Exactness.APPROXIMATE: pb.EXACTNESS_APPROXIMATE,
    }
)


def model_info(spec: DecoderSpec, rates: Sequence[pb.MeasuredRate] = ()) -> pb.ModelInfo:
    """What a client can know of a model, and what it took here."""
    return pb.ModelInfo(
        name=spec.name,
        channels=spec.channels,
        spatial_factor=spec.spatial_factor,
        temporal_factor=spec.temporal_factor,
        first_frames=spec.first_frames,
        lookahead_latents=spec.lookahead_latents,
        exactness=_EXACTNESS[spec.exactness],
        receptive_latents=spec.receptive_latents,
        state_bytes_per_pixel=spec.state_bytes_per_pixel,
        normalization=bool(spec.latent_std),
        tile_latents=spec.tile_latents,
        tile_stride_latents=spec.tile_stride_latents,
        period_latents=spec.period_latents,
        rates=rates,
    )


def told_to(caller: Caller, info: pb.ServerInfo) -> pb.ServerInfo:
    """`info` without what tells what others decode, unless this caller may watch."""
    if not caller.tenant.watch:
        for model in info.models:
            model.ClearField("rates")
    return info


def max_response_bytes(max_pixels: int) -> int:
    """Largest response of a server that makes frames of up to `max_pixels`."""
    return max(DEFAULT_MESSAGE_BYTES, message_bytes(max_pixels * SLOT_BYTES_PER_PIXEL))


def sum_of(servers: Sequence[pb.ServerInfo], *, version: str, epoch: int) -> pb.ServerInfo:
    """What a front says of its servers: what any of them offers, the limits that hold at each, and sums."""
    kinds = Counter(server.device for server in servers)
    devices = ", ".join(f"{count} x {device}" if count > 1 else device for device, count in kinds.items())
    seconds: dict[pb.Cause.ValueType, float] = {}
    for server in servers:
        for each in server.charged:
            seconds[each.cause] = seconds.get(each.cause, 0.0) + each.seconds
    return pb.ServerInfo(
        version=version,
        device=f"front of {len(servers)}: {devices}" if servers else "front of no server",
        epoch=epoch,
        models={model.name: model for server in reversed(servers) for model in server.models}.values(),
        pixel_formats=dict.fromkeys(each for server in servers for each in server.pixel_formats),
        dtypes=dict.fromkeys(each for server in servers for each in server.dtypes),
        limits=pb.Limits(
            max_sessions=_sum("max_sessions", [server.limits for server in servers]),
            max_pixels=max((server.limits.max_pixels for server in servers), default=0),
            max_request_bytes=max((server.limits.max_request_bytes for server in servers), default=0),
            max_response_bytes=max((server.limits.max_response_bytes for server in servers), default=0),
            chunk_latents=max((server.limits.chunk_latents for server in servers), default=0),
            max_queued=_sum("max_queued", [server.limits for server in servers]),
        ),
        load=pb.Load(
            **{field.name: _sum(field.name, [server.load for server in servers]) for field in pb.Load.DESCRIPTOR.fields}
        ),
        synthetic=any(server.synthetic for server in servers),
        charged=[pb.Charged(cause=cause, seconds=each) for cause, each in seconds.items()],
        ready=any(server.ready for server in servers),
        epochs=[epoch for server in servers for epoch in (server.epoch, *server.epochs)],
        highlights=_highlights([server.highlights for server in servers if server.HasField("highlights")]),
        metrics=dict.fromkeys(each for server in servers for each in server.metrics),
    )


def _highlights(infos: Sequence[pb.HighlightInfo]) -> pb.HighlightInfo | None:
    if not infos:
        return None
    return pb.HighlightInfo(
        model=", ".join(dict.fromkeys(info.model for info in infos if info.model)),
        reads_text=any(info.reads_text for info in infos),
        has_films=any(info.has_films for info in infos),
        saliency=any(info.saliency for info in infos),
        max_upload_bytes=max(info.max_upload_bytes for info in infos),
        readers=_sum("readers", infos),
        readers_in_use=_sum("readers_in_use", infos),
    )


def _sum(name: str, messages: Sequence[pb.Limits] | Sequence[pb.Load] | Sequence[pb.HighlightInfo]) -> int:
    """As large as the field can hold at most, whatever servers say."""
    is_long = messages and messages[0].DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_UINT64
    total: int = sum(getattr(message, name) for message in messages)
    return min(total, (1 << 64 if is_long else 1 << 32) - 1)
