import pytest

from framehaul import clip


def test_frames_of_a_clip() -> None:
    """The first latent may give fewer than the others."""
    assert [clip.num_frames(n, 1, 2) for n in range(4)] == [0, 1, 3, 5]
    assert [clip.num_frames(n, 4, 4) for n in range(3)] == [0, 4, 8]


def test_latents_of_so_many_frames() -> None:
    """Those whose frames are all among them."""
    assert [clip.latents_whole(frames, 1, 4) for frames in (0, 1, 4, 5, 9)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("first_frames", [1, 4])
@pytest.mark.parametrize("history", [None, 0, 1, 4])
def test_a_decode_starts_as_far_back_as_its_first_frame_needs(first_frames: int, history: int | None) -> None:
    """So many latents before the frame's own, and at the clip's start where all of them count."""
    for latent in range(12):
        own = range(clip.num_frames(latent, first_frames, 4), clip.num_frames(latent + 1, first_frames, 4))
        first = 0 if history is None else max(0, latent - history)
        assert {clip.first_latent_for(frame, first_frames, 4, history) for frame in own} == {first}


def test_with_a_period_the_first_latents_frames_come_again() -> None:
    """17 frames for 5 latents; whichever frame one asks for, it is found in its own latent."""
    counts = [clip.num_frames(n, 1, 4, 5) for n in range(13)]
    assert counts == [0, 1, 5, 9, 13, 17, 18, 22, 26, 30, 34, 35, 39]
    for latent in range(12):
        for frame in range(counts[latent], counts[latent + 1]):
            assert clip.latents_whole(frame, 1, 4, 5) == latent
            assert clip.first_latent_for(frame, 1, 4, 2, 5) == max(0, latent - 2)
