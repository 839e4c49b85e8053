"""Every message between server and worker: small typed values over a socketpair, MessagePack-encoded, never payload.

Pure. One datagram (SOCK_SEQPACKET) holds one message; end-of-file tells of the other side's death.
"""

from __future__ import annotations

from typing import Final

import msgspec

from framehaul.formats import LatentDtype, PixelFormat
from framehaul_pipeline.config import MAX_MODELS_BYTES, WorkerConfig
from framehaul_pipeline.spec import DecoderSpec, Geometry

MAX_MESSAGE_BYTES: Final = MAX_MODELS_BYTES + 4096
"""The largest are `Configure` and `Ready`."""


# Server to worker


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """First message; the file descriptors of ring, inlet and heirloom travel with it."""

    epoch: int
    config: WorkerConfig


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a session asks of a worker. Latents and frames are numbered by the clip, wherever the session starts."""

    model: str
    geometry: Geometry
    num_latents: int | None
    """Of the whole clip; None while unknown."""
    dtype: LatentDtype
    normalized: bool
    pixel_format: PixelFormat
    priority: int
    tenant: str = ""
    """On whose behalf; sessions of one tenant share its part of the device."""
    weight: float = 1.0
    """That part, against the weights of other tenants."""
    asked_ns: int = 0
    """When the client first asked, by the monotonic clock; a tenant's earlier requests are served first."""
    first_latent: int = 0
    """The first one that will come."""
    chunks: tuple[int, ...] = ()
    """Sizes of the first chunks, in latents: those of an earlier worker, so that values come out equal."""
    restart_latents: int = 0
    """The decoder is cold again before each latent whose index is a multiple of this; 0: at the clip's start alone."""
    reproducible: bool = False
    """Chunks are as short as the decoder allows, so that no load decides where they are cut."""
    alone_until: int | None = None
    """An earlier worker died at work for this session: nothing else is at work with it until this frame is out."""


