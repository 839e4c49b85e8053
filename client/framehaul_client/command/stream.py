"""`client stream`: a latents file in, a video out; sending, receiving and encoding run side by side."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

from framehaul.formats import PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.progress import Progress
from framehaul_client.command.report import Meanwhile, Report, Timeline
from framehaul_client.core.opening import Opened
from framehaul_client.core.session_config import DEFAULT_CONNECT_TIMEOUT_S, DEFAULT_RETRY_FOR_S, DEFAULT_TARGET
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import InvalidOption, LatentsFileError
from framehaul_client.session import Session
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.encoder import Encoder
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.source.latents_file import DEFAULT_TENSOR, LatentsFile

_LOG: Final = logging.getLogger(__name__)
SAMPLE: Final = Path(__file__).parents[1] / "assets" / "sample.safetensors"
DEFAULT_FPS: Final = Fraction(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """What `client stream` was asked to do.

    Attributes:
        latents: the file; None for the sample clip.
        tensor: name of its tensor.
        out: where frames go.
        target: the server.
        connect_timeout_s: how long to wait for it.
        model: the decoder; None for the one that the file names.
        normalized: how the latents are scaled; None for what the file says.
        pixel_format: what frames arrive in; None for what suits the output.
        fps: frames a second; None for what the file says.
        priority: of the session.
        retry_for_s: how long to try to take a lost session up again.
        access: TLS, certificates and token.
        video: how to encode.
    """

    out: str
    latents: Path | None = None
    tensor: str = DEFAULT_TENSOR
    target: str = DEFAULT_TARGET
    connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S
    model: str | None = None
    normalized: bool | None = None
    pixel_format: PixelFormat | None = None
    fps: Fraction | None = None
    priority: int = 0
    retry_for_s: float = DEFAULT_RETRY_FOR_S
    access: Access = field(default_factory=Access)
    video: VideoOptions = field(default_factory=VideoOptions)


async def stream(config: StreamConfig, progress: Progress) -> Report:
    """Do it.

    Raises:
        FramehaulError: it failed; the class tells where. A kept part of the output is named in the log.

    Cancellation: cancels the session; the frames so far are kept, as after an error.
    """
    started_s = time.perf_counter()
    if config.latents is None and not SAMPLE.exists():
        raise LatentsFileError(f"{SAMPLE}: the sample clip is missing from this installation: name a latents file")
    with LatentsFile(config.latents or SAMPLE, config.tensor) as latents:
        fps = config.fps or latents.fps or DEFAULT_FPS
        try:
            sink = choose_sink(config.out, config.pixel_format, fps, config.video)
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        sink.prepare()
        run = _Run(config, latents, sink, fps, progress)
        try:
            await run.run()
        finally:
            sink.abort()  # in case it was never started
        return run.report(time.perf_counter() - started_s)


class _Run:
    """One run, from the connection to the finished file."""

    def __init__(
        self, config: StreamConfig, latents: LatentsFile, sink: Sink, fps: Fraction, progress: Progress
    ) -> None:
        self._config = config
        self._latents = latents
        self._sink = sink
        self._fps = fps
        self._progress = progress
        self._connect_s = self._queue_s = self._open_s = self._wait_encoder_s = self._finish_s = self._encode_s = 0.0
        self._opened: Opened
        self._statistics: SessionStatistics

    async def run(self) -> None:
        clock = _Clock()
        config, latents = self._config, self._latents
        client = FrameClient(
            config.target, connect_timeout_s=config.connect_timeout_s, access=config.access, tune_allocator=True
        )
        async with client:
            self._connect_s = clock.lap()
            async with client.session(
                latents,
                model=latents.model if config.model is None else config.model,
                pixel_format=self._sink.pixel_format,
                dtype=latents.latents.dtype,
                num_latents=latents.num_latents,
                normalized=latents.normalized if config.normalized is None else config.normalized,
                priority=config.priority,
                retry_for_s=config.retry_for_s,
                on_queued=self._progress.queue,
            ) as session:
                self._opened, self._statistics = session.opened, session.statistics
                self._queue_s = session.statistics.queued_s
                self._open_s = clock.lap() - self._queue_s
                await self._encode(session)

    async def _encode(self, session: Session) -> None:
        encoder = Encoder(self._sink, session.opened.layout)
        try:
            self._progress.start(session.opened.num_frames(self._latents.num_latents))
            async for batch in session.batches():
                clock = _Clock()
                await encoder.put(batch)
                self._wait_encoder_s += clock.lap()
                self._progress.advance(len(batch))
            clock = _Clock()
            await encoder.finish()
            self._finish_s = clock.lap()
        finally:
            await encoder.aclose()
            self._encode_s = encoder.busy_s
            if encoder.kept is not None:
                _LOG.warning("the frames so far are kept in %s", encoder.kept)

    def report(self, total_s: float) -> Report:
        opened, statistics = self._opened, self._statistics
        opening_s = self._connect_s + self._queue_s + self._open_s
        spent_s = opening_s + statistics.wait_frames_s + self._wait_encoder_s + self._finish_s
        return Report(
            out=self._config.out,
            target=self._config.target,
            model=opened.model,
            pixel_format=opened.layout.pixel_format.value,
            width=opened.layout.width,
            height=opened.layout.height,
            fps=self._fps,
            num_latents=statistics.num_latents,
            num_frames=statistics.num_frames,
            latent_bytes=statistics.latent_bytes,
            frame_bytes=statistics.frame_bytes,
            out_bytes=self._sink.num_bytes,
            total_s=total_s,
            first_frame_s=statistics.first_frame_s or 0.0,
            stream_s=statistics.last_frame_s or 0.0,
            timeline=Timeline(
                connect_s=self._connect_s,
                queue_s=self._queue_s,
                open_s=self._open_s,
                wait_frames_s=statistics.wait_frames_s,
                wait_encoder_s=self._wait_encoder_s,
                finish_s=self._finish_s,
                other_s=total_s - spent_s,
            ),
            meanwhile=Meanwhile(
                encode_s=self._encode_s,
                read_latents_s=statistics.produce_s,
                wait_room_s=statistics.wait_room_s,
                send_latents_s=statistics.send_s,
            ),
        )


class _Clock:
    def __init__(self) -> None:
        self._lap_s = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last_s, self._lap_s = self._lap_s, time.perf_counter()
        return self._lap_s - last_s
