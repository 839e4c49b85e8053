"""The whole worker on a device whose copies complete late and in jumps: nothing lost, repeated, mixed up or torn."""

import struct
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framehaul_pipeline.link.messages import (
    Alive,
    CloseSession,
    EndOfLatents,
    InletReturned,
    LatentReady,
    MemoryUsed,
    OpenSession,
    Probe,
    Published,
    SessionEnded,
    SessionFailed,
    SlotReturned,
    ToServer,
)
from framehaul_pipeline.rings.ring import Ring, SlotHeader
from framehaul_pipeline.rings.slots import LeaseTable, SlotTable
from framehaul_pipeline.scheduling.memory import MemoryLimits
from framehaul_pipeline.spec import Geometry
from framehaul_pipeline.worker.highlights import BatchJob
from framehaul_pipeline.worker.jobs import SettleJob
from framehaul_pipeline.worker.launch import InFlight
from framehaul_pipeline.worker.worker import MAX_IN_FLIGHT, Worker
from tests.support.fake_decoder import FakeDecoder, expected_levels, fake_opening
from tests.support.simulated_device import SimulatedDevice

NUM_SLOTS, NUM_INLET_SLOTS, CHUNK_LATENTS = 3, 6, 2
FRAME_BYTES = 2 * 2 * 3
STATE_BYTES = FakeDecoder().state_bytes(Geometry(channels=1, height=1, width=1))


class Session:
    def __init__(self) -> None:
        self.sent: list[int] = []
        self.levels: list[int] = []
        self.ended = False
        self.closed = False
        self.refused = False
        self.num_frames: int | None = None
        self.alone_until: int | None = None
        self.reproducible = False


