"""How a clip's latents become frames.

`first_frames` for its first latent and `temporal_factor` for every later one. With a period each latent whose index is
a multiple of `period_latents` gives `first_frames`; 0 is no period, but the clip's first latent alone.
"""

from __future__ import annotations


def num_frames(num_latents: int, first_frames: int, temporal_factor: int, period_latents: int = 0) -> int:
    """Frames of a whole clip of `num_latents`: in a longer one, the index of the next latent's first."""
    if not period_latents:
        return 0 if num_latents == 0 else first_frames + (num_latents - 1) * temporal_factor
    periods, rest = divmod(num_latents, period_latents)
    whole = num_frames(period_latents, first_frames, temporal_factor)
    return periods * whole + num_frames(rest, first_frames, temporal_factor)


def latents_whole(num_frames: int, first_frames: int, temporal_factor: int, period_latents: int = 0) -> int:
    """The most latents whose clip has no more than `num_frames` frames; so the latent of the frame with that index."""
    periods = 0
    if period_latents:
        periods, num_frames = divmod(num_frames, first_frames + (period_latents - 1) * temporal_factor)
    after_first = num_frames - first_frames
    return periods * period_latents + (0 if after_first < 0 else 1 + after_first // temporal_factor)


def first_latent_for(
    frame: int, first_frames: int, temporal_factor: int, history_latents: int | None, period_latents: int = 0
) -> int:
    """The latent that a decode must start from, for `frame` and all after it.

    Args:
        frame: index in the clip.
        first_frames: of the clip's first latent.
        temporal_factor: frames of every later latent.
        history_latents: latents before its own that a frame needs; None: all of them.
        period_latents: after how many latents that repeats; 0: it doesn't.
    """
    if history_latents is None:
        return 0
    return max(0, latents_whole(frame, first_frames, temporal_factor, period_latents) - history_latents)
