"""The worker's logic: takes latents from the inlet, decodes them in chunks and publishes frames in ring slots.

Four threads call it (`worker.main`), each by one method. *Control* applies the server's messages. *Launch* takes jobs
and puts chunks on the device; it waits for latents, a free slot and fewer than two chunks in flight, and for nothing
else. *Completion* waits for copies in order. *Checksum* stamps and publishes. The shared state has one lock, which is
never held while the device works. The launch thread also moves sessions' state (`memory` says when, `parking` how), and
waits for such a copy only when it has nothing else to do. All that has the lock stands in this one file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import crc32c
import msgspec
import torch

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.restarting import RestartingDecoder
from framehaul_pipeline.device.streams import Device
from framehaul_pipeline.link.messages import (
    Alive,
    ChunkTimes,
    CloseQuery,
    CloseSession,
    EmbedFrames,
    EndOfLatents,
    InletReturned,
    Instruction,
    LatentReady,
    MapFrames,
    OpenQuery,
    OpenSession,
    Probe,
    Published,
    SessionEnded,
    SessionFailed,
    SlotReturned,
    ToServer,
    Wanted,
)
from framehaul_pipeline.rings.ring import Ring, SlotHeader
from framehaul_pipeline.scheduling.batches import Batch
from framehaul_pipeline.scheduling.chunks import InletSlot, Scheduler, max_chunk_latents
from framehaul_pipeline.scheduling.in_flight import Running
from framehaul_pipeline.scheduling.memory import Enter, MemoryLimits, Pin, Restore
from framehaul_pipeline.scheduling.suspects import Suspects
from framehaul_pipeline.worker.held_slots import HeldSlots, Note
from framehaul_pipeline.worker.highlights import BatchInFlight, BatchJob, Highlights
from framehaul_pipeline.worker.jobs import ChunkJob, Job, MoveJob, SettleJob
from framehaul_pipeline.worker.launch import InFlight, Launcher
from framehaul_pipeline.worker.residence import Residence
from framehaul_pipeline.worker.warm_up import ChunkLengths

MAX_IN_FLIGHT: Final = 2
"""One chunk on the compute stream while the one before it is copied."""

_log = logging.getLogger(__name__)


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
        limits: MemoryLimits,
        send: Callable[[ToServer], None],
        highlights: Highlights | None = None,
    ) -> None:
        """Use `decoders` by name on `device`; `send` takes messages to the server and may be called by any thread.

        Films are searched by `highlights`; None: none are.
        """
        self._device = device
        self._ring = ring
        self._decoders = decoders
        self._chunk_latents = chunk_latents
        self._warmed: ChunkLengths = {}
        self._send = send
        self._highlights = highlights
        self._launcher = Launcher(device, ring, inlet, chunk_latents=chunk_latents)
        self._changed = threading.Condition()
        # All below are guarded by `_changed`.
        self._running = Running()
        self._share_out = partial(Residence, device, self._launcher, limits, self._running, send=send)
        self._scheduler = Scheduler()
        self._residence = self._share_out()
        self._slots = HeldSlots(ring)
        self._suspects = Suspects(ring)
        self._chunk_is_next = False
        self._completed_ns = 0
        """When the newest completed chunk was,"""
        self._completed_session = 0
        """and whose it was."""
        self._full_ns: int | None = None
        """Since when no frame slot is free; None: one is, or nobody has asked."""
        self._stopping = False

    def before_serving(self, warm_up: Callable[[], ChunkLengths]) -> None:
        """Warm up where decoding runs; on the launch thread, before it takes jobs. Sessions get what is left."""

        def work() -> None:
            self._warmed = warm_up()
            if self._highlights is not None:
                self._highlights.warm_up()

        self._launcher.run_on_compute_stream(work)
        self._device.models_loaded()
        self._residence = self._share_out()

    # Control thread

    def apply(self, message: Instruction) -> None:
        """Apply one message of the server.

        Raises:
            SlotError: the server named a slot that it doesn't hold.
        """
        with self._changed:
            match message:
                case OpenSession():
                    with self._slots.at_work(Note.CONTROL, message.session):
                        self._admit(message)
                case LatentReady():
                    latent = InletSlot(message.slot, message.generation, message.blank)
                    if not self._scheduler.add_latent(message.session, latent):
                        self._return_inlet([latent])
                case Wanted():
                    self._scheduler.want(message.session, message.until_latent)
                case EndOfLatents():
                    self._scheduler.end(message.session)
                case CloseSession():
                    self._return_inlet(self._scheduler.close(message.session))
                    self._residence.release(message.session)
                    self._suspects.close(message.session)
                case SlotReturned():
                    self._slots.give_back(message.slot, message.generation)
                case OpenQuery() | EmbedFrames() | MapFrames() | CloseQuery():
                    assert self._highlights is not None, "the server was told that none are served"
                    self._highlights.apply(message)
                case Probe():
                    self._send(Alive(oldest=self._running.oldest(time.monotonic_ns())))
            self._changed.notify_all()
        if isinstance(message, CloseSession):
            self._hold_host_memory()

    def stop(self) -> None:
        """Let the launch thread end once it has nothing in flight; sessions are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # Launch thread

    def next_job(self, *, wait: bool) -> Job | BatchJob | None:
        """Take the next thing to do on the device.

        Chunks and moves of state take turns, so that neither newcomers nor running sessions wait for long.

        Args:
            wait: block until there is something; None then means that the worker stops.
        """
        with self._changed:
            while not self._stopping:
                self._residence.collect()
                if (batch := self._take_batch(chunks_first=True)) is not None:
                    return batch
                if self._chunk_is_next:
                    job = self._take_chunk() or self._take_move()
                else:
                    job = self._take_move() or self._take_chunk()
                if job is not None:
                    self._chunk_is_next = not isinstance(job, ChunkJob)
                    if self._highlights is not None and isinstance(job, ChunkJob):
                        self._highlights.batches.chunk_begins()
                    return job
                if (batch := self._take_batch(chunks_first=False)) is not None:
                    return batch
                copy = None if self._running.num_chunks else self._residence.oldest_copy()
                if copy is not None:
                    return copy
                if not wait:
                    return None
                self._changed.wait()
        return None

    def run(self, job: Job) -> InFlight | None:
        """Do a job without waiting for the device; a chunk that was launched must go to `complete`.

        Raises:
            RuntimeError: the device no longer works.
        """
        if isinstance(job, SettleJob):
            job.copied.synchronize()
            return None
        with self._slots.at_work(Note.LAUNCH, job.session):
            flight = self._try(job)
        self._hold_host_memory()
        return flight

    def run_batch(self, job: BatchJob) -> BatchInFlight | None:
        """Put a batch on the device without waiting for it; one that was launched must go to `complete_batch`.

        Raises:
            RuntimeError: the device no longer works.
        """
        assert self._highlights is not None, "it made the job"
        flight = self._highlights.launch(job)
        if flight is None:
            with self._changed:
                self._highlights.apply(
                    CloseQuery(query=job.batch.query)
                )  # what it waits for came before the server knew
            self._finish_batch(job.batch)
        return flight

    def drain(self) -> None:
        """Wait for the device and let go of the rings; after `stop`, when the other threads are done."""
        self._launcher.close()
        if self._highlights is not None:
            self._highlights.close()

    # Completion thread

    def complete(self, flight: InFlight) -> None:
        """Wait until a chunk's frames lie in its slot; chunks complete in the order they were launched.

        Raises:
            RuntimeError: the device failed.
        """
        flight.copied.synchronize()
        chunk, completed_ns = flight.chunk, time.monotonic_ns()
        kernels_ns, copy_ns = flight.decoded.ns_after(flight.begun), flight.copied.ns_after(flight.decoded)
        with self._changed:
            self._running.finish(chunk.session, chunk.first_latent, completed_ns)
            # Chunks overlap: the device is a chunk's own only once the one before is out.
            turn_ns = max(flight.launched_ns, self._completed_ns)
            flight.times = ChunkTimes(
                launched_ns=flight.launched_ns,
                turn_ns=turn_ns,
                decoded_ns=max(turn_ns, completed_ns - copy_ns),
                copied_ns=completed_ns,
                kernels_ns=kernels_ns,
                slot_wait_ns=flight.slot_wait_ns,
                shared=self._completed_ns == turn_ns and self._completed_session != chunk.session,
            )
            self._send(self._scheduler.charge(chunk, completed_ns - turn_ns, kernels_ns))
            self._completed_ns, self._completed_session = completed_ns, chunk.session
            if chunk.last:
                self._residence.release(chunk.session)
            self._changed.notify_all()
        self._return_inlet(chunk.latents)

    def complete_batch(self, flight: BatchInFlight) -> None:
        """Wait until a batch is done, and tell the server.

        Raises:
            RuntimeError: the device failed.
        """
        assert self._highlights is not None, "it launched the batch"
        self._highlights.complete(flight)
        self._finish_batch(flight.batch)

    # Checksum thread

    def publish(self, flight: InFlight) -> None:
        """Checksum a completed chunk's frames, stamp the slot and tell the server."""
        chunk = flight.chunk
        published = _stamp(self._ring, flight) if chunk.num_frames else None
        with self._changed:
            if published is not None:
                self._slots.publish(flight.slot, flight.generation)
            else:
                self._slots.abandon(flight.slot, flight.generation)
            self._suspects.published(chunk.session, chunk.first_frame + chunk.num_frames)
            if chunk.last:
                self._suspects.close(chunk.session)
            self._changed.notify_all()
        if published is not None:
            self._send(published)
        if chunk.last:
            self._send(SessionEnded(session=chunk.session, num_frames=chunk.first_frame + chunk.num_frames))
            self._hold_host_memory()

    # Below: under the lock

    def _admit(self, request: OpenSession) -> None:
        session, opening = request.session, request.opening
        decoder = self._decoders[opening.model]
        if opening.restart_latents:
            decoder = RestartingDecoder(decoder, opening.restart_latents, self._device.torch_device)
        spec = decoder.spec
        frame_bytes = opening.pixel_format.frame_bytes(*opening.geometry.frame_size(spec))
        max_latents = max_chunk_latents(
            spec,
            frame_bytes=frame_bytes,
            slot_bytes=self._ring.slot_bytes,
            chunk_latents=1
            if opening.reproducible
            else self._warmed.get((spec.name, opening.geometry), self._chunk_latents),
        )
        most_bytes = self._device.long_chunk_bytes
        while max_latents > 1 and most_bytes and decoder.workspace_bytes(opening.geometry, max_latents) > most_bytes:
            max_latents -= 1
        while (refusal := self._residence.admit(request, decoder, max_latents)) is not None and max_latents > 1:
            max_latents -= 1  # shorter chunks take less memory
        if refusal is not None:
            _log.info("session refused session=%d: %s", session, refusal)
            self._send(SessionFailed(session=session, reason=refusal, overloaded=True))
            return
        self._suspects.open(session, opening.alone_until)
        self._scheduler.add_session(
            session,
            opening,
            spec=spec,
            rule=lambda index, available, wanted, ended: decoder.next_chunk(index, available, wanted, ended=ended),
            max_latents=max_latents,
            max_frames=self._ring.slot_bytes // frame_bytes,
        )

    def _take_chunk(self) -> ChunkJob | None:
        if self._running.num_chunks == MAX_IN_FLIGHT or self._residence.waiting:
            return None
        now_ns = time.monotonic_ns()
        if not self._slots.num_free:
            self._full_ns = now_ns if self._full_ns is None else self._full_ns
            return None
        chunk = self._scheduler.pick(self._residence.memory.resident, self._suspects.may_begin)
        if chunk is None:
            return None
        slot, generation = self._slots.acquire(chunk.session)
        self._running.begin(chunk.session, chunk.first_latent, len(chunk.latents), now_ns)
        self._residence.memory.ran(chunk.session)
        slot_wait_ns, self._full_ns = 0 if self._full_ns is None else now_ns - self._full_ns, None
        return ChunkJob(chunk, self._residence.places[chunk.session], slot, generation, slot_wait_ns)

    def _take_move(self) -> MoveJob | None:
        return self._residence.take(runnable=self._scheduler.runnable, may_begin=self._suspects.may_begin)

    def _take_batch(self, *, chunks_first: bool) -> BatchJob | None:
        job = None if self._highlights is None else self._highlights.take(chunks_first=chunks_first)
        if job is not None:
            batch, mapped = job.batch, job.batch.mapping is not None
            now_ns = time.monotonic_ns()
            self._running.begin(batch.query, None, 0, now_ns, num_samples=batch.num_frames, mapped=mapped)
        return job

    # Below: without it

    def _finish_batch(self, batch: Batch) -> None:
        assert self._highlights is not None, "it made the batch"
        with self._changed:
            self._running.finish(batch.query, None, time.monotonic_ns())
            self._highlights.finish(batch)
            self._changed.notify_all()

    def _hold_host_memory(self) -> None:
        with self._changed:
            session_bytes = self._residence.memory.total_used_bytes
        self._device.hold_host_memory(session_bytes)

    def _try(self, job: MoveJob | ChunkJob) -> InFlight | None:
        """Do a job; once more where the device was full and nothing has happened yet. None also when it failed.

        A chunk isn't tried again: its step may have changed the session's state.
        """
        tries_left = 1 if isinstance(job, MoveJob) and isinstance(job.move, Enter | Restore) else 0
        while True:
            try:
                return self._do(job)
            except torch.OutOfMemoryError as error:
                if not tries_left:
                    self._fail(job, error)
            except Exception as error:
                self._fail(job, error)
                return None
            # Only here, where the error's traceback is gone, are the failed work's tensors free.
            self._launcher.settle()
            self._device.release_cached()
            if not tries_left:
                return None
            tries_left -= 1

    def _do(self, job: MoveJob | ChunkJob) -> InFlight | None:
        if isinstance(job, ChunkJob):
            return self._launcher.launch(job)
        self._residence.start(job)
        with self._changed:
            self._residence.started(job)
        return None

    def _fail(self, job: MoveJob | ChunkJob, error: Exception) -> None:
        self._launcher.settle()
        if not self._device.healthy():
            raise error
        session = job.session
        no_pages = isinstance(job, MoveJob) and isinstance(job.move, Pin)
        overloaded = no_pages or isinstance(error, torch.OutOfMemoryError)
        _log.exception("session failed session=%d overloaded=%s", session, overloaded)
        unused: list[InletSlot] = []
        with self._changed:
            full = self._residence.memory.describe(session)
            if isinstance(job, ChunkJob):
                unused.extend(job.chunk.latents)
                self._scheduler.charge(job.chunk, 0)
                self._slots.abandon(job.slot, job.generation)
                self._running.finish(session, job.chunk.first_latent, time.monotonic_ns())
            else:
                self._residence.fail(job)
            unused.extend(self._scheduler.close(session))
            self._residence.release(session)
            self._suspects.close(session)
            self._changed.notify_all()
        self._return_inlet(unused)
        reason = full if overloaded else "the decoder failed on this session's latents"
        self._send(SessionFailed(session=session, reason=reason, overloaded=overloaded))

    def _return_inlet(self, latents: Iterable[InletSlot]) -> None:
        for latent in latents:
            self._send(InletReturned(slot=latent.slot, generation=latent.generation))


def _stamp(ring: Ring, flight: InFlight) -> Published:
    """Checksum a completed chunk's frames and write its slot's header; gives what the server is told."""
    chunk, frame_bytes = flight.chunk, flight.frame_bytes
    assert flight.times is not None, "complete"
    with ring.payload(flight.slot) as payload:
        checksums = tuple(
            crc32c.crc32c(payload[start : start + frame_bytes])
            for start in range(0, chunk.num_frames * frame_bytes, frame_bytes)
        )
    header = SlotHeader(flight.generation, chunk.session, chunk.first_frame, chunk.num_frames, frame_bytes)
    ring.write_header(flight.slot, header)
    return Published(
        session=chunk.session,
        slot=flight.slot,
        generation=flight.generation,
        first_latent=chunk.first_latent + len(chunk.latents) - sum(chunk.sizes),
        chunks=chunk.sizes,
        first_frame=chunk.first_frame,
        frame_bytes=frame_bytes,
        crc32c=checksums,
        times=msgspec.structs.replace(flight.times, published_ns=time.monotonic_ns()),
    )