class SimulatedWorker(RuleBasedStateMachine):
    limits = MemoryLimits()

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.device = SimulatedDevice(self.choose)
        self.ring = Ring.create("framehaul-sim", num_slots=NUM_SLOTS, slot_bytes=2 * CHUNK_LATENTS * FRAME_BYTES)
        self.inlet = Ring.create("framehaul-sim-inlet", num_slots=NUM_INLET_SLOTS, slot_bytes=4)
        self.to_server: deque[ToServer] = deque()
        self.worker = Worker(
            self.device,
            self.ring,
            self.inlet,
            {"fake": FakeDecoder()},
            chunk_latents=CHUNK_LATENTS,
            limits=self.limits,
            send=self.to_server.append,
        )
        self.inlet_slots = SlotTable(NUM_INLET_SLOTS)
        self.leases = LeaseTable(NUM_SLOTS)
        self.held: list[tuple[Published, bytes]] = []
        self.sessions: dict[int, Session] = {}
        self.launched: deque[InFlight] = deque()
        self.completed: deque[InFlight] = deque()

    def choose(self, num_choices: int) -> int:
        self.turn = (self.turn * 1103515245 + 12345) & 0x7FFFFFFF
        return (self.turn >> 16) % num_choices

    # What the server does

    @precondition(lambda self: len(self.sessions) < 4)
    @rule(priority=st.integers(-1, 1), alone_until=st.none() | st.integers(0, 5), reproducible=st.booleans())
    def open(self, priority: int, alone_until: int | None, reproducible: bool) -> None:
        number = len(self.sessions) + 1
        self.sessions[number] = Session()
        self.sessions[number].alone_until = alone_until
        self.sessions[number].reproducible = reproducible
        opening = fake_opening(priority=priority, alone_until=alone_until, reproducible=reproducible)
        self.worker.apply(OpenSession(session=number, opening=opening))

    @precondition(lambda self: self.inlet_slots.num_free and self._open_sessions())
    @rule(choice=st.integers(0), value=st.integers(0, 255))
    def send_latent(self, choice: int, value: int) -> None:
        number, session = self._pick(choice)
        self._send_latent(number, value)
        session.sent.append(value)

    @precondition(lambda self: self._open_sessions())
    @rule(choice=st.integers(0))
    def end(self, choice: int) -> None:
        number, session = self._pick(choice)
        session.ended = True
        self.worker.apply(EndOfLatents(session=number))

    @precondition(lambda self: self._open_sessions())
    @rule(choice=st.integers(0))
    def close(self, choice: int) -> None:
        number, session = self._pick(choice)
        session.closed = True
        session.alone_until = None
        self.worker.apply(CloseSession(session=number))

    @precondition(lambda self: self.to_server)
    @rule()
    def receive(self) -> None:
        message = self.to_server.popleft()
        match message:
            case Published():
                self._receive_frames(message)
            case InletReturned():
                with self.inlet.payload(message.slot) as payload:
                    payload[:4] = struct.pack("<f", 200.0)  # whoever still reads this slot reads a wrong value
                self.inlet_slots.give_back(message.slot, message.generation)
            case SessionEnded():
                self.sessions[message.session].num_frames = message.num_frames
            case MemoryUsed():
                assert message.used_bytes <= message.total_bytes == self.limits.device_bytes
            case SessionFailed():
                assert message.overloaded
                session = self.sessions[message.session]
                assert not session.levels
                session.closed = session.refused = True

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0))
    def release(self, choice: int) -> None:
        published, content = self.held.pop(choice % len(self.held))
        with self.ring.payload(published.slot) as payload:
            assert bytes(payload[: len(content)]) == content, "a leased slot was written"
        self.worker.apply(SlotReturned(slot=published.slot, generation=self.leases.give_back(published.slot)))

    @rule()
    def probe(self) -> None:
        """The answer names the oldest chunk on the device, or that there is none."""
        self.worker.apply(Probe())
        answer = self.to_server.pop()
        assert isinstance(answer, Alive)
        if self.launched:
            assert answer.oldest is not None
            oldest = self.launched[0].chunk
            assert (answer.oldest.session, answer.oldest.num_latents) == (oldest.session, len(oldest.latents))
            assert answer.oldest.busy_ns >= 0
        else:
            assert answer.oldest is None

    # What the worker's threads and the device do

    @rule(seed=st.integers(0, 1 << 30), num_jumps=st.integers(1, 12))
    def device_advances(self, seed: int, num_jumps: int) -> None:
        self.turn = seed
        for _ in range(num_jumps):
            self.device.advance()

    @rule()
    def launch(self) -> None:
        self._launch()

    @precondition(lambda self: self.launched)
    @rule()
    def complete(self) -> None:
        flight = self.launched.popleft()
        self.worker.complete(flight)
        self.completed.append(flight)

    @precondition(lambda self: self.completed)
    @rule()
    def publish(self) -> None:
        flight = self.completed.popleft()
        self.worker.publish(flight)
        chunk, session = flight.chunk, self.sessions[flight.chunk.session]
        if session.alone_until is not None:
            is_new = chunk.first_frame + chunk.num_frames > session.alone_until
            session.alone_until = None if is_new or chunk.last else session.alone_until

    @invariant()
    def bounded(self) -> None:
        assert len(self.launched) <= MAX_IN_FLIGHT
        assert self.leases.num_leased == len(self.held) <= NUM_SLOTS

    @invariant()
    def frames_are_right_so_far(self) -> None:
        for session in self.sessions.values():
            if not session.closed:
                assert session.levels == expected_levels(session.sent)[: len(session.levels)]

    def teardown(self) -> None:
        """Everything that was sent comes out, and every slot comes back."""
        for number, session in self.sessions.items():
            if not session.ended and not session.closed:
                session.ended = True
                self.worker.apply(EndOfLatents(session=number))
        while self._launch() or self.launched or self.completed or self.to_server or self.held:
            if self.launched:
                self.complete()
            if self.completed:
                self.publish()
            if self.to_server:
                self.receive()
            if self.held:
                self.release(0)
        for session in self.sessions.values():
            if not session.closed:
                assert session.levels == expected_levels(session.sent)
                assert session.num_frames == len(session.levels)
        assert self.inlet_slots.num_free == NUM_INLET_SLOTS
        self.worker.stop()
        assert self.worker.next_job(wait=True) is None
        self.worker.drain()
        self.ring.close()
        self.inlet.close()

    def _launch(self) -> bool:
        job = self.worker.next_job(wait=False)
        if job is None:
            return False
        assert not isinstance(job, BatchJob), "nothing is searched"
        self._expect_suspects_alone(set() if isinstance(job, SettleJob) else {job.session})
        flight = self.worker.run(job)
        if flight is not None:
            self.launched.append(flight)
        return True

    def _expect_suspects_alone(self, beginning: set[int]) -> None:
        at_work = self.ring.noted() | beginning
        if beginning and any(self.sessions[number].alone_until is not None for number in at_work):
            assert at_work == beginning, "a suspect is at work beside another session"

    def _open_sessions(self) -> list[tuple[int, Session]]:
        return [item for item in self.sessions.items() if not item[1].ended and not item[1].closed]

    def _pick(self, choice: int) -> tuple[int, Session]:
        sessions = self._open_sessions()
        return sessions[choice % len(sessions)]

    def _send_latent(self, number: int, value: int) -> None:
        slot, generation = self.inlet_slots.acquire()
        with self.inlet.payload(slot) as payload:
            payload[:4] = struct.pack("<f", float(value))
        self.inlet_slots.publish(slot, generation)
        self.worker.apply(LatentReady(session=number, slot=slot, generation=generation))

    def _receive_frames(self, published: Published) -> None:
        self.leases.lease(published.slot, published.generation)
        session = self.sessions[published.session]
        num_frames = len(published.crc32c)
        assert not session.reproducible or published.chunks == (1,)
        header = SlotHeader(published.generation, published.session, published.first_frame, num_frames, FRAME_BYTES)
        assert self.ring.read_header(published.slot) == header
        with self.ring.payload(published.slot) as payload:
            content = bytes(payload[: num_frames * FRAME_BYTES])
        self.held.append((published, content))
        if not session.closed:
            assert published.first_frame == len(session.levels)
            frames = [content[start : start + FRAME_BYTES] for start in range(0, len(content), FRAME_BYTES)]
            assert all(len(set(frame)) == 1 for frame in frames), "a frame is torn"
            session.levels += [frame[0] for frame in frames]


