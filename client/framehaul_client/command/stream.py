"""`client stream`: a latents file in, a video out; sending, receiving and encoding run side by side."""

from __future__ import annotations

import logging
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from framehaul import clip
from framehaul.formats import PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.arguments import DEFAULT_FPS, Options
from framehaul_client.command.progress import Progress
from framehaul_client.command.report import Meanwhile, Report, Timeline
from framehaul_client.command.trace import traced
from framehaul_client.core.events import OnEvent
from framehaul_client.core.info import ServerInfo
from framehaul_client.core.opening import Opened
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import InvalidOption, LatentsFileError
from framehaul_client.session import Session
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.encoder import Encoder
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.source.latents_file import LatentsFile, StoredLatents
from framehaul_client.source.latents_pipe import LatentsPipe, open_latents

_LOG: Final = logging.getLogger(__name__)
SAMPLE: Final = Path(__file__).parents[1] / "assets" / "sample.safetensors"


async def stream(options: Options, access: Access, progress: Progress) -> Report:
    """Run the command.

    Raises:
        FramehaulError: it failed; the class tells where. A kept part of the output is named in the log.

    Cancellation: cancels the session; the frames so far are kept, as after an error.
    """
    started_s = time.perf_counter()
    if options.latents is None and not SAMPLE.exists():
        raise LatentsFileError(f"{SAMPLE}: the sample clip is missing from this installation: name a latents file")
    with await open_latents(options.latents or SAMPLE, options.tensor, layout=options.layout) as latents:
        pixel_format = None if options.format is None else PixelFormat(options.format)
        video = VideoOptions(
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            encoded_format=options.pix_fmt,
            more=dict(options.encoder_option or ()),
            live=options.live,
        )
        try:
            sink = choose_sink(
                options.out, pixel_format, lambda: options.fps or latents.fps or DEFAULT_FPS, video, options.container
            )
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        sink.prepare()
        run = _Run(options, latents, sink, progress)
        try:
            async with traced(options, access) as on_event:
                await run.run(access, on_event)
                report = run.report(time.perf_counter() - started_s)
        finally:
            sink.abort()  # in case it was never started
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a clip is decoded: latents and frames are counted from its start; None: to its end."""

    num_latents: int | None
    num_frames: int | None
    start_frame: int


WHOLE: Final = Part(num_latents=None, num_frames=None, start_frame=0)


def part_of(
    latents: StoredLatents, info: ServerInfo, model: str, frames: tuple[int, int], restart_latents: int | None = None
) -> Part:
    """The part that `frames`, the first and the last one, need.

    Args:
        latents: of the clip.
        info: says how the server's models make frames of latents.
        model: the decoder's name; empty for the server's default.
        frames: of the clip.
        restart_latents: after how many the decoder is cold again, if that was asked for.

    Raises:
        InvalidOption: the clip ends before them.
    """
    rule = next((each for each in info.models if model in ("", each.name)), None)
    if rule is None:
        return WHOLE  # which the server refuses, and says what it has
    start_frame, last = frames
    counted = rule.first_frames, rule.temporal_factor, restart_latents or rule.period_latents
    in_all = clip.num_frames(latents.num_latents, *counted)
    num_frames = min(in_all, latents.num_frames or in_all)
    if last >= num_frames:
        raise InvalidOption(f"frames={start_frame}-{last}: must be within 0-{num_frames - 1}, the clip's frames")
    needed = clip.latents_whole(last, *counted) + 1 + rule.lookahead_latents
    return Part(num_latents=min(needed, latents.num_latents), num_frames=last + 1, start_frame=start_frame)


class _Run:
    """One run, from the connection to the finished file."""

    def __init__(self, options: Options, latents: LatentsFile | LatentsPipe, sink: Sink, progress: Progress) -> None:
        self._options = options
        self._latents = latents
        self._sink = sink
        self._progress = progress
        self._timeline = Timeline()
        self._part = WHOLE
        self._encode_s = 0.0
        self._opened: Opened
        self._statistics: SessionStatistics

    async def run(self, access: Access, on_event: OnEvent | None) -> None:
        clock = _Clock()
        options, latents = self._options, self._latents
        model = latents.model if options.model is None else options.model
        client = FrameClient(
            options.target, connect_timeout_s=options.connect_timeout, access=access, tune_allocator=True
        )
        async with client:
            part = self._part
            if options.frames is not None:
                part = self._part = part_of(
                    latents, await client.info(), model, options.frames, options.restart_latents
                )
            self._timeline.connect_s = clock.lap()
            async with client.session(
                latents,
                model=model,
                num_latents=part.num_latents,
                num_frames=part.num_frames,
                start_frame=part.start_frame,
                pixel_format=self._sink.pixel_format,
                dtype=latents.latents.dtype,
                normalized=latents.normalized if options.normalized is None else options.normalized,
                restart_latents=options.restart_latents,
                reproducible=options.reproducible,
                priority=options.priority,
                retry_for_s=options.retry_for,
                stall_timeout_s=options.stall_timeout,
                on_queued=self._progress.queue,
                on_event=on_event,
            ) as session:
                self._opened, self._statistics = session.opened, session.statistics
                self._timeline.queue_s = session.statistics.queued_s
                self._timeline.open_s = clock.lap() - self._timeline.queue_s
                await self._encode(session, on_event)

    async def _encode(self, session: Session, on_event: OnEvent | None) -> None:
        encoder = Encoder(self._sink, session.opened.layout, session.num_frames, on_event=on_event)
        try:
            self._progress.start(session.num_frames)
            async for batch in session.batches():
                clock = _Clock()
                await encoder.put(batch)
                self._timeline.wait_encoder_s += clock.lap()
                self._progress.advance(len(batch))
            clock = _Clock()
            self._progress.finish()
            await encoder.finish()
            self._timeline.finish_s = clock.lap()
        finally:
            await encoder.aclose()
            self._encode_s = encoder.busy_s
            if encoder.kept is not None:
                _LOG.warning("the frames so far are kept in %s", encoder.kept)

    def report(self, total_s: float) -> Report:
        opened, statistics, timeline = self._opened, self._statistics, self._timeline
        timeline.wait_frames_s = statistics.wait_frames_s
        timeline.other_s = total_s - sum(astuple(timeline))
        return Report(
            out=self._options.out,
            target=self._options.target,
            model=opened.model,
            pixel_format=opened.layout.pixel_format.value,
            width=opened.layout.width,
            height=opened.layout.height,
            fps=self._sink.fps,
            num_latents=statistics.num_latents - opened.first_latent_needed(self._part.start_frame),
            num_frames=statistics.num_frames,
            latent_bytes=statistics.latent_bytes,
            frame_bytes=statistics.frame_bytes,
            out_bytes=self._sink.num_bytes,
            total_s=total_s,
            first_frame_s=statistics.first_frame_s or 0.0,
            stream_s=statistics.last_frame_s or 0.0,
            timeline=timeline,
            meanwhile=Meanwhile(
                encode_s=self._encode_s,
                read_latents_s=statistics.produce_s,
                wait_room_s=statistics.wait_room_s,
                send_latents_s=statistics.send_s,
            ),
            server_s=statistics.server_s,
            faster=self._sink.faster,
        )


class _Clock:
    def __init__(self) -> None:
        self._lap_s = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last_s, self._lap_s = self._lap_s, time.perf_counter()
        return self._lap_s - last_s
