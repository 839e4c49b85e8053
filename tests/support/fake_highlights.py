"""A highlight service in a few lines, from the generated servicer: it says what it is told to say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import crc32c
import grpc
import numpy as np

from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul.v1.highlights_pb2_grpc import HighlightServiceServicer, add_HighlightServiceServicer_to_server

HEIGHT, WIDTH = 32, 18
"""Of its frames, which are YUV 4:2:0."""


@dataclass
class Answers:
    """What it says, and what it heard."""

    excerpts: list[tuple[float, float]] = field(default_factory=lambda: [(3.5, 5.5)])
    frames_each: int = 0
    abort: tuple[grpc.StatusCode, str] | None = None
    """How it ends the call, as soon as that is opened."""
    instead: list[highlights_pb2.HighlightResponse] | None = None
    """What it says in place of all else, and then ends the call well."""
    weak: bool = False

    opened: highlights_pb2.HighlightOpen | None = None
    uploaded: bytearray = field(default_factory=bytearray)
    ended: bool = False
    acks: list[frames_pb2.Ack] = field(default_factory=list)
    most_ahead: int = 0
    """Most frames that were sent and not acknowledged."""


class _Servicer(HighlightServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    async def Highlight(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        answers = self.answers
        answers.opened = (await context.read()).open
        if answers.abort is not None:
            await context.abort(*answers.abort)
        while not answers.opened.path and not answers.ended:
            request = await context.read()
            answers.uploaded += request.data
            answers.ended = request.end_of_upload
        for response in answers.instead if answers.instead is not None else self.scores():
            await context.write(response)
        if answers.instead is None:
            await self.send_frames(context)

    def scores(self) -> list[highlights_pb2.HighlightResponse]:
        answers = self.answers
        excerpts = [
            highlights_pb2.Excerpt(start=start, end=end, score=3 - number, weak=answers.weak)
            for number, (start, end) in enumerate(answers.excerpts)
        ]
        times = np.arange(0, 10, 0.5)
        height = np.where((times >= excerpts[0].start) & (times < excerpts[0].end), 2.8, -0.3)
        scores = highlights_pb2.Scores(times=times, scores=height, cuts=[3.5], excerpts=excerpts, model="fake")
        progress = highlights_pb2.HighlightProgress(
            uploaded_bytes=len(answers.uploaded), scanned_seconds=4.0, total_seconds=10.0, samples=8, best=excerpts[0]
        )
        return [
            highlights_pb2.HighlightResponse(progress=highlights_pb2.HighlightProgress(uploaded_bytes=1000)),
            highlights_pb2.HighlightResponse(progress=progress),
            highlights_pb2.HighlightResponse(scores=scores),
        ]

    async def send_frames(self, context: Any) -> None:
        answers = self.answers
        assert answers.opened is not None
        sent, room = 0, answers.opened.window_frames
        kinds = [False] * (answers.opened.want == highlights_pb2.WANT_FRAMES) + [True] * answers.opened.saliency
        for start, end in answers.excerpts:
            for saliency in kinds:
                coming = self.coming(sent, highlights_pb2.Excerpt(start=start, end=end))
                coming.saliency = saliency
                await context.write(highlights_pb2.HighlightResponse(excerpt=coming))
                for _ in range(answers.frames_each):
                    while sent >= room:
                        ack = (await context.read()).ack
                        answers.acks.append(ack)
                        room = max(room, ack.next_frame + ack.window_frames)
                    acknowledged = answers.acks[-1].next_frame if answers.acks else 0
                    answers.most_ahead = max(answers.most_ahead, sent + 1 - acknowledged)
                    frame = np.full((HEIGHT * 3 // 2, WIDTH), 16 + sent, np.uint8).tobytes()
                    header = frames_pb2.Frames(first_frame=sent, num_frames=1, crc32c=[crc32c.crc32c(frame)])
                    await context.write(highlights_pb2.HighlightResponse(frames=header, payload=frame))
                    sent += 1
        await context.write(highlights_pb2.HighlightResponse(done=highlights_pb2.HighlightDone(num_frames=sent)))

    def coming(self, first_frame: int, excerpt: highlights_pb2.Excerpt) -> highlights_pb2.ExcerptFrames:
        answers = self.answers
        assert answers.opened is not None
        cropped = answers.frames_each if answers.opened.crop_width else 0
        return highlights_pb2.ExcerptFrames(
            excerpt=excerpt,
            first_frame=first_frame,
            num_frames=answers.frames_each,
            height=HEIGHT,
            width=WIDTH,
            pixel_format=answers.opened.pixel_format,
            rate_numerator=25,
            rate_denominator=1,
            crop_left=[1] * cropped,
            crop_top=[0] * cropped,
        )


@asynccontextmanager
async def fake_highlights(answers: Answers) -> AsyncIterator[str]:
    """Run it in this event loop, and yield its target."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_HighlightServiceServicer_to_server(_Servicer(answers), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
