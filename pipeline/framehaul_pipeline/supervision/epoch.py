"""One incarnation of the worker, as the server sees it: its process, its rings, its socket, its sessions.

Runs on the server's event loop. An epoch ends when its process does; its rings are unmapped once the process is truly
gone (pidfd) and the last lease is back, since a dying device may still be writing into them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.decoders.wan.plans import PlanJournal
from framehaul_pipeline.errors import AtWork, Overloaded, PipelineError, Unavailable, WorkerLost
from framehaul_pipeline.link.channel import ServerChannel
from framehaul_pipeline.link.messages import (
    Alive,
    Begin,
    CloseSession,
    Configure,
    DeviceTime,
    EndOfLatents,
    InletReturned,
    LatentReady,
    MemoryUsed,
    OpenSession,
    Probe,
    Published,
    Ready,
    SessionEnded,
    SessionFailed,
    SessionOpened,
    Shutdown,
    SlotReturned,
    ToServer,
)
from framehaul_pipeline.rings.ring import Ring, RingError, SlotHeader
from framehaul_pipeline.rings.slots import LeaseTable, SlotError
from framehaul_pipeline.scheduling.chunk_limits import ChunkShape
from framehaul_pipeline.scheduling.feeder import Feeder
from framehaul_pipeline.spec import DecoderSpec
from framehaul_pipeline.supervision.events import SessionEvents
from framehaul_pipeline.supervision.inlet import Inlet
from framehaul_pipeline.supervision.lease import FrameLease
from framehaul_pipeline.supervision.process import WorkerProcess
from framehaul_pipeline.supervision.watchdog import Watchdog
from framehaul_pipeline.supervision.worker_statistics import WorkerStatistics

_RETRY_AFTER_S = 1.0

_log = logging.getLogger(__name__)


class Epoch:
    """A worker process from spawn to exit."""

    def __init__(
        self,
        number: int,
        config: WorkerConfig,
        specs: tuple[DecoderSpec, ...],
        plans: PlanJournal,
        *,
        process: WorkerProcess | None = None,
        on_lost: Callable[[Epoch], None],
        on_exit: Callable[[Epoch], None],
    ) -> None:
        """Make the rings and start the process, or make a worker of one that stands by.

        Args:
            number: 1 for the first, and one more for each that follows.
            config: sizes of the rings, device and models.
            specs: of the models, in their order.
            plans: of all epochs.
            process: a process that waits for `Configure`, now this epoch's; None starts one.
            on_lost: called once when the worker can't be talked to any more, before its sessions fail.
            on_exit: called once when its process is gone.
        """
        self.number = number
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        """The worker's first message; an `Unavailable` error when it ends before."""
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self.exited = asyncio.Event()
        self._on_lost = on_lost
        self._on_exit = on_exit
        self.lost = False
        """The worker can't be talked to any more."""
        self._memory = MemoryUsed(used_bytes=0, total_bytes=0, num_parked=0)
        """Of the device, by sessions."""
        slot_bytes, inlet_bytes = config.slot_bytes(specs), config.inlet_slot_bytes(specs)
        self._ring = Ring.create(f"framehaul-frames-{number}", num_slots=config.num_slots, slot_bytes=slot_bytes)
        self._inlet = Inlet(f"framehaul-latents-{number}", num_slots=config.num_inlet_slots, slot_bytes=inlet_bytes)
        self._leases = LeaseTable(self._ring.num_slots)
        self._feeder = Feeder(config.chunk_latents, config.num_inlet_slots)
        self._sessions: dict[int, SessionEvents] = {}
        self._requests: dict[int, OpenSession] = {}
        self._retired = False
        self._watchdog = Watchdog(config.chunk_timeout_s, probe=lambda: self._channel.send(Probe()), hung=self._give_up)

        self._process = WorkerProcess(on_exit=self._reap) if process is None else process
        self._process.on_exit = self._reap
        self._channel = ServerChannel(self._process.connection, on_message=self._receive, on_eof=self._lose)
        configure = Configure(epoch=number, config=config, slot_bytes=slot_bytes, inlet_slot_bytes=inlet_bytes)
        self._channel.send_configure(configure, [self._ring.fd, self._inlet.ring.fd, plans.fd])

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def shared_bytes(self) -> int:
        """Memory of both rings."""
        return self._ring.num_bytes + self._inlet.ring.num_bytes

    def statistics(self) -> WorkerStatistics:
        """How full the rings and the device's memory are now."""
        return WorkerStatistics(
            num_slots=self._ring.num_slots,
            num_leased=self._leases.num_leased,
            num_inlet_slots=self._inlet.ring.num_slots,
            num_inlet_free=self._inlet.num_free,
            num_sessions=len(self._sessions),
            session_memory_bytes=self._memory.total_bytes,
            session_memory_used_bytes=self._memory.used_bytes,
            num_parked=self._memory.num_parked,
        )

    def begin(self) -> None:
        """Let the worker use the device: the sessions of the worker before are open again."""
        self._channel.send(Begin())

    def open(self, request: OpenSession, events: SessionEvents) -> None:
        """Open a session."""
        self._sessions[request.session] = events
        self._requests[request.session] = request
        self._feeder.open(request.session, priority=request.priority, tenant=request.tenant, weight=request.weight)
        self._channel.send(request)

    def push(self, session: int, latent: memoryview) -> None:
        """Queue one latent for the inlet."""
        feed = self._feeder.get(session)
        if feed is not None:
            feed.waiting.append(latent)
            self._feed()

    def allow(self, session: int, num_latents: int) -> None:
        """Let the first `num_latents` latents go to the worker; never fewer than before."""
        feed = self._feeder.get(session)
        if feed is not None:
            feed.num_allowed = max(feed.num_allowed, num_latents)
            self._feed()

    def end(self, session: int) -> None:
        """No more latents come."""
        feed = self._feeder.get(session)
        if feed is not None:
            feed.ended = True
            self._feed()

    def close(self, session: int) -> None:
        """Drop a session; twice is fine."""
        if self._forget(session) is not None:
            self._channel.send(CloseSession(session=session))

    def shut_down(self) -> None:
        """Ask the worker to finish what is in flight and exit; one that hangs is now the caller's to `kill`."""
        self._watchdog.stop()
        self._channel.send(Shutdown())

    def kill(self) -> None:
        """End the process at once; nothing when it has ended."""
        self._process.kill()

    def _feed(self) -> None:
        while (latent := self._feeder.next_latent(self._inlet.num_free)) is not None:
            slot, generation = self._inlet.put(latent)
            self._channel.send(LatentReady(session=latent.session, slot=slot, generation=generation))
            self._sessions[latent.session].on_fed(latent.index + 1)
        while (session := self._feeder.next_end()) is not None:
            self._channel.send(EndOfLatents(session=session))

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
                self._feeder.charge(message)
            case InletReturned():
                self._feeder.returned(self._inlet.give_back(message.slot, message.generation))
                self._feed()
            case SessionOpened():
                events = self._sessions.get(message.session)
                if events is not None:
                    events.on_opened()
            case MemoryUsed():
                self._memory = message
            case SessionEnded():
                events = self._forget(message.session)
                if events is not None:
                    events.on_ended(message.num_frames)
            case SessionFailed():
                events = self._forget(message.session)
                if events is not None:
                    error = Overloaded(message.reason, retry_after_s=_RETRY_AFTER_S)
                    events.on_failed(error if message.overloaded else PipelineError(message.reason))
            case Alive():
                oldest = message.oldest
                self._watchdog.answered(message, self._shape(oldest.session, oldest.num_latents) if oldest else None)
            case Ready():
                self._watchdog.start()
                self.ready.set_result(message)

    def _publish(self, published: Published) -> None:
        self._leases.lease(published.slot, published.generation)
        self._watchdog.published(self._shape(published.session, published.num_latents), published.decode_ns)
        events = self._sessions.get(published.session)
        if events is None:
            self._return_slot(published.slot)
            return
        header = self._ring.read_header(published.slot)
        num_frames = len(published.crc32c)
        told = SlotHeader(
            published.generation, published.session, published.first_frame, num_frames, published.frame_bytes
        )
        if header != told:
            raise RingError(f"slot {published.slot} holds {header}: the worker said {told}")
        with self._ring.payload(published.slot) as payload:
            view = payload[: num_frames * published.frame_bytes].toreadonly()
        events.on_published(FrameLease(published, view, lambda: self._return_slot(published.slot)))

    def _return_slot(self, slot: int) -> None:
        generation = self._leases.give_back(slot)
        self._channel.send(SlotReturned(slot=slot, generation=generation))
        self._close_rings()

    def _shape(self, session: int, num_latents: int) -> ChunkShape | None:
        request = self._requests.get(session)
        return ChunkShape.of(request, num_latents) if request is not None else None

    def _forget(self, session: int) -> SessionEvents | None:
        self._feeder.close(session)
        self._requests.pop(session, None)
        return self._sessions.pop(session, None)

    def _lose(self) -> None:
        """The worker can't be talked to any more: no message will come, and none goes out."""
        if self.lost:
            return
        self.lost = True
        self._watchdog.stop()
        self._channel.close()
        self._on_lost(self)
        at_work = self._ring.noted()
        for session in list(self._sessions):
            events = self._forget(session)
            if events is not None:
                events.on_failed(WorkerLost(at_work=AtWork.of(session, at_work)))

    def _reap(self, exit_code: int) -> None:
        """The process is truly gone."""
        self._lose()
        if not self.ready.done():
            error = Unavailable(f"the worker process ended before it was ready, exit code {exit_code}")
            self.ready.set_exception(error)
        _log.info("worker gone epoch=%d pid=%d exit_code=%d", self.number, self.pid, exit_code)
        self.exited.set()
        self._close_rings()
        self._on_exit(self)

    def _close_rings(self) -> None:
        if self.exited.is_set() and self._leases.num_leased == 0 and not self._retired:
            self._retired = True
            self._ring.close()
            self._inlet.ring.close()
