"""Every message between server and worker: small typed values over a socketpair, MessagePack-encoded, never payload.

Pure. One datagram (SOCK_SEQPACKET) holds one message; end-of-file tells of the other side's death.
"""

from __future__ import annotations

from typing import Final

import msgspec

from framehaul_pipeline.models import Model
from framehaul_pipeline.spec import DecoderSpec, LatentDtype, PixelFormat

MAX_MESSAGE_BYTES: Final = 64 << 10


# Server to worker


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """First message; the ring's and the inlet's file descriptors travel with it."""

    epoch: int
    device: str
    models: tuple[Model, ...]
    num_slots: int
    slot_bytes: int
    num_inlet_slots: int
    inlet_slot_bytes: int
    chunk_latents: int
    warm_up: tuple[tuple[int, int], ...]
    """Widths and heights in pixels to decode once, with each model, before the worker is ready."""


class OpenSession(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A new session; `session` numbers are the server's and are never used twice."""

    session: int
    model: str
    channels: int
    latent_height: int
    latent_width: int
    num_latents: int | None
    dtype: LatentDtype
    normalized: bool
    pixel_format: PixelFormat
    priority: int
    tenant: str = ""
    """On whose behalf; sessions of one tenant share its part of the device."""
    weight: float = 1.0
    """That part, against the weights of other tenants."""


class LatentReady(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One latent lies in an inlet slot."""

    session: int
    slot: int
    generation: int


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


class SessionOpened(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The session has its state."""

    session: int


class InletReturned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker is done with an inlet slot."""

    slot: int
    generation: int


class Published(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A chunk's frames lie in a frame slot, copied and checksummed."""

    session: int
    slot: int
    generation: int
    first_frame: int
    frame_bytes: int
    crc32c: tuple[int, ...]
    """One for each frame; so its length is the number of frames."""
    num_latents: int
    decode_ns: int
    """From the chunk's launch to the end of its copy, on the worker's clock."""


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


ToWorker = Configure | OpenSession | LatentReady | EndOfLatents | CloseSession | SlotReturned | Shutdown
ToServer = Ready | SessionOpened | InletReturned | Published | SessionEnded | SessionFailed

encode: Final = msgspec.msgpack.Encoder().encode
decode_to_worker: Final = msgspec.msgpack.Decoder(ToWorker).decode
decode_to_server: Final = msgspec.msgpack.Decoder(ToServer).decode
