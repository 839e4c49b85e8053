"""What a session asks for, and how some options are read; pure values, checked when they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from framehaul.formats import FPS_ALLOWED, LatentDtype, PixelFormat, checked_fps
from framehaul.wire import MAX_PRIORITY
from framehaul_client.core.events import OnEvent
from framehaul_client.core.latents import Layout

DEFAULT_TARGET: Final = "127.0.0.1:50051"
TARGET_VARIABLE: Final = "FRAMEHAUL_TARGET"
DEFAULT_CONNECT_TIMEOUT_S: Final = 5.0
# Room for one gbrpf16le frame of 3840x2160; servers choose smaller messages where frames are small.
DEFAULT_MAX_MESSAGE_BYTES: Final = 64 << 20
DEFAULT_RETRY_FOR_S: Final = 60.0
DEFAULT_STALL_TIMEOUT_S: Final = 600.0
_MAX_RETRY_FOR_S: Final = 7 * 24 * 3600.0
SCHEME: Final = re.compile(r"^(dns:(//[^/]*/)?|ipv4:|ipv6:)")
"""What gRPC's targets may begin with."""
_MAX_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(\[[^]/]+]|[^][:/]+):0*[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """What a session asks for: the keyword arguments of `FrameClient.session`.

    Attributes:
        model: the decoder's name; empty for the server's default.
        pixel_format: `rgb24`, `yuv420p`, `yuv420p10le` or `gbrpf16le`; see `PixelFormat` for the arrays.
        dtype: `bfloat16` for bit patterns held as uint16; None takes it from the first array.
        layout: order of the axes of a clip, `TCHW` or `CTHW`, each also after a batch of one; None: `[T, C, h, w]` or
            `[1, C, T, h, w]`. An open file has its own.
        num_latents: how many latents will come; some decoders must know it. None: not known, unless the latents are
            one array or a file.
        num_frames: how many frames the clip has, if the last latent gives more: the rest is left out. None: all of
            them, or what the latents' file says.
        start_frame: the first frame wanted. Latents come from the clip's first on all the same: those that it doesn't
            need are read, and not sent.
        normalized: the latents have zero mean and unit variance, and the server must undo that.
        restart_latents: the decoder is cold again before each latent whose index is a multiple of it, as generators
            want it that decode block by block (Helios: 9). None: at the clip's start alone.
        reproducible: the same latents give the same bytes on servers of the same version and kind of device, whatever
            else they do. Latents are decoded one by one, which takes longer with some decoders. None: as the server
            does by default.
        priority: -100..100, higher is served first.
        window_frames: how many frames may wait at the client, within the server's limits; None: about 64 MiB of them.
        max_message_bytes: the largest message that the server may send.
        retry_for_s: how long to try to resume the session after the connection or the server is lost, counted from
            the last frame; 0 fails at once. Latents from an iterator are kept until the frames that need them
            have come: with some decoders, that is the whole clip. Time in a server's queue doesn't count.
        stall_timeout_s: how long the server may stay silent while it is its turn; then the session counts as lost, as
            if the connection were. Its turn ends with frames, with latents that it takes, with a word from its queue.
            It is not its turn while frames wait for the caller, or while the iterator makes latents.
        on_queued: called on the event loop with each position in the queue of a server that is full; 1 is next. To
            stop waiting, cancel the task that enters the session.
        on_event: called on the event loop with what the session does, as it does it; see `Event`.
    """

    model: str = ""
    pixel_format: PixelFormat | str = PixelFormat.RGB24
    dtype: LatentDtype | str | None = None
    layout: Layout | str | None = None
    num_latents: int | None = None
    num_frames: int | None = None
    start_frame: int = 0
    normalized: bool = False
    restart_latents: int | None = None
    reproducible: bool | None = None
    priority: int = 0
    window_frames: int | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    retry_for_s: float = DEFAULT_RETRY_FOR_S
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    on_queued: Callable[[int], None] | None = None
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside its range; the text names both.
        """
        _check_choice("pixel_format", self.pixel_format, PixelFormat)
        if self.dtype is not None:
            _check_choice("dtype", self.dtype, LatentDtype)
        check_layout(self.layout)
        check_priority(self.priority)
        if self.num_latents is not None and self.num_latents < 1:
            raise ValueError(f"num_latents={self.num_latents}: must be 1 or more")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames}: must be 1 or more")
        if self.restart_latents is not None and not 1 <= self.restart_latents < 1 << 32:
            raise ValueError(f"restart_latents={self.restart_latents}: must be 1..4294967295")
        if not 0 <= self.start_frame < (self.num_frames or 1 << 63):
            most = "" if self.num_frames is None else f"..{self.num_frames - 1}"
            raise ValueError(f"start_frame={self.start_frame}: must be 0{most or ' or more'}")
        if self.window_frames is not None and not 1 <= self.window_frames < 1 << 32:
            raise ValueError(f"window_frames={self.window_frames}: must be 1..4294967295")
        if not 1 << 10 <= self.max_message_bytes < 1 << 31:
            raise ValueError(f"max_message_bytes={self.max_message_bytes}: must be 1024..2147483647")
        check_retry_for(self.retry_for_s)
        check_stall_timeout(self.stall_timeout_s)


def check_layout(layout: str | None) -> Layout | None:
    """Return the order of axes that `layout` names.

    Raises:
        ValueError: it names none.
    """
    if layout is None or layout in list(Layout):
        return None if layout is None else Layout(layout)
    raise ValueError(f"layout={layout}: must be {' or '.join(Layout)}")


def check_retry_for(retry_for_s: float) -> float:
    """Return `retry_for_s`.

    Raises:
        ValueError: it is out of its range.
    """
    if not 0 <= retry_for_s <= _MAX_RETRY_FOR_S:
        raise ValueError(f"retry_for_s={retry_for_s:g}: must be 0..{_MAX_RETRY_FOR_S:g}")
    return retry_for_s


def check_stall_timeout(stall_timeout_s: float) -> float:
    """Return `stall_timeout_s`.

    Raises:
        ValueError: it is out of its range.
    """
    if not 0 < stall_timeout_s <= _MAX_RETRY_FOR_S:
        raise ValueError(f"stall_timeout_s={stall_timeout_s:g}: must be over 0 and up to {_MAX_RETRY_FOR_S:g}")
    return stall_timeout_s


def check_priority(priority: int) -> int:
    """Return `priority`.

    Raises:
        ValueError: it is out of its range.
    """
    if priority not in range(-MAX_PRIORITY, MAX_PRIORITY + 1):
        raise ValueError(f"priority={priority}: must be {-MAX_PRIORITY}..{MAX_PRIORITY}")
    return priority


def check_target(target: str) -> str:
    """Return `target`, as gRPC names servers; without a port it would go to 443.

    Raises:
        ValueError: it names no server.
    """
    addresses = SCHEME.sub("", target)
    if not target.startswith("unix") and not all(map(_is_address, addresses.split(","))):
        raise ValueError(f"target={target}: must be HOST:PORT, such as gpu7:50051, without http://; or unix:PATH")
    return target


def _is_address(text: str) -> bool:
    """Whether it has a host and a port; gRPC would take a port that is too large modulo 65536."""
    return _ADDRESS.fullmatch(text) is not None and int(text.rpartition(":")[2]) <= _MAX_PORT


def parse_fps(text: str) -> Fraction:
    """Read frames a second: `24`, `23.976` or `24000/1001`.

    What is a broadcast rate to as many decimals as were given is that rate: 23.98 is 24000/1001.

    Raises:
        ValueError: it isn't a positive number.
    """
    try:
        exact = Fraction(text)
        fps = exact.limit_denominator(1001)  # the broadcast rates' own denominator
        broadcast = Fraction(math.ceil(fps) * 1000, 1001)
        decimals = len(text.strip().partition(".")[2])
        if fps.denominator > 1 and round(broadcast, decimals) == exact:
            fps = broadcast
        return checked_fps(fps)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"fps={text}: must be {FPS_ALLOWED}") from None


def _check_choice(name: str, value: str, choices: type[StrEnum]) -> None:
    if value not in list(choices):
        raise ValueError(f"{name}={value}: must be {', '.join(choices)}")
