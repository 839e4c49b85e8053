"""Windows and grants, whatever a client acknowledges."""

import hypothesis.strategies as st
import msgspec
from hypothesis import given

from framehaul_pipeline.spec import DecoderSpec
from framehaul_server.core.grant import LatentGrant
from framehaul_server.core.window import FrameWindow, WindowLimits, allowed_latents
from tests.support.fakes import SPEC


@st.composite
def specs(draw: st.DrawFn) -> DecoderSpec:
    tile, stride = draw(
        st.just((0, 0)) | st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))
    )
    return msgspec.structs.replace(
        SPEC,
        temporal_factor=draw(st.integers(1, 8)),
        first_frames=draw(st.integers(1, 8)),
        lookahead_latents=(ahead := tile - 1 if tile else draw(st.integers(0, 3))),
        drains=bool(ahead) and not tile and draw(st.booleans()),
        tile_latents=tile,
        tile_stride_latents=stride,
    )


@given(specs(), st.integers(0, 200), st.none() | st.integers(0, 60))
def test_what_is_allowed_fits_and_one_latent_more_would_not(
    spec: DecoderSpec, frames_until: int, num_latents: int | None
) -> None:
    allowed = allowed_latents(spec, frames_until, num_latents)

    def frames(count: int) -> int:
        """The most frames that `count` allowed latents can bring."""
        return spec.frames_after(count, ended=num_latents is None or count >= num_latents)

    within = allowed if num_latents is None else min(allowed, num_latents)
    assert frames(within) <= max(frames_until, 0)
    if num_latents is None or allowed < num_latents:
        assert frames(allowed + 1) > frames_until


@given(specs(), st.integers(0, 40), st.integers(1, 8))
def test_no_chunk_gives_more_frames_than_its_size_says(spec: DecoderSpec, num_before: int, num_latents: int) -> None:
    """Whenever it comes and whether it is the last; and some chunk gives as many."""

    def frames(before: int, count: int) -> int:
        return spec.frames_after(before + count, ended=True) - spec.frames_after(before, ended=False)

    assert 0 <= frames(num_before, num_latents) <= spec.most_frames(num_latents)
    assert spec.most_frames(num_latents) in {frames(before, num_latents) for before in range(10)}


@given(specs(), st.integers(0, 200), st.integers(0, 60))
def test_learning_the_number_of_latents_never_takes_a_permission_back(
    spec: DecoderSpec, frames_until: int, num_latents: int
) -> None:
    before = allowed_latents(spec, frames_until, None)
    after = allowed_latents(spec, frames_until, num_latents)
    assert min(before, num_latents) <= after


@given(specs(), st.integers(0, 50), st.integers(1, 60), st.booleans(), st.data())
def test_every_clip_completes_whatever_window_its_client_gives(
    spec: DecoderSpec, window_bytes: int, num_latents: int, declared: bool, data: st.DataObject
) -> None:
    """The decoder runs as far as allowed; the client acknowledges some of what it has, and at last all of it."""
    limits = WindowLimits.of(spec, 1, window_bytes)
    window = FrameWindow(limits, initial_frames=data.draw(st.none() | st.integers(0, 100)))
    num_decoded = num_frames = num_acknowledged = 0
    ended = False
    while num_frames < spec.num_frames(num_latents):
        known = num_latents if declared or ended else None
        to_come = num_latents + (spec.num_blanks if ended else 0)
        allowed = min(to_come, allowed_latents(spec, window.frames_until, known))
        num_decoded = max(num_decoded, allowed)
        ended = ended or data.draw(st.booleans())
        done = ended and num_decoded == num_latents + spec.num_blanks
        num_frames = max(num_frames, spec.frames_after(num_decoded, ended=done))
        assert num_frames - num_acknowledged <= limits.max_frames
        acknowledged = data.draw(st.integers(num_acknowledged, num_frames) | st.just(num_frames))
        before = (num_decoded, num_acknowledged, ended)
        window.ack(acknowledged, data.draw(st.integers(0, 100)), num_sent=num_frames)
        num_acknowledged = acknowledged
        if (num_decoded, num_acknowledged, ended) == before:
            window.ack(num_frames, 0, num_sent=num_frames)
            num_acknowledged, ended = num_frames, True
            known = num_latents
            progress = allowed_latents(spec, window.frames_until, known if ended else None)
            assert progress > num_decoded or num_decoded == num_latents + spec.num_blanks


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 50), st.booleans())))
def test_grants_never_fall_stay_within_the_budget_and_no_client_waits_unheard(
    budget: int, steps: list[tuple[int, bool]]
) -> None:
    """The client sends all it was told of; the worker takes over any number; an overdue grant is announced."""
    grant = LatentGrant(budget)
    told = grant.announce()
    num_sent = num_fed = 0
    for wanted, frames_leave in steps:
        num_sent = max(num_sent, told)
        num_fed = max(num_fed, min(num_sent, wanted))
        grant.fed(num_fed)
        assert grant.until - num_fed <= budget
        if frames_leave or grant.overdue:
            news = grant.announce()
            assert news == 0 or news > told
            told = max(told, news)
        if num_fed == num_sent:
            assert told > num_sent or 2 * (grant.until - told) < budget
    assert told <= grant.until
