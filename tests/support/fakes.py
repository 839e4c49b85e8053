"""Stand-ins for the worker and for gRPC's context, driven by the test or by themselves."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Never, cast

import grpc
import msgspec

from framehaul import wire
from framehaul.formats import LatentDtype, PixelFormat
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import PipelineError, Unavailable, WorkerRestarting
from framehaul_pipeline.link.messages import ChunkTimes, Kernels, Opening, Published
from framehaul_pipeline.spec import DecoderSpec, Exactness, Geometry
from framehaul_pipeline.supervision.epoch import SessionEvents
from framehaul_server.core.limits import SessionRules
from framehaul_server.core.open_request import OpenRules
from framehaul_server.core.tenants import EVERYONE, Caller
from framehaul_server.logs import SessionRecord
from framehaul_server.rpc.connection import Context
from framehaul_server.rpc.status import Trailers
from framehaul_server.session.connection import Request

SPEC = DecoderSpec(
    name="toy",
    channels=2,
    spatial_factor=2,
    temporal_factor=4,
    first_frames=4,
    lookahead_latents=0,
    exactness=Exactness.FULL,
    receptive_latents=None,
    state_bytes_per_pixel=1.0,
)
FINITE = msgspec.structs.replace(SPEC, receptive_latents=3)
PICTURE_FIRST = msgspec.structs.replace(FINITE, first_frames=1)
NO_TIMES = ChunkTimes()
ANYBODY = Caller(tenant=EVERYONE)
GEOMETRY = Geometry(channels=2, height=4, width=6)
LATENT_BYTES = GEOMETRY.latent_bytes(LatentDtype.FLOAT16)
FRAME_BYTES = PixelFormat.RGB24.frame_bytes(*GEOMETRY.frame_size(SPEC))


def rules(
    *,
    spec: DecoderSpec = SPEC,
    window_bytes: int = 1 << 20,
    latent_bytes: int = 1 << 20,
    journal_bytes: int = 1 << 20,
    max_request_bytes: int = 1 << 20,
    allow_synthetic: bool = True,
    stall_timeout_s: float = 600.0,
    resume_window_s: float = 30.0,
) -> SessionRules:
    return SessionRules(
        opening=OpenRules(specs=(spec,), max_pixels=1 << 16, allow_synthetic=allow_synthetic),
        window_bytes=window_bytes,
        latent_bytes=latent_bytes,
        journal_bytes=journal_bytes,
        max_request_bytes=max_request_bytes,
        chunk_latents=4,
        stall_timeout_s=stall_timeout_s,
        resume_window_s=resume_window_s,
    )


def opening(**changes: object) -> pb.Open:
    """A correct `Open` for `SPEC`, with some fields changed."""
    fields: dict[str, object] = {
        "model": "toy",
        "geometry": pb.LatentGeometry(channels=2, height=4, width=6),
        "dtype": pb.DATA_TYPE_FLOAT16,
    }
    return pb.Open(**{**fields, **changes})  # type: ignore[arg-type]


def request(payload: bytes = b"", **fields: object) -> Request:
    return Envelope(pb.StreamRequest(**fields), memoryview(payload))  # type: ignore[arg-type]


def latents(count: int) -> bytes:
    return bytes(count * LATENT_BYTES)


def frame(index: int, num_bytes: int = FRAME_BYTES) -> bytes:
    """What the fake worker makes of frame `index`."""
    return bytes([index % 251]) * num_bytes


def published(
    first_frame: int,
    num_frames: int,
    frame_bytes: int = FRAME_BYTES,
    *,
    first_latent: int = 0,
    chunks: tuple[int, ...] = (1,),
    first_checksum: int = 100,
    times: ChunkTimes = NO_TIMES,
) -> Published:
    """A chunk that gave these frames."""
    return Published(
        session=1,
        slot=0,
        generation=1,
        first_latent=first_latent,
        chunks=chunks,
        first_frame=first_frame,
        frame_bytes=frame_bytes,
        crc32c=tuple(range(first_checksum, first_checksum + num_frames)),
        times=times,
    )


def record() -> SessionRecord:
    return SessionRecord(request_id="id", peer="ipv4:127.0.0.1:1", method="Stream")


class FakeHandle:
    """One session's worker side: decodes what it may, at the loop's next turn, or when told with `advance`."""

    def __init__(self, spec: DecoderSpec, opening: Opening, events: SessionEvents, *, automatic: bool) -> None:
        self.spec = spec
        self.frame_bytes = opening.pixel_format.frame_bytes(*opening.geometry.frame_size(spec))
        self.events = events
        self.automatic = automatic
        self.waiting: deque[memoryview] = deque()
        self.pushed: list[bytes] = []
        self.num_fed = opening.first_latent
        self.num_allowed = 0
        self.num_wanted = 0
        self.num_published = spec.num_frames(opening.first_latent)
        self.num_pushed_most = 0
        self.ended = False
        self.told_end = False
        self.tells_end = True
        self.first_checksum = 100
        self.closed = False
        self.released: list[int] = []

    def send_latent(self, latent: memoryview) -> None:
        assert not self.ended
        self.waiting.append(latent)
        self.pushed.append(bytes(latent))
        self.num_pushed_most = max(self.num_pushed_most, len(self.waiting))
        self._wake()

    def allow(self, num_latents: int, *, num_wanted: int) -> None:
        self.num_wanted = num_wanted
        self.num_allowed = max(self.num_allowed, num_latents)
        self._wake()

    def end_latents(self) -> None:
        assert not self.ended
        self.ended = True
        self._wake()

    def drop(self) -> None:
        self.closed = True
        self.waiting.clear()

    def _wake(self) -> None:
        if self.automatic:
            asyncio.get_running_loop().call_soon(self.advance)

    def advance(self) -> None:
        """Do all that may be done now."""
        while self.waiting and self.num_fed < self.num_allowed and not self.closed:
            self.waiting.popleft()
            self.num_fed += 1
            self.events.on_fed(self.num_fed)
            self._publish(self.spec.frames_after(self.num_fed, ended=False), size=1)
        if self.ended and not self.waiting and not self.told_end and not self.closed:
            self.told_end = True
            self._publish(self.spec.frames_after(self.num_fed, ended=True), size=0)
            if not self.tells_end:
                return
            self.events.on_ended(self.num_published)

    def _publish(self, until: int, size: int) -> None:
        if until > self.num_published and not self.closed:
            first, self.num_published = self.num_published, until
            slot = bytearray().join(frame(index, self.frame_bytes) for index in range(first, until))
            chunk = published(
                first,
                until - first,
                self.frame_bytes,
                first_checksum=self.first_checksum,
                first_latent=self.num_fed - size,
                chunks=(size,),
            )
            with memoryview(slot).toreadonly() as frames:
                self.events.on_published(chunk, frames)
            slot.clear()  # a BufferError if anybody could still read it
            self.released.append(first)


class FakeWorker:
    """Opens `FakeHandle`s."""

    def __init__(self, spec: DecoderSpec = SPEC, *, automatic: bool = True) -> None:
        self.specs: tuple[DecoderSpec, ...] = (spec,)
        self.automatic = automatic
        self.available = True
        self.handles: list[FakeHandle] = []
        self.restarting = False
        self.opened: list[Opening] = []
        self.first_checksum = 100
        self.kernels: list[Kernels] | None = None

    def open_session(self, opening: Opening, events: SessionEvents) -> FakeHandle:
        if self.restarting:
            raise WorkerRestarting("the worker is restarting; try again")
        if not self.available:
            raise Unavailable("the worker is failed; try again")
        self.opened.append(opening)
        handle = FakeHandle(self.specs[0], opening, events, automatic=self.automatic)
        handle.first_checksum = self.first_checksum
        self.handles.append(handle)
        return handle

    async def record_kernels(self, seconds: float, begun: Callable[[], None]) -> list[Kernels]:
        if self.kernels is None:
            raise Unavailable("the worker can't record kernels")
        begun()
        await asyncio.sleep(seconds)
        return self.kernels

    def die(self, error: PipelineError) -> None:
        for handle in [handle for handle in self.handles if not handle.closed]:
            handle.closed = True
            handle.events.on_failed(error)


class Received:
    """What a client is sent, for the test to look at and to hold up."""

    def __init__(self) -> None:
        self.responses: list[Envelope[pb.StreamResponse]] = []
        self.raw: list[bytes] = []
        self.headers_sent = False
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.written = asyncio.Condition()
        self.write_error: Exception | None = None

    async def write(self, message: bytes) -> None:
        assert self.headers_sent
        assert type(message) is bytes
        await self.open_gate.wait()
        if self.write_error is not None:
            raise self.write_error
        async with self.written:
            self.raw.append(message)
            self.responses.append(wire.split_response(message))
            self.written.notify_all()

    async def responded(self, count: int) -> None:
        """Wait until `count` responses were written."""
        async with self.written:
            await self.written.wait_for(lambda: len(self.responses) >= count)

    def frames(self) -> list[bytes]:
        """Every frame written, checked to be consecutive from 0."""
        found: list[bytes] = []
        for response in self.responses:
            frames = response.header.frames
            if frames.num_frames:
                assert frames.first_frame == len(found)
                assert len(frames.crc32c) == frames.num_frames
                size = len(response.payload) // frames.num_frames
                found += [bytes(response.payload[i * size : (i + 1) * size]) for i in range(frames.num_frames)]
        return found

    def done(self) -> pb.Done:
        """The last response's counts."""
        done = self.responses[-1].header.done
        return pb.Done(num_frames=done.num_frames, num_latents=done.num_latents)


