"""The latents side of a session: checks every message, counts latents, and cuts messages into latents.

No I/O; runs on the event loop. Latents are views of the received messages, never copies.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import numpy as np
from crc32c import crc32c

from framehaul.formats import LatentDtype
from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_pipeline.errors import DataLoss, InvalidInput, OutOfOrder
from framehaul_server.core.open_request import MAX_LATENTS, OpenRequest
from framehaul_server.errors import GrantExceeded

_EXPONENT_BITS: Final = MappingProxyType(
    {
        LatentDtype.FLOAT16: np.array(0x7C00, dtype="<u2"),
        LatentDtype.BFLOAT16: np.array(0x7F80, dtype="<u2"),
        LatentDtype.FLOAT32: np.array(0x7F800000, dtype="<u4"),
    }
)


def holds_latents(request: Envelope[pb.StreamRequest]) -> bool:
    """Whether a request holds latents, or says something of them."""
    header = request.header
    return bool(request.payload or header.num_latents) or header.HasField("index") or header.HasField("crc32c")


class LatentInput:
    """What has come in, and what may come next."""

    def __init__(self, request: OpenRequest) -> None:
        """Expect the first latent of the session that `request` opened."""
        self._request = request
        self.num_received = request.first_latent
        """All latents below this one are here."""
        self.num_fed = request.first_latent
        """Latents that the worker took over."""
        self.ended = False

    @property
    def num_pending(self) -> int:
        """Latents that hold memory here, or will: received and not yet taken over by the worker."""
        return self.num_received - self.num_fed

    @property
    def num_latents(self) -> int | None:
        """Of the whole clip; None while unknown."""
        return self.num_received if self.ended else self._request.opening.num_latents

    def accept(self, header: pb.StreamRequest, payload: memoryview, *, latents_until: int | None) -> list[memoryview]:
        """Check a message with latents, all but their values, and cut it into single latents; `count` them then.

        Args:
            header: the message without its payload.
            payload: `[num_latents, channels, height, width]`, little-endian.
            latents_until: latents from this index on are not granted; None: no grants in this session.

        Raises:
            OutOfOrder: latents after the end, an index gap or repeat.
            InvalidInput: byte count, number of latents.
            GrantExceeded: more than was granted.
            DataLoss: the checksum differs.
        """
        if header.HasField("index") and header.index != self.num_received:
            raise OutOfOrder(f"index={header.index}: the next latent is {self.num_received}")
        latent_bytes = self._request.latent_bytes
        count, rest = divmod(len(payload), latent_bytes)
        if rest or count == 0:
            geometry = self._request.opening.geometry
            raise InvalidInput(
                "latents",
                f"{len(payload)} bytes",
                f"a positive multiple of {latent_bytes} bytes, one {self._request.opening.dtype.value} latent "
                f"[{geometry.channels}, {geometry.height}, {geometry.width}]",
            )
        if header.num_latents and header.num_latents != count:
            raise InvalidInput("num_latents", header.num_latents, f"{count}, as many as the latents field holds, or 0")
        self._expect(count)
        if latents_until is not None and self.num_received + count > latents_until:
            raise GrantExceeded(
                f"latents: {self.num_received + count} sent, latents_until is {latents_until}: wait for a higher one"
            )
        if header.HasField("crc32c") and (actual := crc32c(payload)) != header.crc32c:
            raise DataLoss(f"crc32c={header.crc32c:#010x}: the latents field has {actual:#010x}")
        return [payload[start : start + latent_bytes] for start in range(0, len(payload), latent_bytes)]

    def count(self, count: int) -> None:
        """Count `count` latents more.

        Raises:
            OutOfOrder: the input has ended.
            InvalidInput: more than were declared.
        """
        self._expect(count)
        self.num_received += count

    def end(self) -> None:
        """Note that no more latents come; twice is fine.

        Raises:
            InvalidInput: see `check_end`.
        """
        self.check_end()
        self.ended = True

    def check_end(self, count: int = 0) -> None:
        """Refuse that the latents end with `count` more.

        Raises:
            InvalidInput: fewer came than were declared, or the clip ends before the first frame wanted.
        """
        declared, num_latents = self._request.opening.num_latents, self.num_received + count
        if declared is not None and num_latents < declared:
            raise InvalidInput("open.num_latents", declared, f"{num_latents}, the number of latents sent")
        start_frame, num_frames = self._request.start_frame, self._request.spec.num_frames(num_latents)
        if start_frame > num_frames:
            raise InvalidInput("open.start_frame", start_frame, f"at most {num_frames}, the clip's number of frames")

    def _expect(self, count: int) -> None:
        if self.ended:
            raise OutOfOrder("latents after end_of_latents")
        limit = self._request.most_latents
        if self.num_received + count > limit:
            allowed = f"at most {limit} in this session"
            if self._request.opening.num_latents is None and limit < MAX_LATENTS:
                allowed += ": its opening doesn't tell num_latents"
            raise InvalidInput("latents", f"{self.num_received + count} latents", allowed)


def check_finite(latent: memoryview, dtype: LatentDtype, index: int) -> None:
    """Refuse NaN and infinities: an exponent of all ones, in every binary format of IEEE 754 and in bfloat16.

    Raises:
        InvalidInput: names the latent and its first bad element.
    """
    exponent = _EXPONENT_BITS[dtype]
    bad = (np.frombuffer(latent, dtype=exponent.dtype) & exponent) == exponent
    if bad.any():
        raise InvalidInput("latents", f"NaN or infinity at element {int(bad.argmax())} of latent {index}", "finite")
