"""A client process for the benchmarks: the client library, its encoder and its sinks, driven by lines of JSON.

A request names `target`, `model`, `height`, `width`, `format`, `sessions`, `priority`, `reproducible`, `sink`
(`discard` or a key of `SUFFIXES`), either `seconds` to leave after or `latents` to send, and `fps` for latents that
come at a pace. `channels` and `factor` of latents are those of `tiny` and Wan 2.1 unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from framehaul.formats import PixelFormat
from framehaul_client.client import FrameClient
from framehaul_client.command.stream import SAMPLE
from framehaul_client.sinks.containers import CONTAINERS, suffix_of
from framehaul_client.sinks.encoder import Encoder
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.source.latents_file import LatentsFile

_CHANNELS: Final = 16
_FACTOR: Final = 8
_FRAMES_A_LATENT: Final = 4
_FPS: Final = Fraction(24)
SUFFIXES: Final = {"x264": ".mkv", "mp4": ".mp4"}
"""Sinks that encode, and what files they write."""


def picture_latents(height: int, width: int, channels: int = _CHANNELS, factor: int = _FACTOR) -> NDArray[np.float16]:
    """The sample clip's latents `[T, channels, height / factor, width / factor]`, repeated or cut to this size."""
    with LatentsFile(SAMPLE) as file:
        sample = np.stack(list(file))
    rows, columns = height // factor, width // factor
    repeats = (1, channels // _CHANNELS, -(-rows // sample.shape[2]), -(-columns // sample.shape[3]))
    return np.ascontiguousarray(np.tile(sample, repeats)[:, :, :rows, :columns])


def _latents(request: dict[str, Any], clip: NDArray[np.float16]) -> Iterator[NDArray[np.float16]]:
    """Latents without end, or until their number is reached; at a pace if there is one."""
    started_s = time.monotonic()
    most = request.get("latents", sys.maxsize)
    interval_s = _FRAMES_A_LATENT / request["fps"] if request.get("fps") else 0.0
    for index in range(most):
        if interval_s:
            time.sleep(max(0.0, started_s + index * interval_s - time.monotonic()))
        yield clip[index % len(clip)]


async def _session(
    client: FrameClient, request: dict[str, Any], clip: NDArray[np.float16], out: Path
) -> dict[str, Any]:
    messages: list[tuple[int, int, int]] = []
    encode_s = wait_encoder_s = 0.0
    seconds = request.get("seconds", math.inf)
    started_ns = time.monotonic_ns()
    async with client.session(
        _latents(request, clip),
        model=request.get("model", ""),
        pixel_format=PixelFormat(request.get("format", "yuv420p")),
        num_latents=request.get("latents"),
        priority=request.get("priority", 0),
        reproducible=request.get("reproducible"),
    ) as session:
        encoder = None
        if request["sink"] in SUFFIXES:
            sink = VideoSink(out, CONTAINERS[suffix_of(out.name)], PixelFormat.YUV420P, _FPS, VideoOptions())
            sink.prepare()
            encoder = Encoder(sink, session.opened.layout)
        async for batch in session.batches():
            messages.append((time.monotonic_ns(), batch.first_frame, len(batch)))
            if encoder is not None:
                waited_s = time.perf_counter()
                await encoder.put(batch)
                wait_encoder_s += time.perf_counter() - waited_s
            if time.monotonic_ns() - started_ns > seconds * 1e9:
                break
        statistics = session.statistics
        if encoder is not None:
            await encoder.finish()
            await encoder.aclose()
            encode_s = encoder.busy_s
    return {
        "started_ns": started_ns,
        "ended_ns": time.monotonic_ns(),
        "messages": messages,
        "num_frames": statistics.num_frames,
        "frame_bytes": statistics.frame_bytes,
        "wait_encoder_s": wait_encoder_s,
        "encode_s": encode_s,
        "wait_frames_s": statistics.wait_frames_s,
        "wait_room_s": statistics.wait_room_s,
    }


async def _run(request: dict[str, Any]) -> dict[str, Any]:
    shape = request.get("channels", _CHANNELS), request.get("factor", _FACTOR)
    clip = picture_latents(request["height"], request["width"], *shape)
    cpu_s, suffix = time.process_time(), SUFFIXES.get(request["sink"], "")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with FrameClient(request["target"], tune_allocator=True) as client:
            sessions = await asyncio.gather(
                *(
                    _session(client, request, clip, Path(folder) / f"{index}{suffix}")
                    for index in range(request.get("sessions", 1))
                )
            )
    return {"sessions": sessions, "cpu_s": time.process_time() - cpu_s}


def main() -> None:
    """Answer requests until the input ends."""
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
