"""Order of service through inlet and scheduler together, as server and worker use them; device time is simulated."""

from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framehaul_pipeline.link.messages import DeviceTime
from framehaul_pipeline.scheduling.chunks import Chunk, InletSlot, Scheduler
from framehaul_pipeline.scheduling.feeder import Feed, Feeder
from framehaul_server.core.window import FrameWindow, WindowLimits, allowed_latents
from tests.support.fake_decoder import FAKE_SPEC, fake_opening

CHUNK_LATENTS = 4
NUM_SLOTS = 10 * CHUNK_LATENTS
MAX_IN_FLIGHT = 2
LATENT = memoryview(bytes(8))
SPEC = msgspec.structs.replace(FAKE_SPEC, temporal_factor=4, state_bytes_per_pixel=0.0)


def everyone(session: int) -> bool:
    return True


def any_size(index: int, available: int, wanted: int, ended: bool) -> int:
    return min(available, wanted)


def whole_chunks(index: int, available: int, wanted: int, ended: bool) -> int:
    """A decoder that takes four latents at a time, or nothing, until the end."""
    return CHUNK_LATENTS if available >= CHUNK_LATENTS else available if ended else 0


@dataclass
class Farm:
    """Sessions that always have latents, unless their tenant pauses; `latent_ns` is what a tenant's latent costs."""

    latent_ns: dict[str, int]
    rule: object = any_size
    num_slots: int = NUM_SLOTS
    delay: int = 0
    """Chunks that complete before the server hears of one."""
    clip_latents: int = 1 << 40
    """Then a session ends; its tenant's next one comes while its last two chunks wait."""
    paused: set[str] = field(default_factory=set)
    windows: dict[int, FrameWindow] = field(default_factory=dict)
    """Of sessions whose clients read as the test says; the others' are without end."""
    published: Counter[int] = field(default_factory=Counter)
    """Frames of each session that its client may take."""
    used_ns: Counter[str] = field(default_factory=Counter)
    picked: list[int] = field(default_factory=list)
    device_latents: int = 0
    """What the device may still decode in this step; below 0: what it is ahead by."""

    def __post_init__(self) -> None:
        self.feeder = Feeder(CHUNK_LATENTS, self.num_slots)
        self.scheduler = Scheduler()
        self.free = self.num_slots
        self.untold: deque[tuple[Chunk, DeviceTime]] = deque()
        self.in_flight: deque[Chunk] = deque()
        self.live: dict[int, Feed] = {}
        self.weights: dict[str, float] = {}
        self.num_sessions = 0

    def open(self, tenant: str, *, weight: float = 1.0, priority: int = 0, window_frames: int | None = None) -> int:
        self.num_sessions += 1
        self.weights[tenant] = weight
        opening = fake_opening(priority=priority, tenant=tenant, weight=weight)
        feed = self.feeder.add_session(self.num_sessions, opening)
        feed.num_allowed = 1 << 40 if window_frames is None else 0
        self.live[self.num_sessions] = feed
        self.scheduler.add_session(
            self.num_sessions,
            opening,
            spec=SPEC,
            rule=self.rule,  # type: ignore[arg-type]
            max_latents=CHUNK_LATENTS,
            max_frames=1 << 40,
        )
        if window_frames is not None:
            limits = WindowLimits(min_frames=SPEC.most_frames(1), max_frames=window_frames)
            self.windows[self.num_sessions] = FrameWindow(limits, initial_frames=None)
            self.take(self.num_sessions, 0)
        return self.num_sessions

    def take(self, session: int, num_frames: int | None = None) -> int:
        """The client takes as many of its frames as are there, or fewer; gives how many."""
        window = self.windows[session]
        there = self.published[session] - window.num_taken
        num_taken = there if num_frames is None else min(there, num_frames)
        window.take(num_taken)
        allowed = allowed_latents(SPEC, window.frames_until, None)
        wanted = allowed_latents(SPEC, window.wanted_until(SPEC.most_frames(CHUNK_LATENTS)), None)
        wanted_until = self.feeder.allow(session, allowed, wanted)
        if wanted_until is not None:
            self.scheduler.want(session, wanted_until)
        return num_taken

    def unread(self, session: int) -> int:
        return self.published[session] - self.windows[session].num_taken

    def step_whole_chunk(self) -> None:
        """As long as a whole chunk takes: shorter ones take less."""
        self.device_latents = min(self.device_latents, 0) + CHUNK_LATENTS
        while self.device_latents > 0:
            chunk = self.step()
            self.device_latents -= max(1, len(chunk.latents)) if chunk is not None else CHUNK_LATENTS

    def step(self) -> Chunk | None:
        """Feed what fits, launch what may, complete one chunk, and launch again before more latents can come."""
        for session, feed in list(self.live.items()):
            self._arrive(session, feed)
        while (latent := self.feeder.next_latent(self.free)) is not None:
            self.free -= 1
            self.scheduler.add_latent(latent.session, InletSlot(0, 0))
        while (ended := self.feeder.next_end()) is not None:
            self.scheduler.end(ended)
        self._launch()
        chunk = self.in_flight.popleft() if self.in_flight else None
        if chunk is not None:
            device_ns = max(1, len(chunk.latents)) * self.latent_ns[chunk.tenant]
            self.used_ns[chunk.tenant] += device_ns
            self.untold.append((chunk, self.scheduler.charge(chunk, device_ns)))
        if self.untold and (chunk is None or len(self.untold) > self.delay):
            self._tell(*self.untold.popleft())
        self._launch()
        return chunk

    def _arrive(self, session: int, feed: Feed) -> None:
        if feed.tenant in self.paused:
            return
        num_left = self.clip_latents - feed.num_fed - len(feed.waiting)
        feed.waiting.extend([LATENT] * min(num_left, self.num_slots - len(feed.waiting)))
        feed.ended = feed.num_fed + len(feed.waiting) == self.clip_latents
        if feed.num_fed + 2 * CHUNK_LATENTS >= self.clip_latents:
            del self.live[session]
            self.open(feed.tenant, weight=self.weights[feed.tenant])

    def _tell(self, chunk: Chunk, charged: DeviceTime) -> None:
        self.feeder.charge(charged)
        self.published[chunk.session] += chunk.num_frames
        self.free += len(chunk.latents)
        for _ in chunk.latents:
            self.feeder.returned(chunk.session)
        if chunk.last:
            self.feeder.drop_session(chunk.session)

    def _launch(self) -> None:
        while len(self.in_flight) < MAX_IN_FLIGHT and (chunk := self.scheduler.pick(everyone, everyone)) is not None:
            self.in_flight.append(chunk)
            self.picked.append(chunk.session)


