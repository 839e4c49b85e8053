"""Windows and grants between the client's own parts and a server of any temper: bounded, and never stuck."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framehaul_client.core.grant import LatentGrant
from framehaul_client.core.window import FrameWindow


class WindowMachine(RuleBasedStateMachine):
    """A server sends chunks only when the whole of one fits; acknowledgements may lie on the way for any time."""

    @initialize(chunk_frames=st.integers(1, 8), extra_frames=st.integers(0, 24), num_frames=st.integers(1, 80))
    def open(self, chunk_frames: int, extra_frames: int, num_frames: int) -> None:
        self.chunk_frames = chunk_frames
        self.num_frames = num_frames
        self.window = FrameWindow(chunk_frames + extra_frames)  # the server's least window is one chunk
        self.until = chunk_frames + extra_frames
        self.num_sent = 0
        self.num_consumed = 0
        self.acks: deque[int] = deque()

    @property
    def next_chunk(self) -> int:
        return min(self.chunk_frames, self.num_frames - self.num_sent)

    @property
    def can_send(self) -> bool:
        return 0 < self.next_chunk <= self.until - self.num_sent

    @precondition(lambda self: self.can_send)
    @rule()
    def send_a_chunk(self) -> None:
        self.window.receive(self.next_chunk)  # raises if the client thinks that this is too much
        self.num_sent += self.next_chunk

    @precondition(lambda self: self.window.num_waiting)
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        num_frames = data.draw(st.integers(1, self.window.num_waiting))
        self.window.consume(num_frames)
        self.num_consumed += num_frames
        self._tell(idle=False)

    @precondition(lambda self: not self.window.num_waiting)
    @rule()
    def wait_for_frames(self) -> None:
        self._tell(idle=True)

    @precondition(lambda self: self.acks)
    @rule()
    def an_acknowledgement_arrives(self) -> None:
        self.until = max(self.until, self.acks.popleft())

    def _tell(self, *, idle: bool) -> None:
        acknowledgement = self.window.acknowledge(idle=idle)
        if acknowledgement is not None:
            assert acknowledgement.next_frame == self.num_consumed
            self.acks.append(acknowledgement.next_frame + acknowledgement.window_frames)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.window.num_waiting <= self.window.window_frames

    @invariant()
    def nobody_is_stuck(self) -> None:
        """When everything was consumed and told, the server can go on or is done."""
        idle = not self.window.num_waiting and not self.acks
        if idle and self.num_sent < self.num_frames:
            told = self.num_consumed + self.window.window_frames if self._all_told() else None
            assert told is None or self.can_send

    def _all_told(self) -> bool:
        return self.until == self.num_consumed + self.window.window_frames


TestWindow = WindowMachine.TestCase


@given(st.integers(1, 8), st.integers(0, 24), st.integers(1, 200), st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_every_clip_completes(chunk_frames: int, extra_frames: int, num_frames: int, appetite: list[int]) -> None:
    """A consumer of any rhythm, with an idle one's word each time it has nothing left, gets the whole clip."""
    window = FrameWindow(chunk_frames + extra_frames)
    until, sent, step = window.window_frames, 0, 0
    while sent < num_frames or window.num_waiting:
        before = (sent, window.num_waiting, until)
        chunk = min(chunk_frames, num_frames - sent)
        if 0 < chunk <= until - sent:
            window.receive(chunk)
            sent += chunk
        if window.num_waiting:
            window.consume(min(appetite[step % len(appetite)], window.num_waiting))
            step += 1
        acknowledgement = window.acknowledge(idle=not window.num_waiting)
        if acknowledgement is not None:
            until = max(until, acknowledgement.next_frame + acknowledgement.window_frames)
        assert before != (sent, window.num_waiting, until), "stuck"


@given(st.lists(st.tuples(st.sampled_from(["grant", "take"]), st.integers(0, 50), st.integers(1, 10)), max_size=60))
def test_latents_never_exceed_the_grant(steps: list[tuple[str, int, int]]) -> None:
    """Whatever grants come in whatever order: never beyond the highest, and never less than could be sent."""
    grant = LatentGrant()
    highest = 0
    for step, amount, most in steps:
        if step == "grant":
            grew = grant.extend(amount)
            assert grew == (amount > highest)
            highest = max(highest, amount)
        else:
            before = grant.next_latent
            assert grant.take(amount, most) == min(amount, most, highest - before)
        assert 0 <= grant.room == highest - grant.next_latent
