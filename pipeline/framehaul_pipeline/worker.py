"""The worker's logic: takes latents from the inlet, decodes them in chunks and publishes frames in ring slots.

Four threads call it (`entry`), each by one method. *Control* applies the server's messages. *Launch* takes jobs and
puts chunks on the device; it waits for latents, a free slot and fewer than two chunks in flight, and for nothing else.
*Completion* waits for copies in order. *Checksum* stamps and publishes. The shared state has one lock, which is never
held while the device works.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import crc32c
import torch

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.launch import InFlight, Launcher, Place
from framehaul_pipeline.messages import (
    CloseSession,
    EndOfLatents,
    InletReturned,
    LatentReady,
    OpenSession,
    Published,
    SessionEnded,
    SessionFailed,
    SessionOpened,
    SlotReturned,
    ToServer,
)
from framehaul_pipeline.ring import Ring, SlotHeader
from framehaul_pipeline.scheduler import Chunk, InletSlot, Scheduler, max_chunk_latents
from framehaul_pipeline.slots import SlotTable
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_pipeline.streams import Device

MAX_IN_FLIGHT: Final = 2
"""One chunk on the compute stream while the one before it is copied."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Make a session's state on the device."""

    request: OpenSession


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Launch a chunk into a slot."""

    chunk: Chunk
    place: Place
    slot: int
    generation: int


class Worker:
    """Sessions, slots and chunks of one device."""

    def __init__(
        self,
        device: Device,
        ring: Ring,
        inlet: Ring,
        decoders: Mapping[str, Decoder],
        *,
        chunk_latents: int,
        send: Callable[[ToServer], None],
    ) -> None:
        """Use `decoders` by name on `device`; `send` takes messages to the server and may be called by any thread."""
        self._device = device
        self._ring = ring
        self._decoders = decoders
        self._chunk_latents = chunk_latents
        self._send = send
        self._launcher = Launcher(device, ring, inlet, chunk_latents=chunk_latents)
        self._changed = threading.Condition()
        # All below are guarded by `_changed`.
        self._scheduler = Scheduler()
        self._slots = SlotTable(ring.num_slots)
        self._opening: deque[OpenJob] = deque()
        self._places: dict[int, Place] = {}
        self._num_in_flight = 0
        self._completed_ns = 0
        """When the newest completed chunk was."""
        self._stopping = False

    def before_serving(self, work: Callable[[], None]) -> None:
        """Run `work` where decoding runs; on the launch thread, before it takes jobs."""
        self._launcher.run_on_compute_stream(work)

    # Control thread

    def apply(self, message: OpenSession | LatentReady | EndOfLatents | CloseSession | SlotReturned) -> None:
        """Apply one message of the server.

        Raises:
            SlotError: the server named a slot that it doesn't hold.
        """
        with self._changed:
            match message:
                case OpenSession():
                    decoder = self._decoders[message.model]
                    self._scheduler.open(
                        message.session,
                        priority=message.priority,
                        spec=decoder.spec,
                        rule=partial(_next_chunk, decoder),
                        max_latents=self._max_latents(message, decoder.spec),
                        tenant=message.tenant,
                        weight=message.weight,
                    )
                    self._opening.append(OpenJob(message))
                case LatentReady():
                    latent = InletSlot(message.slot, message.generation)
                    if not self._scheduler.add_latent(message.session, latent):
                        self._return_inlet([latent])
                case EndOfLatents():
                    self._scheduler.end(message.session)
                case CloseSession():
                    self._return_inlet(self._scheduler.close(message.session))
                    self._places.pop(message.session, None)
                case SlotReturned():
                    self._slots.give_back(message.slot, message.generation)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the launch thread end once it has nothing in flight; sessions are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # Launch thread

    def next_job(self, *, wait: bool) -> OpenJob | ChunkJob | None:
        """Take the next thing to do on the device.

        Args:
            wait: block until there is something; None then means that the worker stops.
        """
        with self._changed:
            while not self._stopping:
                if self._opening:
                    return self._opening.popleft()
                if self._num_in_flight < MAX_IN_FLIGHT and self._slots.num_free:
                    chunk = self._scheduler.pick()
                    if chunk is not None:
                        slot, generation = self._slots.acquire()
                        self._num_in_flight += 1
                        return ChunkJob(chunk, self._places[chunk.session], slot, generation)
                if not wait:
                    return None
                self._changed.wait()
        return None

    def run(self, job: OpenJob | ChunkJob) -> InFlight | None:
        """Do a job without waiting for the device; a chunk that was launched must go to `complete`.

        Raises:
            RuntimeError: the device no longer works.
        """
        try:
            if isinstance(job, OpenJob):
                self._open(job.request)
                return None
            return self._launcher.launch(job.chunk, job.place, job.slot, job.generation)
        except Exception as error:
            self._fail(job, error)
            return None

    def drain(self) -> None:
        """Wait for the device and let go of the rings; after `stop`, when the other threads are done."""
        self._launcher.close()

    # Completion thread

    def complete(self, flight: InFlight) -> None:
        """Wait until a chunk's frames lie in its slot; chunks complete in the order they were launched.

        Raises:
            RuntimeError: the device failed.
        """
        flight.copied.synchronize()
        completed_ns = time.monotonic_ns()
        with self._changed:
            self._num_in_flight -= 1
            # Chunks overlap: the device is a chunk's own only once the one before is out.
            self._scheduler.charge(flight.chunk, completed_ns - max(flight.launched_ns, self._completed_ns))
            self._completed_ns = completed_ns
            self._changed.notify_all()
        self._return_inlet(flight.chunk.latents)

    # Checksum thread

    def publish(self, flight: InFlight) -> None:
        """Checksum a completed chunk's frames, stamp the slot and tell the server."""
        chunk = flight.chunk
        published = self._stamp(flight) if chunk.num_frames else None
        with self._changed:
            if published is not None:
                self._slots.publish(flight.slot, flight.generation)
            else:
                self._slots.abandon(flight.slot, flight.generation)
            if chunk.last:
                self._places.pop(chunk.session, None)
            self._changed.notify_all()
        if published is not None:
            self._send(published)
        if chunk.last:
            self._send(SessionEnded(session=chunk.session, num_frames=chunk.first_frame + chunk.num_frames))

    def _stamp(self, flight: InFlight) -> Published:
        chunk, frame_bytes = flight.chunk, flight.frame_bytes
        decode_ns = time.monotonic_ns() - flight.launched_ns
        with self._ring.payload(flight.slot) as payload:
            checksums = tuple(
                crc32c.crc32c(payload[start : start + frame_bytes])
                for start in range(0, chunk.num_frames * frame_bytes, frame_bytes)
            )
        header = SlotHeader(flight.generation, chunk.session, chunk.first_frame, chunk.num_frames, frame_bytes)
        self._ring.write_header(flight.slot, header)
        return Published(
            session=chunk.session,
            slot=flight.slot,
            generation=flight.generation,
            first_frame=chunk.first_frame,
            frame_bytes=frame_bytes,
            crc32c=checksums,
            num_latents=len(chunk.latents),
            decode_ns=decode_ns,
        )

    def _max_latents(self, request: OpenSession, spec: DecoderSpec) -> int:
        return max_chunk_latents(
            spec,
            frame_bytes=request.pixel_format.frame_bytes(*_geometry(request).frame_size(spec)),
            slot_bytes=self._ring.slot_bytes,
            chunk_latents=self._chunk_latents,
        )

    def _open(self, request: OpenSession) -> None:
        place = self._launcher.open(
            self._decoders[request.model],
            _geometry(request),
            num_latents=request.num_latents,
            dtype=request.dtype,
            normalized=request.normalized,
            pixel_format=request.pixel_format,
        )
        with self._changed:
            if request.session not in self._scheduler:
                return
            self._places[request.session] = place
        self._send(SessionOpened(session=request.session))

    def _fail(self, job: OpenJob | ChunkJob, error: Exception) -> None:
        self._launcher.settle()
        if not self._device.healthy():
            raise error
        session = job.request.session if isinstance(job, OpenJob) else job.chunk.session
        overloaded = isinstance(error, torch.OutOfMemoryError)
        _log.exception("session failed session=%d overloaded=%s", session, overloaded)
        unused: list[InletSlot] = []
        with self._changed:
            if isinstance(job, ChunkJob):
                unused.extend(job.chunk.latents)
                self._slots.abandon(job.slot, job.generation)
                self._num_in_flight -= 1
            unused.extend(self._scheduler.close(session))
            self._places.pop(session, None)
            self._changed.notify_all()
        self._return_inlet(unused)
        reason = "device memory is full" if overloaded else "the decoder failed on this session's latents"
        self._send(SessionFailed(session=session, reason=reason, overloaded=overloaded))

    def _return_inlet(self, latents: Iterable[InletSlot]) -> None:
        for latent in latents:
            self._send(InletReturned(slot=latent.slot, generation=latent.generation))


def _geometry(request: OpenSession) -> Geometry:
    return Geometry(channels=request.channels, height=request.latent_height, width=request.latent_width)


def _next_chunk(decoder: Decoder, index: int, available: int, wanted: int, ended: bool) -> int:
    return decoder.next_chunk(index, available, wanted, ended=ended)
