"""One incarnation of the worker, as the server sees it: its process, its rings, its socket, its sessions.

Runs on the server's event loop. An epoch ends when its process does; its rings are unmapped once the process is truly
gone (pidfd), since a dying device may still be writing into them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import AtWork, InvalidInput, Lack, Overloaded, PipelineError, Unavailable, WorkerLost
from framehaul_pipeline.link.channel import ServerChannel
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.link.messages import (
    Alive,
    Begin,
    CloseQuery,
    CloseSession,
    Configure,
    DeviceTime,
    Embedded,
    EmbedFrames,
    EndOfLatents,
    InletReturned,
    Kernels,
    KernelsBegun,
    LatentReady,
    MapFrames,
    Mapped,
    MemoryUsed,
    Opening,
    OpenQuery,
    OpenSession,
    Probe,
    Published,
    QueryFailed,
    QueryRefused,
    Ready,
    RecordKernels,
    RunningChunk,
    SamplesReturned,
    SessionEnded,
    SessionFailed,
    Shutdown,
    SlotReturned,
    ToServer,
    Wanted,
)
from framehaul_pipeline.rings.ring import Ring, RingError, SlotHeader
from framehaul_pipeline.rings.slots import LeaseTable, SlotError
from framehaul_pipeline.scheduling.chunk_limits import BatchShape, ChunkShape
from framehaul_pipeline.scheduling.feeder import Feeder
from framehaul_pipeline.supervision.inlet import Inlet
from framehaul_pipeline.supervision.process import WorkerProcess
from framehaul_pipeline.supervision.samples import Samples
from framehaul_pipeline.supervision.watchdog import Watchdog

_RETRY_AFTER_S = 1.0

_log = logging.getLogger(__name__)


class SessionEvents(Protocol):
    """What a session hears of its work; called on the event loop, and not after the session is dropped."""

    def on_fed(self, num_fed: int) -> None:
        """The inlet has taken over all latents below this one: their memory is free again."""

    def on_published(self, published: Published, frames: memoryview) -> None:
        """A chunk is ready; `frames`, one after the other, can be read during this call."""

    def on_ended(self, num_frames: int) -> None:
        """The last chunk was published; the clip has `num_frames`."""

    def on_failed(self, error: PipelineError) -> None:
        """The session can't go on; nothing follows."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerSession:
    """A session on one worker: latents go in here, and its `events` are called.

    What it is told after it was dropped, or after its worker's death, has no effect.
    """

    epoch: Epoch
    number: int
    opening: Opening
    events: SessionEvents

    def send_latent(self, latent: memoryview) -> None:
        """Send the next latent `[C, h, w]` on its way; its memory is kept, not copied, until `on_fed` counts it."""
        self.epoch.feeder.enqueue(self.number, latent)
        self.epoch.feed()

    def allow(self, num_latents: int, *, num_wanted: int = 0) -> None:
        """Let the latents below this one be decoded, whose frames fit the session's window; never fewer than before.

        The client waits for the frames of those below `num_wanted`, or soon will: they come before others' that don't.
        """
        self.epoch.allow(self.number, num_latents, num_wanted)

    def end_latents(self) -> None:
        """No more latents come; `on_ended` follows when the last frames are out."""
        self.epoch.feeder.end(self.number)
        self.epoch.feed()

    def drop(self) -> None:
        """Give back what the session holds; no event comes after. Twice is fine."""
        self.epoch.drop_session(self.number)


class QueryEvents(Protocol):
    """What a query hears of its work; called on the event loop, and not after the query is dropped."""

    def on_embedded(self, embedded: Embedded) -> None:
        """Frames were compared."""

    def on_mapped(self, mapped: Mapped, maps: memoryview) -> None:
        """Maps are made, which can be read during this call."""

    def on_failed(self, error: PipelineError) -> None:
        """The query can't go on; nothing follows."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerQuery:
    """A query on one worker. What it is told after it was dropped, or after its worker's death, has no effect."""

    epoch: Epoch
    number: int
    samples: Samples

    def open(self, slot: int, generation: int, *, sizes: tuple[int, ...], num_pictures: int, text: str) -> None:
        """Say what is searched for: pictures, which lie in a slot that a reader has filled, and a text."""
        self.samples.publish(slot, generation)
        self.epoch.send_query(
            OpenQuery(
                query=self.number,
                slot=slot,
                generation=generation,
                sizes=sizes,
                num_pictures=num_pictures,
                text=text,
            )
        )

    def embed(self, slot: int, generation: int, num_frames: int) -> None:
        """Compare the film's next frames, which lie in a slot that a reader has filled."""
        self.samples.publish(slot, generation)
        self.epoch.send_query(EmbedFrames(query=self.number, slot=slot, generation=generation, num_frames=num_frames))

    def map(self, message: MapFrames) -> None:
        """Say where people look in a run of frames, which lies in a slot that a reader has filled."""
        self.samples.publish(message.slot, message.generation)
        self.epoch.send_query(message)

    def drop(self) -> None:
        """No event comes after. Twice is fine."""
        self.epoch.drop_query(self.number)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """How full the rings and the device's memory are now."""

    num_slots: int
    num_slots_held: int
    """From a chunk's launch until its frames are taken."""
    num_inlet_slots: int
    num_inlet_free: int
    num_sessions: int
    session_memory_bytes: int
    """Device memory for sessions; 0: unlimited."""
    session_memory_used_bytes: int
    num_parked: int
    """Sessions whose state is in host memory."""