def shares(farm: Farm, tenants: list[tuple[int, float]], *, head_start: int = 5) -> list[float]:
    """Each tenant's part of the device, as a multiple of what its weight says; later ones find the inlet full.

    Measured over 200 chunks, or as many as make 40 of the lightest tenant's, once it has had three: by then it has paid
    for what it had on the way when the others came.
    """
    for index, (num_sessions, weight) in enumerate(tenants):
        for _ in range(num_sessions):
            farm.open(str(index), weight=weight)
        for _ in range(head_start):
            farm.step()
    weights = sum(weight for _, weight in tenants)
    turn = weights / min(weight for _, weight in tenants)
    for num_chunks in (3 * turn, max(200, 40 * turn)):
        farm.used_ns.clear()
        while farm.used_ns.total() < num_chunks * CHUNK_LATENTS * max(farm.latent_ns.values()):
            farm.step()
    return [
        farm.used_ns[str(index)] / farm.used_ns.total() / (weight / weights)
        for index, (_, weight) in enumerate(tenants)
    ]


RULES = st.sampled_from([any_size, whole_chunks])
COSTS = st.integers(10, 15)
WEIGHTS = st.sampled_from([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])


@pytest.mark.parametrize("rule", [any_size, whole_chunks])
@settings(max_examples=10)
@given(
    tenants=st.lists(st.tuples(st.integers(1, 10), WEIGHTS, COSTS), min_size=2, max_size=6),
    delay=st.integers(0, 2),
    head_start=st.integers(0, 50),
    clip_latents=st.sampled_from([1 << 40, 21]),
)
def test_a_tenants_share_is_its_weights(
    tenants: list[tuple[int, float, int]], rule: object, delay: int, head_start: int, clip_latents: int
) -> None:
    """Within 10 %, whatever the weights (up to 100 to 1), costs and numbers of sessions; long clips or short ones."""
    costs = {str(index): cost * 100_000 for index, (_, _, cost) in enumerate(tenants)}
    farm = Farm(costs, rule, delay=delay, clip_latents=clip_latents)
    found = shares(farm, [(num_sessions, weight) for num_sessions, weight, _ in tenants], head_start=head_start)
    assert all(0.9 <= share <= 1.1 for share in found), found


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 10), COSTS), min_size=2, max_size=2), RULES)
def test_two_tenants_share_the_device_alike_whatever_they_load_it_with(
    tenants: list[tuple[int, int]], rule: object
) -> None:
    """10 sessions against 1 say, of latents that cost half as much again: within 10 %."""
    farm = Farm({str(index): cost * 100_000 for index, (_, cost) in enumerate(tenants)}, rule)
    found = shares(farm, [(num_sessions, 1.0) for num_sessions, _ in tenants])
    assert all(0.9 <= share <= 1.1 for share in found), found


