"""A frame server in a few lines, from the generated servicer: what a third party would write, and how it could err.

Each latent `[4, h, w]` gives `first_frames` or `temporal_factor` frames of 8 times its size, filled with values that
depend on the latent and on the frame's index.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import crc32c
import grpc
import numpy as np

from framehaul.v1 import frames_pb2 as pb
from framehaul.v1.frames_pb2_grpc import FrameServiceServicer, add_FrameServiceServicer_to_server
from tests.support.clips import make_clip

FIRST_FRAMES, TEMPORAL_FACTOR, SPATIAL_FACTOR = 1, 4, 8
CHANNELS = 4
SESSION_ID = b"0123456789abcdef01234567"
RGB_SHAPE, YUV_SHAPE = (16, 32, 3), (24, 32)
"""Of the frames that `make_latents` gives."""
Abort = tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]
Edit = Callable[[int, pb.StreamResponse], pb.StreamResponse | None]
"""Gets the number of a response and may change it; None swallows it."""


@dataclass
class Behaviour:
    """How the server behaves, and what it saw."""

    budget: int = 3
    """Latents that may wait in the server."""
    max_window_frames: int = 32
    frames_to_a_message: int = 3
    queue: list[list[int | Abort]] = field(default_factory=list)
    """For each call, the positions that it is told before it is opened, or how it ends instead."""
    let_in: asyncio.Event = field(default_factory=asyncio.Event)
    """A session that was queued is opened when this is set."""
    refuse_open: Abort | None = None
    refuse_resume: Abort | None = None
    fail_after_latents: tuple[int, Abort] | None = None
    refuse_nan: bool = True
    edit: Edit | None = None
    extra: list[pb.StreamResponse] = field(default_factory=list)
    """Sent right after Opened."""
    stop_after_frames: int | None = None
    """Sends no more frames than these, and waits for the client's end."""
    chatter: Callable[[int], pb.StreamResponse] | None = None
    """What it sends then, over and over; it gets their number."""
    end_after_frames: int | None = None
    """Ends the call, with OK, after these."""
    wait_for_all_acks: bool = False
    """Sends Done only when every frame is acknowledged."""

    # What it saw; of several sessions, the latest.
    opens: list[pb.Open] = field(default_factory=list)
    num_first_bytes: int = 0
    """Latents in the newest call's first message."""
    latents: list[np.ndarray[Any, Any]] = field(default_factory=list)
    acks: list[pb.Ack] = field(default_factory=list)
    num_sent: int = 0
    max_ahead: int = 0
    """Most latents that had arrived beyond those decoded."""
    min_room: int = 1 << 30
    """Least room for frames that was left in the window."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    all_acked: asyncio.Event = field(default_factory=asyncio.Event)
    """Everything up to `stop_after_frames` is acknowledged."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The handler came to its end, however that was."""
    left_early: bool = False


