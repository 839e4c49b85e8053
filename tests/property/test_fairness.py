"""Order of service through inlet and scheduler together, as server and worker use them; device time is simulated."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from framehaul_pipeline.feeder import Feeder
from framehaul_pipeline.scheduler import Chunk, InletSlot, Scheduler
from framehaul_pipeline.spec import DecoderSpec, Exactness

NUM_SLOTS = 32
CHUNK_LATENTS = 4
MAX_IN_FLIGHT = 2
LATENT = memoryview(bytes(8))
SPEC = DecoderSpec(
    name="fake",
    channels=1,
    spatial_factor=2,
    temporal_factor=4,
    first_frames=1,
    lookahead_latents=0,
    exactness=Exactness.FULL,
    receptive_latents=None,
    state_bytes_per_pixel=0.0,
)


def any_size(index: int, available: int, wanted: int, ended: bool) -> int:
    return min(available, wanted)


def whole_chunks(index: int, available: int, wanted: int, ended: bool) -> int:
    """A decoder that takes four latents at a time, or nothing."""
    return CHUNK_LATENTS if available >= CHUNK_LATENTS else 0


@dataclass
class Farm:
    """Sessions that always have latents; `latent_ns` is what a tenant's latent costs."""

    latent_ns: dict[str, int]
    rule: object = any_size
    used_ns: Counter[str] = field(default_factory=Counter)
    picked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feeder = Feeder(2 * CHUNK_LATENTS)
        self.scheduler = Scheduler()
        self.free = NUM_SLOTS
        self.in_flight: deque[Chunk] = deque()
        self.num_sessions = 0

    def open(self, tenant: str, *, weight: float = 1.0, priority: int = 0) -> None:
        self.num_sessions += 1
        self.feeder.open(self.num_sessions, priority=priority, tenant=tenant, weight=weight).num_allowed = 1 << 40
        self.scheduler.open(
            self.num_sessions,
            priority=priority,
            spec=SPEC,
            rule=self.rule,  # type: ignore[arg-type]
            max_latents=CHUNK_LATENTS,
            max_frames=1 << 40,
            tenant=tenant,
            weight=weight,
        )

    def step(self) -> None:
        """Feed what fits, launch what may, complete one chunk, and launch again before more latents can come."""
        for session in range(1, self.num_sessions + 1):
            feed = self.feeder.get(session)
            assert feed is not None
            feed.waiting.extend([LATENT] * (2 * CHUNK_LATENTS - len(feed.waiting)))
        while (latent := self.feeder.next_latent(self.free)) is not None:
            self.free -= 1
            self.scheduler.add_latent(latent.session, InletSlot(0, 0))
        self._launch()
        chunk = self.in_flight.popleft()
        device_ns = len(chunk.latents) * self.latent_ns[chunk.tenant]
        self.used_ns[chunk.tenant] += device_ns
        self.scheduler.charge(chunk, device_ns)
        self.free += len(chunk.latents)
        for _ in chunk.latents:
            self.feeder.returned(chunk.session)
        self._launch()

    def _launch(self) -> None:
        while len(self.in_flight) < MAX_IN_FLIGHT and (chunk := self.scheduler.pick(lambda _: True)) is not None:
            self.in_flight.append(chunk)
            self.picked.append(chunk.session)


def shares(farm: Farm, tenants: list[tuple[int, float]]) -> list[float]:
    """Each tenant's part of the device, as a multiple of what its weight says; later ones find the inlet full."""
    for index, (num_sessions, weight) in enumerate(tenants):
        for _ in range(num_sessions):
            farm.open(str(index), weight=weight)
        for _ in range(5):
            farm.step()
    farm.used_ns.clear()
    while farm.used_ns.total() < 200 * CHUNK_LATENTS * max(farm.latent_ns.values()):
        farm.step()
    weights = sum(weight for _, weight in tenants)
    return [
        farm.used_ns[str(index)] / farm.used_ns.total() / (weight / weights)
        for index, (_, weight) in enumerate(tenants)
    ]


RULES = st.sampled_from([any_size, whole_chunks])
COSTS = st.integers(10, 15)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 10), COSTS), min_size=2, max_size=2), RULES)
def test_two_tenants_share_the_device_alike_whatever_they_load_it_with(
    tenants: list[tuple[int, int]], rule: object
) -> None:
    """10 sessions against 1 say, of latents that cost half as much again: within 20 %."""
    farm = Farm({str(index): cost * 100_000 for index, (_, cost) in enumerate(tenants)}, rule)
    found = shares(farm, [(num_sessions, 1.0) for num_sessions, _ in tenants])
    assert all(0.8 <= share <= 1.2 for share in found), found


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 10), st.integers(3, 10), st.sampled_from([0.5, 1.5, 2.0]), RULES)
def test_weights_are_shares(first: int, second: int, weight: float, rule: object) -> None:
    """Up to 2 to 1: a tenant that finds the inlet full has two chunks on the way at most."""
    found = shares(Farm({"0": 1_000_000, "1": 1_000_000}, rule), [(first, 1.0), (second, weight)])
    assert all(0.8 <= share <= 1.2 for share in found), found


@settings(deadline=None, max_examples=30)
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
    assert max(used) <= 1.5 * min(used)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.integers(1, 50))
def test_a_lone_tenant_is_served_as_without_tenants(num_sessions: int, cost: int) -> None:
    """The device is never idle, and its earliest session has every turn."""
    farm = Farm({"a": cost})
    for _ in range(num_sessions):
        farm.open("a")
    for _ in range(50):
        farm.step()
    assert farm.picked[1:] == [1] * (len(farm.picked) - 1)


@settings(deadline=None, max_examples=30)
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
