"""What a session waits for: the causes that its time is charged to, and the sentence made of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, Self


class Cause(str, Enum):
    """What the next frame waits for."""

    LATENTS = "waiting for latents"
    DECODE = "decode"
    COPY = "copy"
    """From the device to the host, and the checksum there."""
    SLOTS = "slots"
    """All slots of the frame ring are taken, or the server is late in taking the frames of one."""
    CLIENT_WINDOW = "client's window"
    """It is full: the client has frames, or acknowledgements of them are on their way."""
    NETWORK = "network"
    """Frames, or acknowledgements, are on their way though the window has room; or the connection is lost."""
    CLIENT_ENCODER = "client's encoder"
    """The client works on frames: says its own report."""
    SHARED = "device shared with others"
    IDLE = "idle"
    """A server without sessions."""


ADVICE: Final = MappingProxyType(
    {
        Cause.LATENTS: "the server waits for the client: send latents sooner, or several in a message",
        Cause.DECODE: "the decoder works all the time: a faster device or decoder, or smaller frames",
        Cause.COPY: "copies and checksums hold the decoder up: is the host's memory busy with something else?",
        Cause.SLOTS: "the server's process is late in taking frames: is its processor busy? --slots has more of them",
        Cause.CLIENT_WINDOW: "a wider window (window_frames, --session-window-mib) covers a longer way to the client",
        Cause.NETWORK: "frames wait for the connection: yuv420p has half the bytes of rgb24",
        Cause.CLIENT_ENCODER: "the client can't use frames any faster: a faster encoder, preset or machine there",
        Cause.SHARED: "others are served as well: a higher priority or weight, or another server",
        Cause.IDLE: "nobody has asked for frames",
    }
)
"""What to do about each."""
COLOURS: Final = MappingProxyType(
    {
        Cause.LATENTS: "#56b4e9",
        Cause.DECODE: "#009e73",
        Cause.COPY: "#f0e442",
        Cause.SLOTS: "#d55e00",
        Cause.CLIENT_WINDOW: "#e69f00",
        Cause.NETWORK: "#0072b2",
        Cause.CLIENT_ENCODER: "#cc79a7",
        Cause.SHARED: "#8c8c8c",
        Cause.IDLE: "#dddddd",
    }
)
"""In pictures: those of Okabe and Ito, which the colour-blind tell apart, and greys."""

_BOUND_BY: Final = MappingProxyType(
    {
        Cause.LATENTS: "bound by waiting for latents",
        Cause.DECODE: "bound by the decoder",
        Cause.COPY: "bound by the copy to the host",
        Cause.SLOTS: "bound by the frame slots",
        Cause.CLIENT_WINDOW: "bound by the client's window",
        Cause.NETWORK: "bound by the network",
        Cause.CLIENT_ENCODER: "bound by the client's encoder",
        Cause.SHARED: "bound by sharing the device with others",
        Cause.IDLE: "idle",
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What most of the time went to."""

    bound_by: Cause
    share: float
    """Of all the time, 0..1."""
    shares: Mapping[Cause, float]
    """Of each cause that has one, the largest first; they add up to 1."""

    @classmethod
    def of(cls, seconds: Mapping[Cause, float]) -> Self | None:
        """Judge by the time charged to each cause; None: there was none."""
        total = sum(seconds.values())
        if total <= 0:
            return None
        ordered = sorted(((cause, each) for cause, each in seconds.items() if each > 0), key=lambda item: -item[1])
        shares = {cause: each / total for cause, each in ordered}
        bound_by = ordered[0][0]
        return cls(bound_by, shares[bound_by], MappingProxyType(shares))

    def text(self) -> str:
        """The sentence, and what the rest went to: all causes of a hundredth or more."""
        rest = [f"{cause.value} {_percent(share)}" for cause, share in list(self.shares.items())[1:] if share >= 0.01]
        return f"{self}; {', '.join(rest)}" if rest else str(self)

    def __str__(self) -> str:
        """Like "bound by the client's encoder, 91 %"."""
        return f"{_BOUND_BY[self.bound_by]}, {_percent(self.share)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