@dataclass(slots=True, eq=False)
class _Recording:
    """Of the kernels that the device runs."""

    begun: Callable[[], None]
    heard: list[Kernels]
    whole: asyncio.Future[list[Kernels]]
    """Nobody may be there any more to take it."""


class Epoch:
    """A worker process from spawn to exit."""

    def __init__(
        self,
        number: int,
        config: WorkerConfig,
        heirloom: Heirloom,
        *,
        process: WorkerProcess | None = None,
        on_device_time: Callable[[DeviceTime], None],
        on_lost: Callable[[Epoch], None],
        on_exit: Callable[[Epoch], None],
    ) -> None:
        """Make the rings and start the process, or make a worker of one that stands by.

        Args:
            number: 1 for the first, and one more for each that follows.
            config: sizes of the rings, device and models.
            heirloom: of all epochs.
            process: a process that waits for `Configure`, now this epoch's; None starts one.
            on_device_time: called for each chunk that is decoded.
            on_lost: called once when the worker can't be talked to any more, before its sessions fail.
            on_exit: called once when its process is gone.
        """
        self.number = number
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        """The worker's first message; an `Unavailable` error when it ends before."""
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self.exited = asyncio.Event()
        self._on_device_time = on_device_time
        self._on_lost = on_lost
        self._on_exit = on_exit
        self.lost = False
        """The worker can't be talked to any more."""
        self._memory = MemoryUsed(used_bytes=0, total_bytes=0, num_parked=0)
        """Of the device, by sessions."""
        self._ring = Ring.create(f"framehaul-frames-{number}", num_slots=config.num_slots, slot_bytes=config.slot_bytes)
        self._inlet = Inlet(
            f"framehaul-latents-{number}", num_slots=config.num_inlet_slots, slot_bytes=config.inlet_slot_bytes
        )
        self._leases = LeaseTable(self._ring.num_slots)
        self.feeder = Feeder(config.chunk_latents, config.num_inlet_slots)
        self._sessions: dict[int, WorkerSession] = {}
        self._recording: _Recording | None = None
        """Until the worker says that it is over."""
        self._queries: dict[int, QueryEvents] = {}
        self._samples = Samples(f"framehaul-samples-{number}", config) if config.reads_films else None
        self._watchdog = Watchdog(config.chunk_timeout_s, probe=lambda: self._channel.send(Probe()), hung=self._give_up)

        self._process = WorkerProcess(on_exit=self._reap) if process is None else process
        self._process.on_exit = self._reap
        self._channel = ServerChannel(self._process.connection, on_message=self._receive, on_eof=self._lose)
        fds = [self._ring.fd, self._inlet.ring.fd, heirloom.fd]
        if self._samples is not None:
            fds.append(self._samples.ring.fd)
        self._channel.send_configure(Configure(epoch=number, config=config), fds)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def shared_bytes(self) -> int:
        """Memory of both rings."""
        samples_bytes = self._samples.ring.num_bytes if self._samples is not None else 0
        return self._ring.num_bytes + self._inlet.ring.num_bytes + samples_bytes

    def statistics(self) -> WorkerStatistics:
        """How full the rings and the device's memory are now."""
        return WorkerStatistics(
            num_slots=self._ring.num_slots,
            num_slots_held=0 if self.exited.is_set() else self._ring.num_held(),
            num_inlet_slots=self._inlet.ring.num_slots,
            num_inlet_free=self._inlet.num_free,
            num_sessions=len(self._sessions),
            session_memory_bytes=self._memory.total_bytes,
            session_memory_used_bytes=self._memory.used_bytes,
            num_parked=self._memory.num_parked,
        )

    async def record_kernels(self, seconds: float, begun: Callable[[], None]) -> list[Kernels]:
        """See `Supervisor.record_kernels`."""
        if self._recording is not None:
            reason = "kernels are being recorded already: one trace at a time has them"
            raise Overloaded(reason, Lack.CALLS, retry_after_s=_RETRY_AFTER_S)
        whole: asyncio.Future[list[Kernels]] = asyncio.get_running_loop().create_future()
        self._recording = _Recording(begun, [], whole)
        self._channel.send(RecordKernels(seconds=seconds))
        return await whole

    def begin(self) -> None:
        """Let the worker use the device: the sessions of the worker before are open again."""
        self._channel.send(Begin())

    def open_session(self, number: int, opening: Opening, events: SessionEvents) -> WorkerSession:
        """Open a session on the worker."""
        session = self._sessions[number] = WorkerSession(self, number, opening, events)
        self.feeder.add_session(number, opening)
        self._channel.send(OpenSession(session=number, opening=opening))
        return session

    def drop_session(self, number: int) -> None:
        """Drop a session; twice is fine."""
        if self._forget(number) is not None:
            self._channel.send(CloseSession(session=number))

    def open_query(self, number: int, events: QueryEvents) -> WorkerQuery:
        """Begin a query."""
        assert self._samples is not None, "films are searched only where a model for that was given"
        self._queries[number] = events
        return WorkerQuery(self, number, self._samples)

    def send_query(self, message: OpenQuery | EmbedFrames | MapFrames) -> None:
        """Tell the worker of a filled slot; for a query that was dropped, the slot is free again."""
        assert self._samples is not None, "there is a query"
        if message.query in self._queries:
            self._channel.send(message)
        else:
            self._samples.give_back(message.slot, message.generation)

    def drop_query(self, number: int) -> None:
        """Drop a query; twice is fine."""
        if self._queries.pop(number, None) is not None:
            self._channel.send(CloseQuery(query=number))

    def allow(self, number: int, num_latents: int, num_wanted: int) -> None:
        """Move a session's limits; one that was dropped is fine."""
        wanted_until = self.feeder.allow(number, num_latents, num_wanted)
        if wanted_until is not None:
            self._channel.send(Wanted(session=number, until_latent=wanted_until))
        self.feed()

    def feed(self) -> None:
        """Put the latents into the inlet that may go there now."""
        while (latent := self.feeder.next_latent(self._inlet.num_free)) is not None:
            slot, generation = self._inlet.put(latent)
            blank = not latent.latent
            self._channel.send(LatentReady(session=latent.session, slot=slot, generation=generation, blank=blank))
            self._sessions[latent.session].events.on_fed(latent.index + 1)
        while (session := self.feeder.next_end()) is not None:
            self._channel.send(EndOfLatents(session=session))

    def shut_down(self) -> None:
        """Ask the worker to finish what is in flight and exit; one that hangs is now the caller's to `kill`."""
        self._watchdog.stop()
        self._channel.send(Shutdown())

    def kill(self) -> None:
        """End the process at once; nothing when it has ended."""
        self._process.kill()

    def _receive(self, message: ToServer) -> None:
        try:
            self._dispatch(message)
        except (SlotError, RingError) as error:
            self._give_up(f"broke the slot rules: {error}")

    def _give_up(self, reason: str) -> None:
        _log.error("worker killed epoch=%d pid=%d: it %s", self.number, self.pid, reason)
        self.kill()
        # Its sessions hear of it now: a process that hangs in a driver may take its time to die.
        self._lose()

    def _dispatch(self, message: ToServer) -> None:
        match message:
            case Published():
                self._publish(message)
            case DeviceTime():
                self.feeder.charge(message)
                self._on_device_time(message)
            case InletReturned():
                self.feeder.returned(self._inlet.give_back(message.slot, message.generation))
                self.feed()
            case MemoryUsed():
                self._memory = message
            case SessionEnded():
                session = self._forget(message.session)
                if session is not None:
                    session.events.on_ended(message.num_frames)
            case SessionFailed():
                session = self._forget(message.session)
                if session is not None:
                    error = Overloaded(message.reason, Lack.DEVICE_MEMORY, retry_after_s=_RETRY_AFTER_S)
                    session.events.on_failed(error if message.overloaded else PipelineError(message.reason))
            case KernelsBegun() | Kernels():
                self._take_kernels(message)
            case SamplesReturned() | Embedded() | Mapped() | QueryRefused() | QueryFailed():
                self._dispatch_query(message)
            case Alive():
                self._watchdog.answered(message, self._shape_of(message.oldest))
            case Ready():
                self._watchdog.start()
                self.ready.set_result(message)

    def _take_kernels(self, message: KernelsBegun | Kernels) -> None:
        recording = self._recording
        if recording is None:
            return
        if isinstance(message, KernelsBegun):
            recording.begun()
            return
        recording.heard.append(message)
        if message.last:
            self._recording = None
            if message.error is not None:
                self._fail_recording(recording, f"the worker can't record kernels: {message.error}")
            elif not recording.whole.done():
                recording.whole.set_result(recording.heard)

    def _fail_recording(self, recording: _Recording, reason: str) -> None:
        if not recording.whole.done():
            recording.whole.set_exception(Unavailable(reason))

    def _dispatch_query(self, message: SamplesReturned | Embedded | Mapped | QueryRefused | QueryFailed) -> None:
        match message:
            case SamplesReturned():
                assert self._samples is not None, "the worker has none else"
                self._samples.give_back(message.slot, message.generation)
            case Embedded():
                self._watchdog.published(BatchShape(), message.device_ns)
                if message.query in self._queries:
                    self._queries[message.query].on_embedded(message)
            case Mapped():
                assert self._samples is not None, "the worker has none else"
                self._watchdog.published(BatchShape(mapped=True), message.device_ns)
                if message.query in self._queries:
                    with self._samples.ring.payload(message.slot) as payload, payload[: message.num_bytes] as maps:
                        self._queries[message.query].on_mapped(message, maps.toreadonly())
            case QueryRefused():
                self._fail_query(message.query, InvalidInput(message.field, message.value, message.allowed))
            case QueryFailed():
                error = Overloaded(message.reason, Lack.DEVICE_MEMORY, retry_after_s=_RETRY_AFTER_S)
                self._fail_query(message.query, error if message.overloaded else PipelineError(message.reason))

    def _fail_query(self, number: int, error: PipelineError) -> None:
        events = self._queries.pop(number, None)
        if events is not None:
            self._channel.send(CloseQuery(query=number))
            events.on_failed(error)

    def _publish(self, published: Published) -> None:
        self._leases.lease(published.slot, published.generation)
        self._watchdog.published(self._shape(published.session, published.chunks[-1]), published.times.in_flight_ns)
        session = self._sessions.get(published.session)
        try:
            if session is not None:
                self._hand_over(published, session.events)
        finally:
            generation = self._leases.give_back(published.slot)
            self._channel.send(SlotReturned(slot=published.slot, generation=generation))

    def _hand_over(self, published: Published, events: SessionEvents) -> None:
        slot, num_frames, frame_bytes = published.slot, published.num_frames, published.frame_bytes
        told = SlotHeader(published.generation, published.session, published.first_frame, num_frames, frame_bytes)
        header = self._ring.read_header(slot)
        if header != told:
            raise RingError(f"slot {slot} holds {header}: the worker said {told}")
        with self._ring.payload(slot) as payload, payload[: num_frames * frame_bytes].toreadonly() as frames:
            events.on_published(published, frames)

    def _shape(self, session: int, num_latents: int) -> ChunkShape | None:
        known = self._sessions.get(session)
        return ChunkShape.of(known.opening, num_latents) if known is not None else None

    def _shape_of(self, running: RunningChunk | None) -> ChunkShape | BatchShape | None:
        if running is None:
            return None
        return BatchShape(running.mapped) if running.num_samples else self._shape(running.session, running.num_latents)

    def _forget(self, session: int) -> WorkerSession | None:
        self.feeder.drop_session(session)
        return self._sessions.pop(session, None)

    def _lose(self) -> None:
        """The worker can't be talked to any more: no message will come, and none goes out."""
        if self.lost:
            return
        self.lost = True
        self._watchdog.stop()
        self._channel.close()
        if self._recording is not None:
            self._fail_recording(self._recording, "the worker process ended while its kernels were recorded")
        self._on_lost(self)
        at_work = self._ring.noted()
        for number in list(self._sessions):
            session = self._forget(number)
            if session is not None:
                session.events.on_failed(WorkerLost(at_work=AtWork.of(number, at_work)))
        queries, self._queries = self._queries, {}
        for events in queries.values():
            events.on_failed(WorkerLost(at_work=AtWork.NO))

    def _reap(self, exit_code: int) -> None:
        """The process is truly gone."""
        self._lose()
        if not self.ready.done():
            error = Unavailable(f"the worker process ended before it was ready, exit code {exit_code}; see the log")
            self.ready.set_exception(error)
        _log.info("worker gone epoch=%d pid=%d exit_code=%d", self.number, self.pid, exit_code)
        self.exited.set()
        self._ring.close()
        self._inlet.ring.close()
        if self._samples is not None:
            self._samples.close()
        self._on_exit(self)
