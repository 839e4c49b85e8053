"""How many frames a client still accepts, and which latents may be decoded for them.

Pure; lives in the server, which alone knows what a client took. The worker hears which latents' frames are wanted soon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.spec import DecoderSpec

_MOST_CHUNKS: Final = 5
"""Two are on the device, one is ready to follow them, and two are on their way to a client that reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """The range that a session's window is kept in."""

    min_frames: int
    max_frames: int

    @classmethod
    def of(cls, spec: DecoderSpec, frame_bytes: int, window_bytes: int) -> WindowLimits:
        """Limits of a session whose untaken frames may hold `window_bytes`.

        The smallest window lets one latent more through, whatever was decoded before: with anything less, a session
        that doesn't know its last latent yet could wait for ever.
        """
        min_frames = spec.most_frames(1)
        return cls(min_frames=min_frames, max_frames=max(min_frames, window_bytes // frame_bytes))

    def clamp(self, num_frames: int) -> int:
        """The allowed window nearest to `num_frames`."""
        return min(max(num_frames, self.min_frames), self.max_frames)


class FrameWindow:
    """The frames a client has taken and will take: frames below `frames_until` may be published."""

    __slots__ = ("_first_frame", "_limits", "frames_until", "num_taken")

    def __init__(self, limits: WindowLimits, *, initial_frames: int | None, first_frame: int = 0) -> None:
        """Open a window of `initial_frames`, brought into `limits`, at `first_frame`; None: as wide as may be."""
        self._limits = limits
        self._first_frame = first_frame
        self.num_taken = first_frame
        width = limits.max_frames if initial_frames is None else limits.clamp(initial_frames)
        self.frames_until = first_frame + width
        """Never falls: a promise once given may be in use already."""

    def ack(self, next_frame: int, window_frames: int, *, num_sent: int) -> None:
        """Take an EXPLICIT client's word: it has consumed every frame before `next_frame` and has room for more.

        Cumulative and idempotent: an older acknowledgement changes nothing.

        Raises:
            InvalidInput: `next_frame` is beyond the frames that were sent.
        """
        check_ack(next_frame, num_sent=num_sent)
        if next_frame >= self.num_taken:
            self.num_taken = next_frame
            self.frames_until = max(self.frames_until, next_frame + self._limits.clamp(window_frames))

    def wanted_until(self, chunk_frames: int) -> int:
        """The client waits for the frames below this one, or soon will.

        It is believed to want a chunk and as much more as it has taken, up to what keeps its stream without gaps.
        """
        believed = chunk_frames + self.num_taken - self._first_frame
        return self.num_taken + min(believed, _MOST_CHUNKS * chunk_frames)

    def take(self, num_frames: int) -> None:
        """Count frames that an AUTO client took, by the transport's flow control."""
        self.num_taken += num_frames
        self.frames_until = max(self.frames_until, self.num_taken + self._limits.max_frames)


def check_ack(next_frame: int, *, num_sent: int) -> None:
    """Refuse an acknowledgement of frames that weren't sent.

    Raises:
        InvalidInput: `next_frame` is beyond the frames that were sent.
    """
    if next_frame > num_sent:
        raise InvalidInput("ack.next_frame", next_frame, f"at most {num_sent}, the number of frames sent so far")


def allowed_latents(spec: DecoderSpec, frames_until: int, num_latents: int | None) -> int:
    """The largest number of latents, and blanks behind them, whose frames all lie below `frames_until`.

    Args:
        spec: the decoder's shape rules.
        frames_until: first frame that doesn't fit any more.
        num_latents: of the whole clip; None while unknown. Then any latent may turn out to be the last, and frames
            that were held back come with the last, so these must fit too.
    """
    whole = spec.latents_whole(frames_until)
    if spec.drains:
        return spec.latents_within(frames_until)
    if num_latents is None or whole >= num_latents:
        return whole
    return min(num_latents - 1, spec.latents_within(frames_until))
