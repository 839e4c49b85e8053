import pytest

from framehaul.causes import ADVICE, Cause, Verdict


def test_the_verdict_is_the_cause_with_most_time_and_says_the_rest() -> None:
    """From a hundredth on."""
    verdict = Verdict.of({Cause.LATENTS: 1.0, Cause.CLIENT_ENCODER: 18.0, Cause.COPY: 0.05, Cause.SLOTS: 0.0})
    assert verdict is not None
    assert verdict.bound_by is Cause.CLIENT_ENCODER
    assert list(verdict.shares) == [Cause.CLIENT_ENCODER, Cause.LATENTS, Cause.COPY]
    assert sum(verdict.shares.values()) == pytest.approx(1)
    assert verdict.text() == "bound by the client's encoder, 94 %; waiting for latents 5 %"


@pytest.mark.parametrize("seconds", [{}, {Cause.DECODE: 0.0}])
def test_no_time_has_no_verdict(seconds: dict[Cause, float]) -> None:
    assert Verdict.of(seconds) is None


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (Cause.LATENTS, "bound by waiting for latents, 100 %"),
        (Cause.DECODE, "bound by the decoder, 100 %"),
        (Cause.COPY, "bound by the copy to the host, 100 %"),
        (Cause.SLOTS, "bound by the frame slots, 100 %"),
        (Cause.CLIENT_WINDOW, "bound by the client's window, 100 %"),
        (Cause.NETWORK, "bound by the network, 100 %"),
        (Cause.CLIENT_ENCODER, "bound by the client's encoder, 100 %"),
        (Cause.SHARED, "bound by sharing the device with others, 100 %"),
        (Cause.IDLE, "idle, 100 %"),
    ],
)
def test_every_cause_makes_a_sentence_and_has_advice(cause: Cause, text: str) -> None:
    verdict = Verdict.of({cause: 2.0})
    assert verdict is not None
    assert verdict.text() == text
    assert ADVICE[cause]
