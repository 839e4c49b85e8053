"""Which session's chunk is decoded next: pure, run by the worker under its lock.

Order: priority, then tenants by their shares of the device (`shares`), then those whose clients wait for frames before
those whose clients don't, then when they were first asked for, so that a tenant's earlier requests finish first. A
session runs while it has latents; when it waits, the next one fills the gap; a higher priority takes over at a chunk
boundary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from framehaul_pipeline.link.messages import DeviceTime, Opening
from framehaul_pipeline.scheduling.shares import CREDIT_NS, Shares
from framehaul_pipeline.spec import DecoderSpec

NextChunk = Callable[[int, int, int, bool], int]
"""A decoder's partition rule: `(index, available, wanted, ended) -> latents to decode now`, 0 to wait for more."""


@dataclass(frozen=True, slots=True)
class InletSlot:
    """A latent in the inlet."""

    slot: int
    generation: int
    blank: bool = False
    """It has no values: it follows the clip's last one, see `DecoderSpec.drains`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Latents of one session to be decoded together; indices are those of its clip."""

    session: int
    first_latent: int
    latents: tuple[InletSlot, ...]
    first_frame: int
    num_frames: int
    """What the latents give, with what lookahead held back when this is the last chunk."""
    last: bool
    """No chunk follows: flush the decoder. A last chunk may have no latents."""
    sizes: tuple[int, ...] = ()
    """Numbers of latents of the chunks since the last one with frames, up to this one."""
    tenant: str = ""
    """Whose share it is taken from."""
    model: str = ""
    frame_size: tuple[int, int] = (0, 0)
    """Height and width."""


