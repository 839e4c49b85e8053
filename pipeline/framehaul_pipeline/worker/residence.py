"""Where each session of a worker lives: lets sessions in, and moves their state between device and host.

`memory` decides, `parking` copies, and this holds the two together. For the launch thread and, where a method says so,
for every thread under the worker's lock. Imports torch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.device.streams import Device, Event
from framehaul_pipeline.link.messages import MemoryUsed, OpenSession, SessionOpened, ToServer
from framehaul_pipeline.scheduling.in_flight import Running
from framehaul_pipeline.scheduling.memory import Enter, MemoryLimits, Park, Pin, Restore, SessionMemory
from framehaul_pipeline.worker.jobs import MoveJob, OpenJob, ParkJob, PinJob, RestoreJob, SettleJob
from framehaul_pipeline.worker.launch import Launcher, Place
from framehaul_pipeline.worker.parking import forget


@dataclass(frozen=True, slots=True)
class _Copy:
    """A session's state on its way to the host, or back."""

    session: int
    place: Place
    copied: Event
    parks: bool


class Residence:
    """The places of a worker's sessions. Methods are called under the worker's lock, all but `start`."""

    def __init__(
        self,
        device: Device,
        launcher: Launcher,
        decoders: Mapping[str, Decoder],
        limits: MemoryLimits,
        running: Running,
        *,
        send: Callable[[ToServer], None],
    ) -> None:
        """Share out what `device` offers now, within `limits`; `send` tells the server how much is used.

        What is at work on the device is read from `running`, and sessions' openings are noted there.
        """
        self._launcher, self._parking = launcher, launcher.parking
        self._decoders = decoders
        self._running = running
        self._made: Place | None = None
        self._page_bytes = limits.page_bytes
        self._send = send
        self.memory = SessionMemory(
            device_bytes=limits.device_total(device.free_bytes()),
            park_bytes=limits.park_bytes,
            page_bytes=limits.page_bytes,
        )
        self.places: dict[int, Place] = {}
        self._requests: dict[int, OpenSession] = {}
        """Sessions that are let in and have no state yet."""
        self._copies: deque[_Copy] = deque()
        """In the order they were launched, which is that in which they end."""
        self.waiting: MoveJob | None = None
        """The next move, which may not begin yet: until it has, no chunk should be launched either."""
        self._told: MemoryUsed | None = None
        self.tell()

    def admit(self, request: OpenSession, max_latents: int) -> str | None:
        """Let a session with chunks of at most `max_latents` in; gives the reason if there is no room for it."""
        decoder = self._decoders[request.model]
        refusal = self.memory.admit(
            request.session,
            priority=request.priority,
            state_bytes=decoder.state_bytes(request.geometry),
            workspace_bytes=decoder.workspace_bytes(request.geometry, max_latents),
        )
        if refusal is None:
            self._requests[request.session] = request
        return refusal

    def release(self, session: int) -> None:
        """Free what a session holds, once a copy of its state is done; twice is fine."""
        self._requests.pop(session, None)
        self.places.pop(session, None)
        self.memory.close(session)
        self.tell()

    def take(self, *, runnable: Callable[[int], bool], may_begin: Callable[[int], bool]) -> MoveJob | None:
        """Take the next move of state, None when there is none to make now; on the launch thread.

        Args:
            runnable: whether a session has a chunk to decode.
            may_begin: whether a session's work may begin now; a move that was to be made waits until it may.
        """
        job = self.waiting = self.waiting or self._next_move(runnable)
        if job is None or not may_begin(job.session):
            return None
        self.waiting = None
        if isinstance(job, OpenJob):
            self._running.begin(job.session, None, 0, time.monotonic_ns())
        return job

    def start(self, job: MoveJob) -> None:
        """Make a state, launch a copy of one, or make host pages; on the launch thread, without the lock.

        Raises:
            torch.OutOfMemoryError: the device has no room for a state.
            RuntimeError: the host has no memory for pages.
        """
        match job:
            case OpenJob(request):
                self._made = self._launcher.open(
                    self._decoders[request.model],
                    request.geometry,
                    num_latents=request.num_latents,
                    first_latent=request.first_latent,
                    dtype=request.dtype,
                    normalized=request.normalized,
                    pixel_format=request.pixel_format,
                )
            case ParkJob(session, place, pages):
                self._copies.append(_Copy(session, place, self._parking.park(place, pages), parks=True))
            case RestoreJob(session, place, pages):
                self._copies.append(_Copy(session, place, self._parking.restore(place, pages), parks=False))
            case PinJob():
                self._parking.pin(job.num_pages, self._page_bytes)

    def started(self, job: MoveJob, *, wanted: bool) -> None:
        """Note what `start` has made; a session may have been closed meanwhile, and is not `wanted` any more."""
        made, self._made = self._made, None
        self._finish(job)
        if isinstance(job, PinJob):
            self.memory.pinned(job.num_pages)
        elif made is not None and wanted:
            self.places[job.session] = made
            self.tell()
            self._send(SessionOpened(session=job.session))

    def collect(self) -> None:
        """Note the copies that are done; on the launch thread."""
        while self._copies and self._copies[0].copied.done():
            copy = self._copies.popleft()
            if copy.parks:
                forget(copy.place)
            self.memory.moved(copy.session)
            self.tell()

    def oldest_copy(self) -> SettleJob | None:
        """What to wait for when nothing else is to do."""
        return SettleJob(self._copies[0].copied) if self._copies else None

    def fail(self, job: MoveJob) -> None:
        """A move failed; nothing of it runs on the device any more, and its session must be released."""
        self._finish(job)
        if isinstance(job, ParkJob | RestoreJob):
            self.memory.moved(job.session)
        elif isinstance(job, PinJob):
            self.memory.cannot_pin()

    def tell(self) -> None:
        """Tell the server what sessions use, if that is limited and has changed."""
        memory = self.memory
        used = MemoryUsed(used_bytes=memory.used_bytes, total_bytes=memory.total_bytes, num_parked=memory.num_parked)
        if memory.total_bytes and used != self._told:
            self._told = used
            self._send(used)

    def _next_move(self, runnable: Callable[[int], bool]) -> MoveJob | None:
        match self.memory.next_move(runnable=runnable, in_flight=self._running):
            case Enter(session):
                return OpenJob(self._requests.pop(session))
            case Park(session, pages):
                return ParkJob(session, self.places[session], pages)
            case Restore(session, pages):
                return RestoreJob(session, self.places[session], pages)
            case Pin(num_pages, session):
                return PinJob(session, num_pages)
        return None

    def _finish(self, job: MoveJob) -> None:
        if isinstance(job, OpenJob):
            self._running.finish(job.session, None, time.monotonic_ns())
