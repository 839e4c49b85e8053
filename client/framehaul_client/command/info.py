"""`client info` and `client models`: what a server offers, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Final

from framehaul import clip
from framehaul.causes import Verdict
from framehaul.formats import PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.core.info import HighlightInfo, Model, ServerInfo
from framehaul_client.core.printable import printable

COST_HOURS: Final = 1000
"""Of video, for whose decoding a cost is told."""
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


async def fetch_info(target: str, connect_timeout_s: float, access: Access) -> ServerInfo:
    """Ask the server.

    Raises:
        FramehaulError: the token may not go there, or the server can't be reached or doesn't answer.

    Cancellation: closes the connection.
    """
    async with FrameClient(target, connect_timeout_s=connect_timeout_s, access=access) as client:
        return await client.info()


def info_json(info: ServerInfo) -> str:
    """Make one line of JSON."""
    return json.dumps(asdict(info))


def info_text(target: str, info: ServerInfo) -> str:
    """Make a few lines for people."""
    queued = f"{info.num_queued} queued, " if info.num_queued else ""
    lines = [
        f"{target}: framehaul {printable(info.version)} on {printable(info.device)}, "
        f"{info.num_sessions} of {info.max_sessions} sessions, "
        f"{queued}{info.num_slots_in_use} of {info.num_slots} slots in use"
    ]
    lines += [f"  {line}" for line in model_lines(info.models)]
    lines.append(
        f"  frames as {', '.join(info.pixel_formats)}, up to {info.max_pixels} pixels each "
        f"({PixelFormat.GBRPF16LE}: half of that)"
    )
    lines.append(f"  latents as {', '.join(info.dtypes)}, up to {info.chunk_latents} decoded together")
    verdict = Verdict.of(info.charged_s)
    if verdict is not None:
        lines.append(f"  the last minute: {verdict.text()}")
    if info.highlights is not None:
        lines.append(f"  {_highlights(info.highlights)}")
    if info.synthetic:
        lines.append("  synthetic latents are allowed")
    return "\n".join(lines)


def model_lines(models: Sequence[Model], size: tuple[int, int] | None = None) -> list[str]:
    """Make a heading and a line for each model; a `size` (width, height) gives the memory of a session of that size."""
    state = "state" if size is None else f"state at {size[0]}x{size[1]}"
    rows = [
        ("model", "channels", "cell", "frames of n latents", "lookahead", "looks back", "exactness", "mean, std", state)
    ]
    for index, model in enumerate(models):
        name = printable(model.name)
        rows.append(
            (
                f"{name} (default)" if index == 0 else name,
                str(model.channels),
                f"{model.spatial_factor}x{model.spatial_factor}",
                _chunk_rule(model),
                _lookahead(model),
                "all latents"
                if model.receptive_latents is None
                else _latents(model.receptive_latents - 1),  # without its own
                model.exactness,
                "yes" if model.normalization else "no",
                _state(model, size),
            )
        )
    return _aligned(rows)


def cost_lines(models: Sequence[Model], price: float, fps: Fraction, size: tuple[int, int] | None = None) -> list[str]:
    """Make a heading and a line for each model and size that the server measured; `size` leaves out the others.

    Args:
        models: of the server.
        price: of its device, an hour.
        fps: frames a second of the videos.
        size: width and height.
    """
    rows = [("model", "size", "frames/s of the device", f"{COST_HOURS:,} hours of video at {float(fps):.6g} frames/s")]
    for model in models:
        rates = [rate for rate in model.rates if size in (None, (rate.width, rate.height))]
        asked = "-" if size is None else f"{size[0]}x{size[1]}"
        rows += [
            (
                printable(model.name),
                f"{rate.width}x{rate.height}",
                f"{rate.frames_per_s:.1f}",
                f"{cost(rate.frames_per_s, price, fps):,.2f}",
            )
            for rate in rates
        ] or [(printable(model.name), asked, "not measured yet", "-")]
    return _aligned(rows)


def cost(frames_per_s: float, price: float, fps: Fraction) -> float:
    """What `COST_HOURS` of video cost on a device that costs `price` an hour and decodes all the time."""
    return COST_HOURS * float(fps) / frames_per_s * price


def models_json(
    models: Sequence[Model],
    size: tuple[int, int] | None = None,
    *,
    price: float | None = None,
    fps: Fraction = Fraction(24),
) -> str:
    """Make one line of JSON.

    A `size` (width, height) adds `state_bytes`, null if a model can't make that size. A `price` adds to each of the
    rates its `cost`, of `COST_HOURS` of video.
    """
    values = []
    for model in models:
        value = asdict(model) | ({} if size is None else {"state_bytes": model.state_bytes(*size)})
        if price is not None:
            for told, rate in zip(value["rates"], model.rates, strict=True):
                told["cost"] = cost(rate.frames_per_s, price, fps)
        values.append(value)
    return json.dumps(values)


def _highlights(info: HighlightInfo) -> str:
    queries = "pictures or words" if info.reads_text else "pictures"
    offers = [f"highlights of films by {queries}, with {printable(info.model)}"] if info.model else []
    offers += ["maps of where people look in films"] if info.saliency else []
    films = ", or films that it has" if info.has_films else ""
    return (
        f"{'; '.join(offers)}; uploads of up to "
        f"{info.max_upload_bytes / _GIB:.3g} GiB{films}; {info.num_reading} of {info.num_readers} readers in use"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _chunk_rule(model: Model) -> str:
    if model.period_latents:
        whole = clip.num_frames(model.period_latents, model.first_frames, model.temporal_factor)
        return f"{whole} each {model.period_latents}"
    each = "n" if model.temporal_factor == 1 else f"{model.temporal_factor} n"
    extra = model.first_frames - model.temporal_factor
    return each if extra == 0 else f"{each} {'-' if extra < 0 else '+'} {abs(extra)}"


def _lookahead(model: Model) -> str:
    if model.tile_latents:
        return f"tiles of {model.tile_latents} every {model.tile_stride_latents}"
    return _latents(model.lookahead_latents)


def _latents(count: int) -> str:
    return f"{count} latent" if count == 1 else f"{count} latents"


def _state(model: Model, size: tuple[int, int] | None) -> str:
    if size is None:
        return f"{model.state_bytes_per_pixel:.0f} B a pixel"
    state_bytes = model.state_bytes(*size)
    return "not a multiple of its cell" if state_bytes is None else f"{state_bytes / _MIB:.0f} MiB"