def frame_values(latent: np.ndarray[Any, Any], index: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The frame `index` of a clip, made from `latent`."""
    seed = crc32c.crc32c(latent.tobytes()) + index
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make_latents(num_latents: int = 6) -> np.ndarray[Any, Any]:
    """Noise that it takes."""
    return make_clip(num_latents, channels=CHANNELS, height=2, width=4, seed=3)


def expected_frames(latents: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """All frames of a clip `[T, C, h, w]`."""
    frames: list[np.ndarray[Any, Any]] = []
    for position, latent in enumerate(latents):
        for _ in range(FIRST_FRAMES if position == 0 else TEMPORAL_FACTOR):
            frames.append(frame_values(latent, len(frames), shape))
    return np.stack(frames)


class FakeServicer(FrameServiceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        session = _Session(self.behaviour, context)
        try:
            await session.run()
        except BaseException:
            self.behaviour.left_early = True
            raise
        finally:
            self.behaviour.left.set()

    async def Render(self, request: pb.RenderRequest, context: Any) -> None:  # type: ignore[override]
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this server")

    async def Trace(self, request: pb.TraceRequest, context: Any) -> None:  # type: ignore[override]
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "as of a server that is older than this call")

    async def Locate(self, request: pb.LocateRequest, context: Any) -> pb.LocateResponse:
        return pb.LocateResponse(target=f"there/{request.model}", epoch=7, lease_ms=1500)

    async def GetServerInfo(self, request: Any, context: Any) -> pb.ServerInfo:
        return pb.ServerInfo(
            version="1.2",
            device="fake",
            models=[pb.ModelInfo(name="fake", channels=CHANNELS, exactness=pb.EXACTNESS_FULL)],
            pixel_formats=[pb.PIXEL_FORMAT_RGB24, pb.PIXEL_FORMAT_YUV420P],
            dtypes=[pb.DATA_TYPE_FLOAT16],
        )


class _Session:
    def __init__(self, behaviour: Behaviour, context: Any) -> None:
        self._behaviour = behaviour
        self._context = context
        self._changed = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._until = 0
        self._num_responses = 0
        self._failure: Abort | None = None
        self._latents: list[np.ndarray[Any, Any]] = []
        self._ended = False
        self._num_sent = 0
        behaviour.latents = self._latents

    async def run(self) -> None:
        behaviour = self._behaviour
        first = await self._context.read()
        behaviour.opens.append(first.open)
        behaviour.num_first_bytes = len(first.latents)
        if behaviour.refuse_open is not None:
            await self._context.abort(*behaviour.refuse_open)
        if behaviour.refuse_resume is not None and first.open.resume.session_id:
            await self._context.abort(*behaviour.refuse_resume)
        if behaviour.queue:
            await self._queue(behaviour.queue.pop(0))
        opened = self._open(first.open)
        self._take_latents(first)
        await self._send(pb.StreamResponse(opened=opened, latents_until=behaviour.budget))
        behaviour.opened.set()
        for response in behaviour.extra:
            await self._send(response)
        tasks = [asyncio.create_task(work) for work in (self._read(), self._decode(), self._cancelled.wait())]
        try:
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
            if self._cancelled.is_set():
                await self._context.abort(grpc.StatusCode.CANCELLED, "cancelled by the client")
            await tasks[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _queue(self, places: list[int | Abort]) -> None:
        for place in places:
            if isinstance(place, int):
                await self._send(pb.StreamResponse(queued=pb.Queued(position=place)))
            else:
                await self._context.abort(*place)
        await self._behaviour.let_in.wait()

    def _open(self, message: pb.Open) -> pb.Opened:
        height, width = message.geometry.height * SPATIAL_FACTOR, message.geometry.width * SPATIAL_FACTOR
        rgb = message.pixel_format == pb.PIXEL_FORMAT_RGB24
        self._shape = (height, width, 3) if rgb else (height * 3 // 2, width)
        self._dtype = {1: np.float16, 2: np.uint16, 3: np.float32}[message.dtype]
        self._latent_shape = (message.geometry.channels, message.geometry.height, message.geometry.width)
        self._until = min(max(message.window_frames, TEMPORAL_FACTOR), self._behaviour.max_window_frames)
        return pb.Opened(
            session_id=SESSION_ID,
            model=message.model or "fake",
            height=height,
            width=width,
            pixel_format=message.pixel_format,
            frame_bytes=int(np.prod(self._shape)),
            min_window_frames=TEMPORAL_FACTOR,
            max_window_frames=self._behaviour.max_window_frames,
            first_frames=FIRST_FRAMES,
            temporal_factor=TEMPORAL_FACTOR,
        )

    async def _read(self) -> None:
        behaviour = self._behaviour
        while (request := await self._context.read()) is not grpc.aio.EOF:
            if request.cancel:
                self._cancelled.set()
            if request.HasField("ack"):
                behaviour.acks.append(request.ack)
                if request.ack.next_frame == behaviour.stop_after_frames:
                    behaviour.all_acked.set()
                self._until = max(self._until, request.ack.next_frame + request.ack.window_frames)
            self._take_latents(request)
            if request.end_of_latents:
                self._ended = True
            self._changed.set()

    def _take_latents(self, request: pb.StreamRequest) -> None:
        if not request.latents:
            return
        assert request.index == len(self._latents)
        assert request.crc32c == crc32c.crc32c(request.latents)
        block = np.frombuffer(request.latents, self._dtype).reshape(-1, *self._latent_shape)
        assert len(block) == request.num_latents
        self._latents.extend(block)
        if self._behaviour.refuse_nan and self._dtype != np.uint16 and np.isnan(block).any():
            self._failure = (grpc.StatusCode.INVALID_ARGUMENT, "latents: NaN: must be finite", ())

    async def _decode(self) -> None:
        behaviour = self._behaviour
        num_decoded = 0
        while True:
            await self._wait(partial(self._has_input, num_decoded))
            behaviour.max_ahead = max(behaviour.max_ahead, len(self._latents) - num_decoded)
            if num_decoded == len(self._latents):
                break
            if behaviour.fail_after_latents is not None and num_decoded == behaviour.fail_after_latents[0]:
                await self._context.abort(*behaviour.fail_after_latents[1])
            num_frames = FIRST_FRAMES if num_decoded == 0 else TEMPORAL_FACTOR
            # Like a decoder, it needs room for all frames of a latent before it starts.
            await self._wait(partial(self._has_room, num_frames))
            await self._send_frames(self._latents[num_decoded], num_frames)
            if self._num_sent == behaviour.end_after_frames:
                return
            num_decoded += 1
            await self._send(pb.StreamResponse(latents_until=num_decoded + behaviour.budget))
        if behaviour.wait_for_all_acks:
            await self._wait(lambda: bool(behaviour.acks) and behaviour.acks[-1].next_frame == self._num_sent)
        done = pb.Done(num_frames=self._num_sent, num_latents=num_decoded)
        await self._send(pb.StreamResponse(done=done))

    async def _stay(self) -> None:
        chatter = self._behaviour.chatter
        for number in count():
            await (asyncio.Event().wait() if chatter is None else self._send(chatter(number)))
            await asyncio.sleep(0.01)

    def _has_input(self, num_decoded: int) -> bool:
        return self._ended or len(self._latents) > num_decoded

    def _has_room(self, num_frames: int) -> bool:
        return self._until - self._num_sent >= num_frames

    async def _send_frames(self, latent: np.ndarray[Any, Any], num_frames: int) -> None:
        behaviour = self._behaviour
        frames = [frame_values(latent, self._num_sent + offset, self._shape).tobytes() for offset in range(num_frames)]
        for start in range(0, num_frames, behaviour.frames_to_a_message):
            part = frames[start : start + behaviour.frames_to_a_message]
            if behaviour.stop_after_frames is not None and self._num_sent + len(part) > behaviour.stop_after_frames:
                behaviour.stopped.set()
                await self._stay()
            header = pb.Frames(
                first_frame=self._num_sent, num_frames=len(part), crc32c=[crc32c.crc32c(frame) for frame in part]
            )
            self._num_sent += len(part)
            behaviour.num_sent = self._num_sent
            behaviour.min_room = min(behaviour.min_room, self._until - self._num_sent)
            await self._send(pb.StreamResponse(frames=header, payload=b"".join(part)))

    async def _send(self, response: pb.StreamResponse) -> None:
        if self._behaviour.edit is not None:
            edited = self._behaviour.edit(self._num_responses, response)
            self._num_responses += 1
            if edited is None:
                return
            response = edited
        await self._context.write(response)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while self._failure is not None or not ready():
            if self._failure is not None:
                await self._context.abort(*self._failure)
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def fake_server(behaviour: Behaviour, *, port: int = 0) -> AsyncIterator[str]:
    """Run a server in this event loop, and yield its target."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_FrameServiceServicer_to_server(FakeServicer(behaviour), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def _serve() -> None:
    """Serve in a process of its own: prints the address, then a line at the end of each session.

    With an argument: refuses the latents after so many.
    """
    behaviour = Behaviour(budget=100)
    if len(sys.argv) > 1:
        behaviour.fail_after_latents = (int(sys.argv[1]), (grpc.StatusCode.INVALID_ARGUMENT, "latents: NaN", ()))
    async with fake_server(behaviour) as target:
        sys.stdout.write(f"{target}\n")
        while True:
            sys.stdout.flush()
            await behaviour.left.wait()
            behaviour.left.clear()
            sys.stdout.write("left\n")


if __name__ == "__main__":
    asyncio.run(_serve())
