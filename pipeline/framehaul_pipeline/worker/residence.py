"""Where each session of a worker lives: lets sessions in, and moves their state between device and host.

`memory` decides, `parking` copies, and this holds the two together. For the launch thread and, where a method says so,
for every thread under the worker's lock. Imports torch.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.device.streams import Device, Event
from framehaul_pipeline.link.messages import MemoryUsed, OpenSession, ToServer
from framehaul_pipeline.scheduling.in_flight import Running
from framehaul_pipeline.scheduling.memory import Enter, MemoryLimits, Park, Pin, Restore, SessionMemory
from framehaul_pipeline.spec import UNTOLD_LATENTS
from framehaul_pipeline.worker.jobs import MoveJob, SettleJob
from framehaul_pipeline.worker.launch import Launcher
from framehaul_pipeline.worker.parking import Place, forget


class Residence:
    """The places of a worker's sessions. Methods are called under the worker's lock, all but `start`."""

    def __init__(
        self,
        device: Device,
        launcher: Launcher,
        limits: MemoryLimits,
        running: Running,
        *,
        send: Callable[[ToServer], None],
    ) -> None:
        """Share out what `device` offers now, within `limits`; `send` tells the server how much is used.

        What is at work on the device is read from `running`, and sessions' openings are noted there.
        """
        self._launcher, self._parking = launcher, launcher.parking
        self._running = running
        self._page_bytes = limits.page_bytes
        self._send = send
        self.memory = SessionMemory(
            device_bytes=limits.device_total(device.free_bytes()),
            park_bytes=limits.park_bytes,
            page_bytes=limits.page_bytes,
        )
        self.places: dict[int, Place] = {}
        self._copies: deque[tuple[MoveJob, Event]] = deque()
        """States on their way, in the order they were launched, which is that in which they end."""
        self.waiting: MoveJob | None = None
        """The next move, which may not begin yet: until it has, no chunk should be launched either."""
        self._told: MemoryUsed | None = None
        self.tell()

    def admit(self, request: OpenSession, decoder: Decoder, max_latents: int) -> str | None:
        """Let a session of `decoder` with chunks of at most `max_latents` in; gives the reason if there is no room.

        Those that are to be repeated as another worker cut them may be longer.
        """
        opening = request.opening
        state_bytes, itemsize_bytes = decoder.state_bytes(opening.geometry), decoder.dtype.itemsize
        workspace_bytes = decoder.workspace_bytes(opening.geometry, max((max_latents, *opening.chunks)))

        def in_all(num_latents: int | None) -> int:
            return state_bytes + decoder.spec.more_state_bytes(opening.geometry, num_latents, itemsize_bytes)

        refusal = self.memory.admit(
            request.session,
            priority=opening.priority,
            state_bytes=in_all(opening.num_latents),
            workspace_bytes=workspace_bytes,
        )
        if refusal is None:
            self.places[request.session] = Place(decoder, opening)
        elif decoder.spec.growth_bytes_per_pixel:
            told = UNTOLD_LATENTS if opening.num_latents is None else opening.num_latents
            too_long = bisect_left(range(told), True, key=lambda n: not self.memory.fits(in_all(n), workspace_bytes))
            if too_long > 1:
                refusal += f"; a clip of {too_long - 1} latents or fewer fits, if its opening tells how many it has"
        return refusal

    def release(self, session: int) -> None:
        """Free what a session holds, once a copy of its state is done; twice is fine."""
        self.places.pop(session, None)
        self.memory.close(session)
        self.tell()

    def take(self, *, runnable: Callable[[int], bool], may_begin: Callable[[int], bool]) -> MoveJob | None:
        """Take the next move of state, None when there is none to make now; on the launch thread.

        Args:
            runnable: whether a session has a chunk to decode.
            may_begin: whether a session's work may begin now; a move that was to be made waits until it may.
        """
        if self.waiting is None:
            move = self.memory.next_move(runnable=runnable, in_flight=self._running)
            self.waiting = None if move is None else MoveJob(move, self.places[move.session])
        job = self.waiting
        if job is None or not may_begin(job.session):
            return None
        self.waiting = None
        if isinstance(job.move, Enter):
            self._running.begin(job.session, None, 0, time.monotonic_ns())
        return job

    def start(self, job: MoveJob) -> None:
        """Make a state, launch a copy of one, or make host pages; on the launch thread, without the lock.

        Raises:
            torch.OutOfMemoryError: the device has no room for a state.
            RuntimeError: the host has no memory for pages.
        """
        match job.move:
            case Enter():
                self._launcher.open(job.place)
            case Park(pages=pages):
                self._copies.append((job, self._parking.park(job.place, pages)))
            case Restore(pages=pages):
                self._copies.append((job, self._parking.restore(job.place, pages)))
            case Pin(num_pages):
                self._parking.pin(num_pages, self._page_bytes)

    def started(self, job: MoveJob) -> None:
        """Note what `start` has made; the session may have been closed meanwhile."""
        match job.move:
            case Enter(session):
                self._running.finish(session, None, time.monotonic_ns())
                self.tell()
            case Pin(num_pages):
                self.memory.pinned(num_pages)

    def collect(self) -> None:
        """Note the copies that are done; on the launch thread."""
        while self._copies and self._copies[0][1].query():
            job, _ = self._copies.popleft()
            if isinstance(job.move, Park):
                forget(job.place)
            self.memory.moved(job.session)
            self.tell()

    def oldest_copy(self) -> SettleJob | None:
        """What to wait for when nothing else is to do."""
        return SettleJob(self._copies[0][1]) if self._copies else None

    def fail(self, job: MoveJob) -> None:
        """A move failed; nothing of it runs on the device any more, and its session must be released."""
        match job.move:
            case Enter(session):
                self._running.finish(session, None, time.monotonic_ns())
            case Park(session) | Restore(session):
                self.memory.moved(session)
            case Pin():
                self.memory.cannot_pin()

    def tell(self) -> None:
        """Tell the server what sessions use, if that is limited and has changed."""
        memory = self.memory
        used = MemoryUsed(used_bytes=memory.used_bytes, total_bytes=memory.total_bytes, num_parked=memory.num_parked)
        if memory.total_bytes and used != self._told:
            self._told = used
            self._send(used)
