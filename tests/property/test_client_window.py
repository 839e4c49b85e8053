"""Windows and grants between the client's own parts and a server of any temper: bounded, and never stuck."""

from collections import deque
from itertools import chain, repeat

from hypothesis import given, settings
from hypothesis import strategies as st

from framehaul_client.core.grant import LatentGrant
from framehaul_client.core.window import FrameWindow


@settings(max_examples=500)
@given(
    chunk_frames=st.integers(1, 8),
    extra_frames=st.integers(0, 24),
    num_frames=st.integers(1, 80),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.booleans()), max_size=60),
)
def test_every_clip_completes_within_the_window(
    chunk_frames: int, extra_frames: int, num_frames: int, steps: list[tuple[bool, int, bool]]
) -> None:
    """The server sends chunks only when the whole of one fits; acknowledgements may lie on the way for any time.

    In each step the server may send, a consumer of any appetite takes frames, and an acknowledgement may arrive. Once
    all of them always do, each step brings the clip on.
    """
    window = FrameWindow(chunk_frames + extra_frames)  # the server's least window is one chunk
    until, num_sent, num_consumed = window.window_frames, 0, 0
    acks: deque[int] = deque()
    for sends, appetite, arrives in chain(steps, repeat((True, num_frames + 1, True))):
        before = (num_sent, num_consumed, until, len(acks))
        chunk = min(chunk_frames, num_frames - num_sent)
        if sends and 0 < chunk <= until - num_sent:
            window.receive(chunk)  # raises if the client thinks that this is too much
            num_sent += chunk
        assert window.num_waiting == num_sent - num_consumed <= window.window_frames
        num_taken = min(appetite, window.num_waiting)
        window.consume(num_taken)
        num_consumed += num_taken
        if num_consumed == num_frames:
            return
        acknowledgement = window.acknowledge(idle=num_taken < appetite)
        if acknowledgement is not None:
            assert acknowledgement.next_frame == num_consumed
            acks.append(acknowledgement.next_frame + acknowledgement.window_frames)
        if arrives and acks:
            until = max(until, acks.popleft())
        moved = before != (num_sent, num_consumed, until, len(acks))
        assert moved or not sends or not arrives or appetite <= num_frames, "stuck"


@given(st.lists(st.tuples(st.sampled_from(["grant", "take"]), st.integers(0, 50), st.integers(1, 10)), max_size=60))
def test_latents_never_exceed_the_grant(steps: list[tuple[str, int, int]]) -> None:
    """Whatever grants come in whatever order: never beyond the highest, and never less than could be sent."""
    grant = LatentGrant()
    highest = num_taken = 0
    for step, amount, most in steps:
        if step == "grant":
            grew = grant.extend(amount)
            assert grew == (amount > highest)
            highest = max(highest, amount)
        else:
            taken = grant.take(amount, most)
            assert taken == min(amount, most, highest - num_taken)
            num_taken += taken
        assert (grant.room, grant.next_latent) == (highest - num_taken, num_taken)
