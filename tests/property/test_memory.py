"""Session memory with small budgets: within them always, and whoever was let in has its turn."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framehaul_pipeline.scheduling.memory import Enter, Park, Pin, Restore, SessionMemory

MAX_IN_FLIGHT = 2


class Session:
    def __init__(self, priority: int, state_pages: int, workspace_pages: int) -> None:
        self.priority, self.state_pages, self.workspace_pages = priority, state_pages, workspace_pages
        self.waiting = 0
        self.content: int | None = None
        """What its state holds on the device: the number of latents decoded."""
        self.decoded = 0
        self.entered = False


class MemoryMachine(RuleBasedStateMachine):
    """Moves and chunks are done as the worker does them; copies end late, in order."""

    @initialize(device_pages=st.integers(1, 12), host_pages=st.integers(0, 12))
    def begin(self, device_pages: int, host_pages: int) -> None:
        self.device_pages, self.host_pages = device_pages, host_pages
        self.memory = SessionMemory(device_bytes=device_pages, park_bytes=host_pages, page_bytes=1)
        self.sessions: dict[int, Session] = {}
        self.closed: dict[int, Session] = {}
        self.num_opened = 0
        self.pages: list[int | None] = []
        self.copies: deque[Park | Restore] = deque()
        self.in_flight: deque[int] = deque()

    def runnable(self, session: int) -> bool:
        return session in self.sessions and self.sessions[session].waiting > 0

    @rule(priority=st.integers(0, 1), state_pages=st.integers(1, 5), workspace_pages=st.integers(0, 2))
    def open(self, priority: int, state_pages: int, workspace_pages: int) -> None:
        self.num_opened += 1
        refusal = self.memory.admit(
            self.num_opened, priority=priority, state_bytes=state_pages, workspace_bytes=workspace_pages
        )
        if refusal is None:
            self.sessions[self.num_opened] = Session(priority, state_pages, workspace_pages)
        else:
            opened = [*self.sessions.values(), Session(priority, state_pages, workspace_pages)]
            workspace = max(session.workspace_pages for session in opened)
            assert sum(session.state_pages for session in opened) + workspace > self.device_pages

    @precondition(lambda self: self.sessions)
    @rule(choice=st.integers(0), num_latents=st.integers(1, 3))
    def feed(self, choice: int, num_latents: int) -> None:
        self.sessions[self._pick(choice)].waiting += num_latents

    @precondition(lambda self: self.sessions)
    @rule(choice=st.integers(0))
    def close(self, choice: int) -> None:
        number = self._pick(choice)
        self.closed[number] = self.sessions.pop(number)
        self.memory.close(number)

    @rule()
    def move(self) -> None:
        self._move()

    @rule()
    def decode(self) -> None:
        self._decode()

    @precondition(lambda self: self.copies)
    @rule()
    def copy_ends(self) -> None:
        copy = self.copies.popleft()
        session = self.sessions.get(copy.session) or self.closed[copy.session]
        if isinstance(copy, Park):
            for page in copy.pages:
                self.pages[page] = copy.session
            session.content = None
        else:
            assert [self.pages[page] for page in copy.pages] == [copy.session] * session.state_pages
            session.content = session.decoded
        self.memory.moved(copy.session)

    @precondition(lambda self: self.in_flight)
    @rule()
    def chunk_ends(self) -> None:
        self.in_flight.popleft()

    @invariant()
    def within_the_budgets(self) -> None:
        if hasattr(self, "memory"):
            copying = [copy.session for copy in self.copies]
            everyone = self.sessions | self.closed
            held = [each for number, each in everyone.items() if number in copying or self.memory.resident(number)]
            workspace = max((session.workspace_pages for session in held), default=0)
            assert sum(session.state_pages for session in held) + workspace == self.memory.used_bytes
            assert self.memory.used_bytes <= self.device_pages
            assert len(self.pages) <= self.host_pages

    def teardown(self) -> None:
        """Once nobody feeds them any more, all decode what they have, however little memory there is."""
        if not hasattr(self, "memory"):
            return
        while self._move() or self._decode() or self.copies or self.in_flight:
            if self.copies:
                self.copy_ends()
            if self.in_flight:
                self.chunk_ends()
        assert not any(session.waiting for session in self.sessions.values())
        assert all(session.entered for session in self.sessions.values())
        for number in list(self.sessions):
            self.memory.close(number)
        assert (self.memory.used_bytes, self.memory.num_parked) == (0, 0)

    def _pick(self, choice: int) -> int:
        return list(self.sessions)[choice % len(self.sessions)]

    def _move(self) -> bool:
        move = self.memory.next_move(runnable=self.runnable, in_flight=self.in_flight)
        match move:
            case Enter(number):
                self.sessions[number].content = 0
                self.sessions[number].entered = True
            case Park(number, pages):
                assert number not in self.in_flight
                assert len(pages) == self.sessions[number].state_pages
                if self.runnable(number):
                    assert self._someone_above(self.sessions[number].priority)
                self.copies.append(Park(number, pages))
            case Restore():
                self.copies.append(move)
            case Pin(num_pages):
                self.pages += [None] * num_pages
                self.memory.pinned(num_pages)
        return move is not None

    def _someone_above(self, priority: int) -> bool:
        return any(
            session.priority > priority and not self.memory.resident(number)
            for number, session in self.sessions.items()
        )

    def _decode(self) -> bool:
        if len(self.in_flight) == MAX_IN_FLIGHT:
            return False
        for number, session in self.sessions.items():
            if session.waiting and self.memory.resident(number):
                assert session.content == session.decoded
                session.waiting -= 1
                session.decoded += 1
                session.content = session.decoded
                self.in_flight.append(number)
                self.memory.ran(number)
                return True
        return False


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=150, stateful_step_count=60)