class OpenSession(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A new session; `session` numbers are the server's and are never used twice."""

    session: int
    opening: Opening


class LatentReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One latent lies in an inlet slot."""

    session: int
    slot: int
    generation: int
    blank: bool = False
    """It has no values: it follows the clip's last one, see `DecoderSpec.drains`."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A client waits for its session's chunks that begin below this latent, or soon will; for the order of service."""

    session: int
    until_latent: int


class EndOfLatents(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The session has had its last latent."""

    session: int


class CloseSession(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Drop the session and its state; chunks in flight are still published."""

    session: int


class SlotReturned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A frame slot's lease has ended."""

    slot: int
    generation: int


class OpenQuery(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a film is searched for. The pictures, each in all sizes, lie in a sample slot, one after the other.

    There may be none, if there is a text.
    """

    query: int
    """Numbers rise by arrival, and are never used twice."""
    slot: int
    generation: int
    sizes: tuple[int, ...]
    """Of each picture, in pixels: `[size, size, 3] uint8` each."""
    num_pictures: int
    text: str = ""


class EmbedFrames(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The next frames of a query's film lie in a sample slot."""

    query: int
    slot: int
    generation: int
    num_frames: int


class MapFrames(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A run of a film's frames lies in a sample slot: where do people look? The maps take the frames' place there."""

    query: int
    """Needn't have been opened."""
    slot: int
    generation: int
    num_frames: int
    every: int
    """From one map's frames to the next one's."""
    backwards: bool
    """Maps are of the first of their frames, and not of the last."""
    width: int
    """Of a map, as a picture,"""
    height: int
    pixel_format: PixelFormat


class CloseQuery(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Drop a query and what it waits for; one batch may still be at work."""

    query: int


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All sessions of the worker before are open: the device may be used."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Say what you are at: the answer is `Alive`, at once."""


class RecordKernels(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Note for so long which kernels the device runs; the answers are `KernelsBegun`, and `Kernels` to the last one."""

    seconds: float


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Finish what is in flight and exit."""


# Worker to server


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker can take sessions."""

    device: str
    """For people: "cpu (2 threads)", "cuda:0 NVIDIA H100 80GB HBM3"."""
    memory_bytes: int
    """Of the device; 0 when it has none of its own."""
    specs: tuple[DecoderSpec, ...]


class MemoryUsed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sessions' device memory has changed; not sent where it has no limit."""

    used_bytes: int
    total_bytes: int
    num_parked: int
    """Sessions whose state is in host memory alone."""


class DeviceTime(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A chunk is decoded and copied; its session may be closed."""

    session: int
    tenant: str
    num_latents: int
    device_ns: int
    """For which the device was this chunk's own."""
    kernels_ns: int = 0
    """Of it, from the first kernel to the last, by the device's own clock."""
    model: str = ""
    frame_size: tuple[int, int] = (0, 0)
    """Height and width."""
    num_frames: int = 0
    """That it gave."""


class InletReturned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker is done with an inlet slot."""

    slot: int
    generation: int


class ChunkTimes(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's way over the device. Points in time are nanoseconds of the system's monotonic clock; 0: not known."""

    launched_ns: int = 0
    """It was put on the device's streams;"""
    turn_ns: int = 0
    """then the chunk before it was out, and the device was its own;"""
    decoded_ns: int = 0
    """its last kernel ended;"""
    copied_ns: int = 0
    """its frames lay in the slot;"""
    published_ns: int = 0
    """they were checksummed, and the server was told."""
    kernels_ns: int = 0
    """From its first kernel to the last one, by the device's own clock."""
    slot_wait_ns: int = 0
    """Before the launch, for which no frame slot was free."""
    shared: bool = False
    """The device came to it from another session's chunk."""

    @property
    def in_flight_ns(self) -> int:
        """From its launch to the end of its copy."""
        return self.copied_ns - self.launched_ns


class Published(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A chunk's frames lie in a frame slot, copied and checksummed."""

    session: int
    slot: int
    generation: int
    first_latent: int
    """Of `chunks`."""
    chunks: tuple[int, ...]
    """Sizes of the chunks since the last one that was published: this one's, and before it those without frames."""
    first_frame: int
    frame_bytes: int
    crc32c: tuple[int, ...]
    """One for each frame."""
    times: ChunkTimes
    """Of the newest of `chunks`."""

    @property
    def next_latent(self) -> int:
        """The first latent of the next chunk."""
        return self.first_latent + sum(self.chunks)

    @property
    def num_frames(self) -> int:
        """How many frames lie in the slot."""
        return len(self.crc32c)

    @property
    def next_frame(self) -> int:
        """The first frame of the next chunk."""
        return self.first_frame + len(self.crc32c)

    def without_first(self, num_frames: int) -> Published:
        """The same without its first frames."""
        return msgspec.structs.replace(self, first_frame=self.first_frame + num_frames, crc32c=self.crc32c[num_frames:])


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The session's last frame was published."""

    session: int
    num_frames: int


class SessionFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The session can't go on; the worker can."""

    session: int
    reason: str
    overloaded: bool
    """True: for lack of device memory, so that a later try may succeed."""


class KernelsBegun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From now on kernels are noted."""


class Kernels(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Some of the kernels and copies that were noted, by the system's monotonic clock."""

    names: tuple[str, ...]
    rows: tuple[tuple[int, int, int, int], ...]
    """Of each its name's place in `names`, its start and its duration in nanoseconds, and its stream."""
    last: bool
    """No more follow;"""
    left_out: int = 0
    """though there were so many more."""
    error: str | None = None
    """Why there are none."""


class SamplesReturned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker is done with a sample slot."""

    slot: int
    generation: int


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How alike a query's frames are to what is searched for, from frame `first` on, in the order in which they came.

    While few have come, each message has all of them: what they are measured against, their common centre, moves.
    """

    query: int
    first: int
    similarities: tuple[tuple[float, ...], ...]
    """To pictures, to the text; of each kind one number for each frame."""
    places: tuple[tuple[float, ...], ...]
    """Of each frame the middle of its most alike part, from the left and from the top, in 0..1."""
    device_ns: int


class Mapped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Maps lie in the slot of their frames, one after the other, until it is returned."""

    query: int
    slot: int
    num_bytes: int
    device_ns: int


class QueryRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The query can't be answered: what is wrong with what the client gave."""

    query: int
    field: str
    value: str
    allowed: str


class QueryFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The query can't go on; the worker can."""

    query: int
    reason: str
    overloaded: bool
    """For lack of device memory."""


class RunningChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that the device is at; without latents: a session's opening, or its last frames, or a query's batch."""

    session: int
    """Or query."""
    num_latents: int
    busy_ns: int
    """Since the worker turned to it, on the worker's clock."""
    num_samples: int = 0
    """Of a film, in a batch,"""
    mapped: bool = False
    """to be mapped, and not compared."""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `Probe`, from the thread that never waits for the device."""

    oldest: RunningChunk | None
    """None: nothing is on the device."""


Instruction = (
    OpenSession
    | LatentReady
    | Wanted
    | EndOfLatents
    | CloseSession
    | SlotReturned
    | OpenQuery
    | EmbedFrames
    | MapFrames
    | CloseQuery
    | Probe
)
"""To the worker at work; all else is to its process."""
ToWorker = Configure | Instruction | Begin | RecordKernels | Shutdown
ToServer = (
    Ready
    | MemoryUsed
    | DeviceTime
    | InletReturned
    | Published
    | SessionEnded
    | SessionFailed
    | SamplesReturned
    | Embedded
    | Mapped
    | QueryRefused
    | QueryFailed
    | Alive
    | KernelsBegun
    | Kernels
)

encode: Final = msgspec.msgpack.Encoder().encode
decode_to_worker: Final = msgspec.msgpack.Decoder(ToWorker).decode
decode_to_server: Final = msgspec.msgpack.Decoder(ToServer).decode
