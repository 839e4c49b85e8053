"""Which sessions' state is on the device, which is parked in host memory, and who is let in.

Pure; run by the worker under its lock.

State, not weights, bounds how many sessions a device serves. A session is let in only if it can have its turn: either
all sessions fit the device, or those that don't can be swapped through host memory whole, whatever the order.
When a session needs room, sessions that stand still are parked; one that could run gives way to a higher priority
alone. Memory is counted in pages, on both sides, so that host memory never fragments.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from framehaul_pipeline.config import PAGE_BYTES, WorkerConfig

_CPU_PAGE_BYTES: Final = 1 << 20
_MAX_RESERVE_BYTES: Final = 1 << 30
_MAX_DEFAULT_PARK_BYTES: Final = 16 << 30
PIN_PAGES: Final = 8
"""Pages made in one step: pinning takes the launch thread's time, some 30 ms for so many."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """What sessions may use."""

    device_bytes: int | None = None
    """None: what the device offers, less a reserve."""
    park_bytes: int = 0
    """Host memory for parked sessions; 0: none is parked."""
    page_bytes: int = PAGE_BYTES

    @classmethod
    def of(cls, config: WorkerConfig, *, own_memory: bool, host_bytes: int) -> MemoryLimits:
        """Limits of a worker, on a host of `host_bytes`, whose device has memory of its own or lives in the host's."""
        park_bytes = config.park_bytes
        if park_bytes is None:
            # On the CPU, sessions are in the host's memory as it is.
            park_bytes = default_park_bytes(host_bytes) if own_memory else 0
        # Where nothing is parked, a small session need not count for a whole page of what it would be parked in.
        page_bytes = PAGE_BYTES if own_memory or park_bytes else _CPU_PAGE_BYTES
        return cls(device_bytes=config.device_memory_bytes, park_bytes=park_bytes, page_bytes=page_bytes)

    def whole_pages(self, num_bytes: int) -> int:
        """The bytes of the pages that hold so many."""
        return -(-num_bytes // self.page_bytes) * self.page_bytes

    def most_alike(self, device_bytes: int, state_bytes: int) -> tuple[int, int]:
        """How many sessions with so much state, 1 byte or more, are let in, if decoding took nothing beside them.

        `SessionMemory` decides the same way: one place on the host stays free for swapping.

        Returns:
            Those that `device_bytes` hold, and those that are parked beyond them.
        """
        held_bytes = self.whole_pages(state_bytes)
        on_device, places = device_bytes // held_bytes, self.park_bytes // held_bytes
        return on_device, max(0, places - 1) if on_device else 0

    def device_total(self, free_bytes: int | None) -> int | None:
        """Device memory for sessions when `free_bytes` are free, None: not known; gives None for no limit."""
        if free_bytes is None:
            return self.device_bytes
        # What is left stays for the driver, libraries' own workspaces and gaps between allocations.
        offered = free_bytes - min(_MAX_RESERVE_BYTES, free_bytes // 10)
        return offered if self.device_bytes is None else min(offered, self.device_bytes)


def default_park_bytes(host_bytes: int) -> int:
    """Host memory for parked sessions on a host that has `host_bytes`: a quarter, and no more than 16 GiB.

    Three sessions of Wan at 720x1280; one of those places must stay free for swapping.
    """
    return min(_MAX_DEFAULT_PARK_BYTES, host_bytes // 4)


class Home(Enum):
    """Where a session's state is: `NEW -> DEVICE -> LEAVING -> PARKED -> RETURNING -> DEVICE`."""

    NEW = "new"
    """Let in; there is no state yet."""
    DEVICE = "device"
    LEAVING = "leaving"
    """Being copied to the host: holds memory on both sides."""
    PARKED = "parked"
    RETURNING = "returning"
    """Being copied to the device: holds memory on both sides."""


_ON_DEVICE: Final = (Home.DEVICE, Home.LEAVING, Home.RETURNING)


@dataclass(frozen=True, slots=True)
class Enter:
    """Make a new session's state on the device."""

    session: int


@dataclass(frozen=True, slots=True)
class Park:
    """Copy a session's state to these pages; `SessionMemory.moved` when it is done."""

    session: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """Copy a session's state back from these pages; `SessionMemory.moved` when it is done."""

    session: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """Make so many more host pages, that `session` may have room."""

    num_pages: int
    session: int


Move = Enter | Park | Restore | Pin


@dataclass(slots=True, eq=False)
class _Session:
    priority: int
    num_pages: int
    workspace_pages: int
    home: Home = Home.NEW
    last_run: int = 0
    pages: tuple[int, ...] = field(default=())
    closed: bool = False
    """Gone but for a copy under way, which still uses its memory."""


class SessionMemory:
    """The memory of one worker's sessions."""

    def __init__(self, *, device_bytes: int | None, park_bytes: int, page_bytes: int) -> None:
        """Share out `device_bytes` (None: unlimited) and `park_bytes` of host memory, in pages of `page_bytes`."""
        self._page_bytes = page_bytes
        self._unlimited = device_bytes is None
        self._device_pages = sys.maxsize if device_bytes is None else device_bytes // page_bytes
        self._host_pages = park_bytes // page_bytes
        self._num_pinned = 0
        self._free_pages: list[int] = []
        self._sessions: dict[int, _Session] = {}
        """In order of service."""
        self._num_runs = 0

    @property
    def total_bytes(self) -> int:
        """Device memory for sessions; 0: unlimited."""
        return 0 if self._unlimited else self._device_pages * self._page_bytes

    @property
    def used_bytes(self) -> int:
        """Device memory that sessions hold or may need for their next chunk."""
        return self._used_pages(self._at(*_ON_DEVICE)) * self._page_bytes

    @property
    def total_used_bytes(self) -> int:
        """The same, and the host pages that were made for parked sessions."""
        return self.used_bytes + self._num_pinned * self._page_bytes

    @property
    def num_parked(self) -> int:
        """Sessions whose state is in host memory alone."""
        return len(self._at(Home.PARKED))

    def admit(self, session: int, *, priority: int, state_bytes: int, workspace_bytes: int) -> str | None:
        """Let a session in, behind those of its priority.

        Returns:
            None, or why it can't be let in: for clients.
        """
        newcomer = _Session(priority, self._to_pages(state_bytes), self._to_pages(workspace_bytes))
        if not self.fits(state_bytes, workspace_bytes):
            return self._full(newcomer)
        self._sessions[session] = newcomer
        self._sessions = dict(sorted(self._sessions.items(), key=lambda item: (-item[1].priority, item[0])))
        return None

    def fits(self, state_bytes: int, workspace_bytes: int) -> bool:
        """Whether a session of so much memory would be let in."""
        newcomer = _Session(0, self._to_pages(state_bytes), self._to_pages(workspace_bytes))
        return self._can_serve([*(each for each in self._sessions.values() if not each.closed), newcomer])

    def describe(self, session: int) -> str:
        """Why a session that was let in got no memory after all: for clients."""
        state = self._sessions.get(session)
        return self._full(state) if state is not None else "device memory is full"

    def resident(self, session: int) -> bool:
        """Whether the session's state is on the device, ready for a chunk."""
        state = self._sessions.get(session)
        return state is not None and state.home is Home.DEVICE

    def ran(self, session: int) -> None:
        """A chunk of the session was launched: of those that stand still, the longest ago is parked first."""
        self._num_runs += 1
        self._sessions[session].last_run = self._num_runs

    def next_move(self, *, runnable: Callable[[int], bool], in_flight: Container[int]) -> Move | None:
        """Take the next thing to do so that a session that needs room has it; None: nothing, or a copy must end first.

        Only the first session in order that needs room is looked at: smaller ones behind it don't get by for ever.

        Args:
            runnable: whether a session has a chunk to decode.
            in_flight: sessions with a chunk on the device, which are not parked.
        """
        if self._at(Home.RETURNING):
            return None
        for session, state in self._sessions.items():
            if not state.closed and (state.home is Home.NEW or (state.home is Home.PARKED and runnable(session))):
                return self._bring(session, state, runnable, in_flight)
        return None

    def moved(self, session: int) -> None:
        """A session's copy, to the host or back, is done."""
        state = self._sessions[session]
        if state.closed:
            self._remove(session)
        elif state.home is Home.LEAVING:
            self._change(session, Home.PARKED)
        else:
            self._give_back(state)
            self._change(session, Home.DEVICE)

    def pinned(self, num_pages: int) -> None:
        """So many more host pages were made; they have the next numbers."""
        self._free_pages.extend(range(self._num_pinned, self._num_pinned + num_pages))
        self._num_pinned += num_pages

    def cannot_pin(self) -> None:
        """The host has no more memory to pin: what there is is the limit from now on."""
        self._host_pages = self._num_pinned

    def close(self, session: int) -> None:
        """Free a session's memory on both sides, once a copy under way is done; an unknown session is fine."""
        state = self._sessions.get(session)
        if state is None:
            return
        if state.home in (Home.LEAVING, Home.RETURNING):
            state.closed = True
        else:
            self._remove(session)

    def _bring(
        self, session: int, state: _Session, runnable: Callable[[int], bool], in_flight: Container[int]
    ) -> Move | None:
        staying = [*self._at(Home.DEVICE), state]
        if self._used_pages([*staying, *self._at(Home.LEAVING)]) <= self._device_pages:
            self.ran(session)  # it is about to
            if state.home is Home.NEW:
                self._change(session, Home.DEVICE)
                return Enter(session)
            self._change(session, Home.RETURNING)
            return Restore(session, state.pages)
        victims = self._victims(state, runnable, in_flight)
        first = victims[0] if victims else None
        while victims and self._used_pages(staying) > self._device_pages:
            staying.remove(self._sessions[victims.pop(0)])
        if first is None or self._used_pages(staying) > self._device_pages:
            return None  # a session that runs will stand still or end, or a copy under way makes room
        victim = self._sessions[first]
        if victim not in staying:
            return self._park(first, victim, session)
        return None  # copies under way make enough room

    def _victims(self, wanting: _Session, runnable: Callable[[int], bool], in_flight: Container[int]) -> list[int]:
        def key(session: int) -> tuple[bool, int, int]:
            state = self._sessions[session]
            return runnable(session), state.priority, state.last_run

        return sorted(
            (
                session
                for session, state in self._sessions.items()
                if state.home is Home.DEVICE
                and session not in in_flight
                and (not runnable(session) or state.priority < wanting.priority)
            ),
            key=key,
        )

    def _park(self, session: int, victim: _Session, wanting: int) -> Move | None:
        missing = victim.num_pages - len(self._free_pages)
        if missing > 0:
            num_pages = min(PIN_PAGES, self._host_pages - self._num_pinned)
            return Pin(num_pages, wanting) if missing <= self._host_pages - self._num_pinned else None
        victim.pages = tuple(self._free_pages.pop() for _ in range(victim.num_pages))
        self._change(session, Home.LEAVING)
        return Park(session, victim.pages)

    def _can_serve(self, sessions: list[_Session]) -> bool:
        """Whether each of them can be brought to the device at some time, wherever the others are.

        To bring in one of p pages, those parked free v < p - free + largest pages, and the host must have room for
        them while it still holds the one; counted in the sizes' greatest common divisor, that is the bound below.
        """
        sizes = [each.num_pages for each in sessions]
        device = self._device_pages - max(each.workspace_pages for each in sessions)
        if sum(sizes) <= device:
            return True
        unit, largest = math.gcd(*sizes), max(sizes)
        places = device // unit * unit + self._host_pages // unit * unit
        return largest <= device and sum(sizes) <= places - 2 * largest + unit

    def _used_pages(self, sessions: list[_Session]) -> int:
        workspace = max((each.workspace_pages for each in sessions), default=0)
        return workspace + sum(each.num_pages for each in sessions)

    def _at(self, *homes: Home) -> list[_Session]:
        return [each for each in self._sessions.values() if each.home in homes]

    def _full(self, state: _Session) -> str:
        needed = f"{self._gib(state.num_pages)} for its state and {self._gib(state.workspace_pages)} to decode"
        text = f"device memory is full: a session of this size needs {needed}"
        if self._unlimited:
            return text
        on_device = self._at(*_ON_DEVICE)
        return (
            f"{text}; {len(on_device)} sessions use {self._gib(self._used_pages(on_device))} of "
            f"{self._gib(self._device_pages)}, and {self.num_parked} are parked in "
            f"{self._gib(self._num_pinned - len(self._free_pages))} of {self._gib(self._host_pages)}"
        )

    def _gib(self, num_pages: int) -> str:
        return f"{num_pages * self._page_bytes / (1 << 30):.2f} GiB"

    def _change(self, session: int, home: Home) -> None:
        state = self._sessions[session]
        _log.debug("session memory %s -> %s session=%d", state.home.value, home.value, session)
        state.home = home

    def _remove(self, session: int) -> None:
        self._give_back(self._sessions.pop(session))

    def _give_back(self, state: _Session) -> None:
        self._free_pages.extend(state.pages)
        state.pages = ()

    def _to_pages(self, num_bytes: int) -> int:
        return -(-num_bytes // self._page_bytes)