class CrowdedWorker(SimulatedWorker):
    """Several sessions from the start, which all run for a while between two other events."""

    @initialize(
        crowd=st.lists(
            st.tuples(st.integers(0, 1), st.none() | st.integers(0, 5), st.booleans()), min_size=3, max_size=4
        ),
    )
    def come(self, crowd: list[tuple[int, int | None, bool]]) -> None:
        for priority, alone_until, reproducible in crowd:
            self.open(priority, alone_until, reproducible)

    @rule(seed=st.integers(0, 1 << 30), num_steps=st.integers(1, 60))
    def all_run(self, seed: int, num_steps: int) -> None:
        """Threads, device and server each go on now and then, in an order that the seed decides."""
        self.turn = seed
        for _ in range(num_steps):
            match self.choose(7):
                case 0 | 1:
                    self._launch()
                case 2 | 3:
                    self.device.advance()
                case 4 if self.launched:
                    self.complete()
                case 5 if self.completed:
                    self.publish()
                case 6 if self.to_server:
                    self.receive()
                case _ if self.held:
                    self.release(0)

    @rule(value=st.integers(0, 255))
    def everyone_sends(self, value: int) -> None:
        for number, session in self._open_sessions():
            if self.inlet_slots.num_free:
                self._send_latent(number, value)
                session.sent.append(value)


class ParkingWorker(CrowdedWorker):
    """Up to four sessions, and a device that has room for two: they take turns, and their frames are the same."""

    limits = MemoryLimits(device_bytes=2 * STATE_BYTES, park_bytes=3 * STATE_BYTES, page_bytes=STATE_BYTES // 2)

    def teardown(self) -> None:
        super().teardown()
        assert not any(session.refused for session in self.sessions.values())


class SwappingWorker(CrowdedWorker):
    """A device with room for one session, and a host with room for two: a third is refused."""

    limits = MemoryLimits(device_bytes=STATE_BYTES, park_bytes=2 * STATE_BYTES, page_bytes=STATE_BYTES // 2)


TestWorker = SimulatedWorker.TestCase
TestWorker.settings = settings(max_examples=60, stateful_step_count=60)
TestParkingWorker = ParkingWorker.TestCase
TestParkingWorker.settings = settings(max_examples=60, stateful_step_count=40)
TestSwappingWorker = SwappingWorker.TestCase
TestSwappingWorker.settings = settings(max_examples=60, stateful_step_count=40)
