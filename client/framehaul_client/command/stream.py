"""`client stream`: a latents file in, a video out; sending, receiving and encoding run side by side."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar

from framehaul import clip
from framehaul.formats import PixelFormat
from framehaul.wire import MAX_PRIORITY
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.arguments import DEFAULT_FPS, Options
from framehaul_client.command.progress import Progress
from framehaul_client.command.report import Meanwhile, Report, Timeline
from framehaul_client.command.trace import traced
from framehaul_client.core.events import OnEvent
from framehaul_client.core.frames import FrameLayout
from framehaul_client.core.info import Model, ServerInfo
from framehaul_client.core.opening import Opened
from framehaul_client.core.parts import cut
from framehaul_client.core.session_config import SCHEME
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import DataLoss, InvalidOption, LatentsFileError, NotFound
from framehaul_client.session import Session
from framehaul_client.sinks.base import Sink
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.encoder import Encoder
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions
from framehaul_client.source.iterators import Latents
from framehaul_client.source.latents_file import LatentsFile, StoredLatents
from framehaul_client.source.latents_pipe import LatentsPipe, open_latents
from framehaul_client.source.tee import Tee

_LOG: Final = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
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

        def fps() -> Fraction:
            return options.fps or latents.fps or DEFAULT_FPS

        video = VideoOptions(
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            encoded_format=options.pix_fmt,
            more=dict(options.encoder_option or ()),
            live=options.live,
            in_parts=options.across is not None,
            audio=None if options.audio is None else Path(options.audio),
            audio_start=Fraction(0) if options.frames is None else options.frames[0] / fps(),
        )
        _check_draft(options)
        try:
            sink = choose_sink(options.out, pixel_format, fps, video, options.container)
            draft_sink = options.draft_out and choose_sink(
                options.draft_out, pixel_format, fps, video, options.container
            )
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        others = {
            "trace": options.trace,
            "frames": options.frames,
            "restart-latents": options.restart_latents,
            "draft": options.draft,
        }
        beside = [f"--{name}" for name, value in others.items() if value is not None]
        if options.across is not None and beside:
            raise InvalidOption(f"across={options.across}: is of a whole clip, and not traced: leave out {beside[0]}")
        kind = _Run if options.across is None else _Across
        run = kind(options, latents, sink, progress)
        with contextlib.ExitStack() as sinks:
            for each in (sink, draft_sink) if draft_sink else (sink,):
                each.prepare()
                sinks.callback(each.abort)  # in case it was never started
            if draft_sink:
                run = _Drafted(options, latents, sink, progress, draft_sink)
            async with traced(options, access) as on_event:
                await run.run(access, on_event)
                return run.report(time.perf_counter() - started_s)


def _check_draft(options: Options) -> None:
    draft, out = options.draft, options.draft_out
    if draft is not None and out is None:
        raise InvalidOption(f"draft={draft}: must come with --draft-out, where its frames go")
    if out is not None and draft is None:
        raise InvalidOption(f"draft-out={out}: must come with --draft, the model that makes it")
    if out is not None and out == options.out:
        raise InvalidOption(f"draft-out={out}: must be another file than --out")


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
        self._source: Latents = latents
        """Gives them to the session."""
        self._is_open = asyncio.Event()
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
        async with self._client(options.target, access) as client:
            part = self._part
            if options.frames is not None:
                part = self._part = part_of(
                    latents, await client.info(), self._model, options.frames, options.restart_latents
                )
            self._timeline.connect_s = clock.lap()
            async with self._session(client, part, on_event) as session:
                self._opened, self._statistics = session.opened, session.statistics
                self._timeline.queue_s = session.statistics.queued_s
                self._timeline.open_s = clock.lap() - self._timeline.queue_s
                self._is_open.set()
                await self._encode(session, on_event)

    def _client(self, target: str, access: Access) -> FrameClient:
        timeout_s = self._options.connect_timeout
        return FrameClient(target, connect_timeout_s=timeout_s, access=access, tune_allocator=True)

    @property
    def _model(self) -> str:
        return self._latents.model if self._options.model is None else self._options.model

    def _session(self, client: FrameClient, part: Part, on_event: OnEvent | None = None) -> Session:
        options, latents = self._options, self._latents
        return client.session(
            self._source,
            model=self._model,
            num_latents=part.num_latents or latents.num_latents,
            num_frames=part.num_frames or latents.num_frames,
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
        )

    async def _encode(self, session: Session, on_event: OnEvent | None) -> None:
        async with self._encoder(session.opened.layout, session.num_frames, on_event) as encoder:
            self._timeline.wait_encoder_s = await self._put(session, encoder)

    @contextlib.asynccontextmanager
    async def _encoder(
        self, layout: FrameLayout, num_frames: int | None, on_event: OnEvent | None = None
    ) -> AsyncIterator[Encoder]:
        """An encoder, which is finished at the end, and aborted after an error."""
        room = self._sink.has_room if isinstance(self._sink, VideoSink) else None
        encoder = Encoder(self._sink, layout, num_frames, room=room, on_event=on_event)
        try:
            self._progress.start(num_frames)
            yield encoder
            clock = _Clock()
            self._progress.finish()
            await encoder.finish()
            self._timeline.finish_s = clock.lap()
        finally:
            await encoder.aclose()
            self._encode_s = encoder.busy_s
            if encoder.kept is not None:
                _LOG.warning("the frames so far are kept in %s", encoder.kept)

    async def _put(self, session: Session, encoder: Encoder) -> float:
        """Hand over all frames; gives how long the encoder made them wait, in seconds."""
        waited_s = 0.0
        async for batch in session.batches():
            clock = _Clock()
            await encoder.put(batch)
            waited_s += clock.lap()
            self._progress.advance(len(batch))
        return waited_s

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


class _Drafted(_Run):
    """One run, and beside it another model's of the same latents, whose frames come first."""

    def __init__(
        self,
        options: Options,
        latents: LatentsFile | LatentsPipe,
        sink: Sink,
        progress: Progress,
        draft_sink: Sink,
    ) -> None:
        super().__init__(options, latents, sink, progress)
        ahead = min(options.priority + 1, MAX_PRIORITY)
        draft = replace(options, model=options.draft, out=options.draft_out or "", priority=ahead)
        self._draft = _Run(draft, latents, draft_sink, Progress())
        self._draft_s = 0.0
        if isinstance(latents, LatentsPipe):
            self._draft._source, self._source = Tee(latents, 2).readers

    async def run(self, access: Access, on_event: OnEvent | None) -> None:
        async with self._client(self._options.target, access) as client:
            _model_of(await client.info(), self._draft._model, "draft")
        await _all([self._run_draft(access), self._run_after(access, on_event)])

    async def _run_draft(self, access: Access) -> None:
        clock = _Clock()
        await self._draft.run(access, None)
        self._draft_s = clock.lap()

    async def _run_after(self, access: Access, on_event: OnEvent | None) -> None:
        """Ask for a session once the draft has its own, so that a full server gives it the first place."""
        clock = _Clock()
        await self._draft._is_open.wait()
        waited_s = clock.lap()
        await super().run(access, on_event)
        self._timeline.queue_s += waited_s

    def report(self, total_s: float) -> Report:
        return replace(super().report(total_s), draft=self._draft.report(self._draft_s))