@settings(max_examples=30)
@given(st.integers(2, 40), RULES)
def test_nobody_starves_however_many_tenants_there_are(num_tenants: int, rule: object) -> None:
    """More than the inlet has room for, each with two sessions: all are served, and about alike."""
    farm = Farm({str(index): 1_000_000 for index in range(num_tenants)}, rule)
    for _ in range(2):
        for index in range(num_tenants):
            farm.open(str(index))
    for _ in range(60 * num_tenants):
        farm.step()
    used = [farm.used_ns[str(index)] for index in range(1, num_tenants)]
    assert min(used) > 0
    assert max(used) <= 1.1 * min(used)


@settings(max_examples=30)
@given(st.integers(1, 10), st.integers(1, 50))
def test_a_lone_tenant_is_served_as_without_tenants(num_sessions: int, cost: int) -> None:
    """The device is never idle, and its earliest session has every turn."""
    farm = Farm({"a": cost})
    for _ in range(num_sessions):
        farm.open("a")
    for _ in range(50):
        farm.step()
    assert farm.picked[1:] == [1] * (len(farm.picked) - 1)


@settings(max_examples=30)
@given(st.integers(2, 5))
def test_a_tenants_earlier_requests_come_first(num_sessions: int) -> None:
    """Within each of two tenants; a later one fills gaps, while the next latents are on their way."""
    farm = Farm({"a": 1_000_000, "b": 1_000_000})
    for _ in range(num_sessions):
        farm.open("a")
        farm.open("b")
    for _ in range(100):
        farm.step()
    turns = Counter(farm.picked)
    assert turns[1] + turns[2] >= 0.75 * turns.total()
    assert all(turns[session] >= turns[session + 2] for session in range(1, 2 * num_sessions - 1))


@settings(max_examples=30)
@given(st.sampled_from([0.5, 1.0, 4.0]), st.floats(0.1, 5), RULES)
def test_a_pause_is_made_up_for_with_a_second_at_most(weight: float, pause_s: float, rule: object) -> None:
    """Of device time, whatever the tenant's weight; the others wait for no longer, and then it has its share again."""
    farm = Farm({"a": 5_000_000, "b": 5_000_000}, rule)
    farm.open("a")
    farm.open("b", weight=weight)
    for _ in range(20):
        farm.step()
    farm.paused.add("b")
    while farm.live[2].waiting or farm.live[2].num_in_inlet:
        farm.step()
    farm.used_ns.clear()
    while farm.used_ns["a"] < pause_s * 1e9:
        farm.step()
    farm.paused.clear()
    farm.used_ns.clear()
    while farm.used_ns["a"] < 3 * CHUNK_LATENTS * farm.latent_ns["a"]:
        farm.step()
    made_up_for_s, missed_s = farm.used_ns["b"] / 1e9, pause_s * weight
    assert abs(made_up_for_s - min(1.0, missed_s)) <= 0.1 * (1 + weight)


@settings(max_examples=30)
@given(st.integers(1, 10), st.integers(1, 5), RULES)
def test_a_new_tenant_is_next(num_sessions: int, num_tenants: int, rule: object) -> None:
    """However full the others have made the inlet: after what is on the device, and what is level with it."""
    farm = Farm({str(index): 1_000_000 for index in range(num_tenants + 1)}, rule)
    for index in range(num_tenants):
        for _ in range(num_sessions):
            farm.open(str(index))
    for _ in range(50):
        farm.step()
    farm.open(str(num_tenants))
    before = len(farm.picked)
    for _ in range(num_tenants + 1):
        farm.step()
    assert farm.num_sessions in farm.picked[before:]