def max_chunk_latents(spec: DecoderSpec, *, frame_bytes: int, slot_bytes: int, chunk_latents: int) -> int:
    """How many latents can be decoded together: at most `chunk_latents`, and their frames must fit a slot.

    A session's last chunk, which gives what lookahead held back as well, may have to be shorter.
    """
    return max(1, min(chunk_latents, slot_bytes // frame_bytes // spec.temporal_factor))


@dataclass(slots=True, eq=False)
class _Session:
    number: int
    opening: Opening
    spec: DecoderSpec
    rule: NextChunk
    max_latents: int
    max_frames: int
    planned: deque[int] = field(init=False)
    """Sizes that the next chunks must have."""
    waiting: deque[InletSlot] = field(default_factory=deque)
    sizes: tuple[int, ...] = ()
    """Of the chunks since the last one with frames."""
    num_decoded: int = field(init=False)
    """Latents of the clip below this one are decoded."""
    num_frames: int = field(init=False)
    """Frames of the clip below this one are out."""
    ended: bool = False
    wanted_until: int = 0
    """The client waits for the chunks that begin below this latent, or soon will."""

    def __post_init__(self) -> None:
        self.planned = deque(self.opening.chunks)
        self.num_decoded = self.opening.first_latent
        self.num_frames = self.spec.num_frames(self.num_decoded)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts a tenant's sessions: what is smaller is served first."""
        return -self.opening.priority, self.opening.asked_ns, self.number

    @property
    def ahead(self) -> bool:
        """The next chunk's frames would wait for the client, and not the client for them."""
        return bool(self.waiting) and self.num_decoded >= self.wanted_until

    def next_size(self) -> int:
        if not self.waiting:
            return 0
        if self.planned:
            return self.planned[0] if len(self.waiting) >= self.planned[0] else 0
        # A session's first chunk is as short as the decoder allows: the first frame leaves sooner.
        wanted = self._fitting() if self.num_decoded > self.opening.first_latent else 1
        return self.rule(self.num_decoded, len(self.waiting), wanted, self.ended)

    def frames_after(self, size: int) -> int:
        """Frames that are out after a chunk of `size` more latents."""
        return self.spec.frames_after(self.num_decoded + size, ended=self.is_last(size))

    def is_last(self, size: int) -> bool:
        """Whether no chunk follows one of `size`; what was planned was not the last the first time."""
        return self.ended and size == len(self.waiting) and not (size and self.planned)

    def runnable(self) -> bool:
        return self.next_size() > 0 or (self.ended and not self.waiting)

    def _fitting(self) -> int:
        """The most latents whose frames, with what lookahead held back when they are the last, fit a slot."""
        size = min(self.max_latents, len(self.waiting))
        while size > 1 and self.frames_after(size) - self.num_frames > self.max_frames:
            size -= 1
        return size


class Scheduler:
    """The sessions of a worker and their latents."""

    def __init__(self) -> None:
        """Start without sessions."""
        self._sessions: dict[int, _Session] = {}
        """By priority and age."""
        self._shares = Shares(CREDIT_NS)

    def add_session(
        self, session: int, opening: Opening, *, spec: DecoderSpec, rule: NextChunk, max_latents: int, max_frames: int
    ) -> None:
        """Add a session, behind those of its tenant and priority that were asked for before it.

        Args:
            session: its number.
            opening: what it asks for. None of its first `chunks`, which hold whatever `rule` says, is its last.
            spec: what a chunk gives.
            rule: the decoder's partition rule.
            max_latents: of one chunk.
            max_frames: of one chunk; a single latent's frames must fit.
        """
        self._shares.open(opening.tenant, opening.weight)
        self._sessions[session] = _Session(session, opening, spec, rule, max_latents, max_frames)
        self._sessions = dict(sorted(self._sessions.items(), key=lambda item: item[1].order))

    def add_latent(self, session: int, latent: InletSlot) -> bool:
        """Queue a latent; False when the session is closed and the slot should go back at once."""
        state = self._sessions.get(session)
        if state is None:
            return False
        state.waiting.append(latent)
        return True

    def want(self, session: int, until_latent: int) -> None:
        """The client waits for the chunks that begin below this latent, or soon will; a closed session is fine."""
        state = self._sessions.get(session)
        if state is not None:
            state.wanted_until = until_latent

    def end(self, session: int) -> None:
        """No more latents will come; a closed session is fine."""
        state = self._sessions.get(session)
        if state is not None:
            state.ended = True

    def close(self, session: int) -> tuple[InletSlot, ...]:
        """Forget a session; closing twice is fine.

        Returns:
            Inlet slots it no longer needs.
        """
        state = self._sessions.pop(session, None)
        if state is None:
            return ()
        self._shares.close(state.opening.tenant)
        return tuple(state.waiting)

    def charge(self, chunk: Chunk, device_ns: int, kernels_ns: int = 0) -> DeviceTime:
        """Count the device time that a chunk has taken, 0 when it failed, and pass on what its kernels took of it.

        Returns:
            What lets the server's clocks run alike.
        """
        num_latents = len(chunk.latents)
        self._shares.hold(chunk.tenant, -num_latents)
        self._shares.charge(chunk.tenant, device_ns, num_latents)
        return DeviceTime(
            session=chunk.session,
            tenant=chunk.tenant,
            num_latents=num_latents,
            device_ns=device_ns,
            kernels_ns=kernels_ns,
            model=chunk.model,
            frame_size=chunk.frame_size,
            num_frames=chunk.num_frames,
        )

    def runnable(self, session: int) -> bool:
        """Whether the session has a chunk to decode; False when it is closed."""
        state = self._sessions.get(session)
        return state is not None and state.runnable()

    def pick(self, resident: Callable[[int], bool], may_begin: Callable[[int], bool]) -> Chunk | None:
        """Take the next chunk of a `resident` session, None when none can run. A session's last chunk closes it.

        When a session that is next in order may not begin yet, the others wait with it.
        """
        for session, state in self._in_order():
            if not resident(session):
                continue
            size = state.next_size()
            if size > 0 or (state.ended and not state.waiting):
                return self._take(session, state, size) if may_begin(session) else None
        return None

    def _in_order(self) -> Iterable[tuple[int, _Session]]:
        shares = self._shares

        def order(item: tuple[int, _Session]) -> tuple[int, float, bool, int, int]:
            state = item[1]
            rank, asked_ns, number = state.order
            return rank, shares.order(state.opening.tenant), state.ahead, asked_ns, number

        return sorted(self._sessions.items(), key=order)

    def _take(self, session: int, state: _Session, size: int) -> Chunk:
        first_latent, first_frame = state.num_decoded, state.num_frames
        last = state.is_last(size)
        state.num_frames = state.frames_after(size)
        latents = tuple(state.waiting.popleft() for _ in range(size))
        if state.planned:
            state.planned.popleft()
        state.num_decoded += size
        sizes = (*state.sizes, size)
        state.sizes = () if state.num_frames > first_frame else sizes
        self._shares.hold(state.opening.tenant, size)
        if last:
            self.close(session)
        return Chunk(
            session=session,
            first_latent=first_latent,
            latents=latents,
            first_frame=first_frame,
            num_frames=state.num_frames - first_frame,
            last=last,
            sizes=sizes,
            tenant=state.opening.tenant,
            model=state.spec.name,
            frame_size=state.opening.geometry.frame_size(state.spec),
        )
