"""What a session asks for, and how some options are read; pure values, checked when they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from framehaul.formats import FPS_ALLOWED, LatentDtype, PixelFormat, checked_fps
from framehaul.wire import MAX_PRIORITY

DEFAULT_TARGET: Final = "127.0.0.1:50051"
TARGET_VARIABLE: Final = "FRAMEHAUL_TARGET"
DEFAULT_CONNECT_TIMEOUT_S: Final = 5.0
# Room for one gbrpf16le frame of 3840x2160; servers choose smaller messages where frames are small.
DEFAULT_MAX_MESSAGE_BYTES: Final = 64 << 20
DEFAULT_RETRY_FOR_S: Final = 60.0
_MAX_RETRY_FOR_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """What a session asks for: the keyword arguments of `FrameClient.session`.

    Attributes:
        model: the decoder's name; empty for the server's default.
        pixel_format: `rgb24`, `yuv420p`, `yuv420p10le` or `gbrpf16le`; see `PixelFormat` for the arrays.
        dtype: `bfloat16` for bit patterns held as uint16; None takes it from the first array.
        num_latents: how many latents will come; some decoders must know it. None: not known, unless the latents are
            one array.
        normalized: the latents have zero mean and unit variance, and the server must undo that.
        priority: -100..100, higher is served first.
        window_frames: how many frames may wait at the client, within the server's limits; None: about 64 MiB of them.
        max_message_bytes: the largest message that the server may send.
        retry_for_s: how long to try to resume the session after the connection or the server is lost, counted from
            the last sign of life; 0 fails at once. Latents from an iterator are kept until the frames that need them
            have come: with some decoders, that is the whole clip. Time in a server's queue doesn't count.
        on_queued: called on the event loop with each position in the queue of a server that is full; 1 is next. To
            stop waiting, cancel the task that enters the session.
    """

    model: str = ""
    pixel_format: PixelFormat | str = PixelFormat.RGB24
    dtype: LatentDtype | str | None = None
    num_latents: int | None = None
    normalized: bool = False
    priority: int = 0
    window_frames: int | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    retry_for_s: float = DEFAULT_RETRY_FOR_S
    on_queued: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside its range; the text names both.
        """
        PixelFormat(self.pixel_format)
        if self.dtype is not None:
            LatentDtype(self.dtype)
        check_priority(self.priority)
        if self.num_latents is not None and self.num_latents < 1:
            raise ValueError(f"num_latents={self.num_latents}: must be 1 or more")
        if self.window_frames is not None and not 1 <= self.window_frames < 1 << 32:
            raise ValueError(f"window_frames={self.window_frames}: must be 1 or more")
        if not 1 << 10 <= self.max_message_bytes < 1 << 31:
            raise ValueError(f"max_message_bytes={self.max_message_bytes}: must be 1024..2147483647")
        check_retry_for(self.retry_for_s)


def check_retry_for(retry_for_s: float) -> float:
    """Return `retry_for_s`.

    Raises:
        ValueError: it is out of its range.
    """
    if not 0 <= retry_for_s <= _MAX_RETRY_FOR_S:
        raise ValueError(f"retry_for_s={retry_for_s:g}: must be 0..{_MAX_RETRY_FOR_S:g}")
    return retry_for_s


def check_priority(priority: int) -> int:
    """Return `priority`.

    Raises:
        ValueError: it is out of its range.
    """
    if priority not in range(-MAX_PRIORITY, MAX_PRIORITY + 1):
        raise ValueError(f"priority={priority}: must be {-MAX_PRIORITY}..{MAX_PRIORITY}")
    return priority


def parse_fps(text: str) -> Fraction:
    """Read frames a second: `24`, `23.976` or `24000/1001`.

    Raises:
        ValueError: it isn't a positive number.
    """
    try:
        return checked_fps(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"fps={text}: must be {FPS_ALLOWED}") from None