class FakeConnection(Received):
    """A session's connection: the test puts requests in, None ends them, and takes responses out."""

    def __init__(self, *given: Request | None) -> None:
        super().__init__()
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()
        for each in given:
            self.send(each)

    def send(self, given: Request | None) -> None:
        self.requests.put_nowait(given)

    async def read(self) -> Request | None:
        return await self.requests.get()

    async def send_headers(self) -> None:
        self.headers_sent = True


class Aborted(grpc.aio.AbortError):
    """What the fake context's `abort` raises, like the real one's."""


class FakeContext(Received):
    """A `ServicerContext`: the test puts requests in and takes responses out."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.connection = "ipv4:127.0.0.1:1"
        self.requests: asyncio.Queue[bytes | object] = asyncio.Queue()
        self.num_reads = 0
        self.aborting = asyncio.Event()
        self.status_gate = asyncio.Event()
        """Set unless the test keeps the client from reading its status."""
        self.status_gate.set()
        self.aborted: tuple[grpc.StatusCode, str, Trailers] | None = None

    def send(self, envelope: Request) -> None:
        self.requests.put_nowait(wire.join(envelope.header, (envelope.payload,)))

    def half_close(self) -> None:
        self.requests.put_nowait(grpc.aio.EOF)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def peer(self) -> str:
        return self.connection

    async def read(self) -> object:
        self.num_reads += 1
        return await self.requests.get()

    async def send_initial_metadata(self, initial_metadata: tuple[tuple[str, str], ...]) -> None:
        assert not self.headers_sent
        self.headers_sent = True

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()) -> Never:
        self.aborted = (code, details, trailing_metadata)
        self.aborting.set()
        await self.status_gate.wait()
        raise Aborted("aborted")


def as_context(context: object) -> Context:
    """For gRPC's side of the server."""
    return cast(Context, context)