def test_priority_comes_before_shares() -> None:
    """A tenant's urgent session is served whatever the tenant has had."""
    farm = Farm({"a": 1_000_000, "b": 1_000_000})
    farm.open("a")
    farm.open("b")
    for _ in range(20):
        farm.step()
    farm.open("a", priority=1)
    farm.step()
    farm.step()
    before = len(farm.picked)
    for _ in range(20):
        farm.step()
    assert set(farm.picked[before:]) == {3}


CHUNK_FRAMES = CHUNK_LATENTS * SPEC.temporal_factor
WINDOW_FRAMES = 12 * CHUNK_FRAMES


@settings(max_examples=30)
@given(st.integers(1, 40), RULES, st.integers(0, 2), st.integers(0, 200))
def test_who_does_not_read_holds_up_nobody_who_does(num_idle: int, rule: object, delay: int, head_start: int) -> None:
    """One chunk for each, and what is on the device, come before a later session's frames; then that has every turn."""
    farm = Farm({"a": 1}, rule, delay=delay)
    idle = [farm.open("a", window_frames=WINDOW_FRAMES) for _ in range(num_idle)]
    for _ in range(head_start):
        farm.step()
    before = farm.published.copy()
    reader = farm.open("a", window_frames=WINDOW_FRAMES)
    while not farm.published[reader]:
        farm.step()
    more = sum(max(0, farm.published[session] - max(before[session], CHUNK_FRAMES)) for session in idle)
    assert more <= (MAX_IN_FLIGHT + 1 + delay) * CHUNK_FRAMES
    while farm.picked.count(reader) < 10:
        farm.take(reader)
        farm.step()
    settled = len(farm.picked)
    for _ in range(20):
        farm.take(reader)
        farm.step()
    assert set(farm.picked[settled:]) == {reader}


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 50))
def test_who_does_not_read_is_decoded_for_while_nobody_else_wants_the_device(num_idle: int, cost: int) -> None:
    """To the end of the windows, and the device is never idle before."""
    farm = Farm({"a": cost})
    for _ in range(num_idle):
        farm.open("a", window_frames=WINDOW_FRAMES)
    farm.step()
    while farm.in_flight:
        farm.step()
    fitting = SPEC.num_frames(allowed_latents(SPEC, WINDOW_FRAMES, None))
    assert all(farm.published[session] == fitting for session in farm.live)


@settings(max_examples=30)
@given(
    num_idle=st.integers(0, 40),
    delay=st.integers(0, 2),
    pauses=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
)
def test_a_reader_that_comes_and_goes_has_no_gaps(num_idle: int, delay: int, pauses: list[tuple[int, int]]) -> None:
    """It plays at three quarters of the device's speed, once it has read six chunks as they came."""
    farm = Farm({"a": 1}, delay=delay)
    for _ in range(num_idle):
        farm.open("a", window_frames=WINDOW_FRAMES)
    reader = farm.open("a", window_frames=WINDOW_FRAMES)
    frames_a_step = 3 * CHUNK_FRAMES // 4
    while farm.windows[reader].num_taken < 6 * CHUNK_FRAMES:
        farm.take(reader)
        farm.step_whole_chunk()
    while farm.unread(reader) < CHUNK_FRAMES:
        farm.step_whole_chunk()
    for num_away, num_there in pauses:
        for _ in range(num_away):
            farm.step_whole_chunk()
        for _ in range(num_there):
            assert farm.take(reader, frames_a_step) == frames_a_step
            farm.step_whole_chunk()


@settings(max_examples=30)
@given(st.integers(2, 16), st.integers(0, 2))
def test_of_those_who_read_the_earliest_has_its_turns(num_sessions: int, delay: int) -> None:
    """Others' chunks come while it has nothing to decode."""
    farm = Farm({"a": 1}, delay=delay)
    sessions = [farm.open("a", window_frames=WINDOW_FRAMES) for _ in range(num_sessions)]
    for _ in range(100):
        farm.step()
        for session in sessions:
            farm.take(session)
    assert farm.picked.count(1) >= 85