class _Across(_Run):
    """One run over several sessions, each for a part of the clip."""

    async def run(self, access: Access, on_event: OnEvent | None) -> None:
        clock, latents = _Clock(), self._latents
        if not isinstance(latents, LatentsFile):
            raise InvalidOption(
                f"across={self._options.across}: needs a file of latents, since parts are read side by side"
            )
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client(each, access)) for each in self._targets()]
            self._timeline.connect_s = clock.lap()
            model = _model_of(await clients[0].info(), self._model)
            ends = self._cut(model, latents.num_latents)
            frames = [clip.num_frames(end, model.first_frames, model.temporal_factor) for end in ends]
            frames[-1] = latents.num_frames or frames[-1]
            if isinstance(self._sink, VideoSink):
                self._sink.come_in_parts(frames)
            parts = zip(itertools.cycle(clients), ends, [0, *frames], frames, strict=False)
            sessions = [
                self._session(client, Part(num_latents=end, num_frames=stop, start_frame=start))
                for client, end, start, stop in parts
            ]
            await _all([stack.enter_async_context(session) for session in sessions])
            self._timeline.open_s = clock.lap()
            self._opened = sessions[0].opened
            for session in sessions:
                if session.opened.clip_rule != self._opened.clip_rule:
                    raise DataLoss(
                        f"one server decodes {self._opened.clip_rule}, another one {session.opened.clip_rule}"
                    )
            async with self._encoder(self._opened.layout, frames[-1]) as encoder:
                waited_s = await _all([self._put(session, encoder) for session in sessions])
                self._timeline.wait_encoder_s = sum(waited_s) / len(waited_s)
                gone_s = clock.lap()
            self._statistics = SessionStatistics.of_parts([session.statistics for session in sessions])
            self._statistics.wait_frames_s = gone_s - self._timeline.wait_encoder_s
            self._statistics.num_latents = latents.num_latents

    def _targets(self) -> list[str]:
        """The servers that were named; or the one that knows others."""
        target = self._options.target
        return [target] if SCHEME.match(target) or target.startswith("unix") else target.split(",")

    def _cut(self, model: Model, num_latents: int) -> list[int]:
        across = self._options.across
        assert across is not None, "this run is over several sessions"
        if model.receptive_latents is None or model.lookahead_latents or model.period_latents:
            what = "remembers all latents" if model.receptive_latents is None else "looks ahead, or begins anew"
            raise InvalidOption(f"across={across}: {model.name} {what}: only a whole clip can be decoded with it")
        try:
            return cut(num_latents, across, model.receptive_latents - 1)
        except ValueError as error:
            raise InvalidOption(f"across={across}: {error}") from error


def _model_of(info: ServerInfo, name: str, option: str = "model") -> Model:
    found = next((model for model in info.models if name in ("", model.name)), None)
    if found is None:
        raise NotFound(f"{option}={name}: must be {', '.join(model.name for model in info.models)}")
    return found


async def _all(work: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """Run side by side; the first error ends the others.

    Cancellation: cancels all of them.
    """
    tasks = [asyncio.create_task(each, name="framehaul part") for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Clock:
    def __init__(self) -> None:
        self._lap_s = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last_s, self._lap_s = self._lap_s, time.perf_counter()
        return self._lap_s - last_s
