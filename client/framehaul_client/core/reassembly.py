"""Puts the frames of a session in order and proves that none is lost, doubled or changed; pure.

It copies nothing, with one exception: not every library reads 16-bit samples at an odd address.
"""

from __future__ import annotations

from collections.abc import Sequence

import crc32c
import numpy as np

from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import DataLoss


class Reassembly:
    """Takes frame messages in order of arrival."""

    def __init__(self, layout: FrameLayout, start_frame: int = 0) -> None:
        """Expect `start_frame` of a clip with this `layout` first."""
        self._layout = layout
        self.next_frame = start_frame
        """Index of the frame that must come next."""

    def accept(self, first_frame: int, num_frames: int, checksums: Sequence[int], payload: memoryview) -> FrameBatch:
        """Check one message and return its frames, read-only.

        After an error nothing is counted: the session can't go on.

        Raises:
            DataLoss: it isn't the message that must come next, or a frame differs from its crc32c.
        """
        if first_frame != self.next_frame:
            raise DataLoss(f"first_frame={first_frame}: frame {self.next_frame} must come next")
        if num_frames < 1:
            raise DataLoss(f"num_frames={num_frames} at frame {first_frame}: must be 1 or more")
        if len(checksums) != num_frames:
            raise DataLoss(
                f"{len(checksums)} checksums at frame {first_frame}: must be {num_frames}, one for each frame"
            )
        frame_bytes = self._layout.frame_bytes
        if len(payload) != num_frames * frame_bytes:
            raise DataLoss(
                f"payload of {len(payload)} bytes at frame {first_frame}: "
                f"{num_frames} frames have {num_frames * frame_bytes}"
            )
        for offset, expected in enumerate(checksums):
            found = crc32c.crc32c(payload[offset * frame_bytes : (offset + 1) * frame_bytes])
            if found != expected:
                raise DataLoss(
                    f"frame {first_frame + offset} has crc32c {found:08x}: the server computed {expected:08x}"
                )
        self.next_frame += num_frames
        frames = np.frombuffer(payload, self._layout.pixel_format.dtype).reshape(num_frames, *self._layout.shape)
        if not frames.flags.aligned:
            frames = frames.copy()
            frames.flags.writeable = False
        return FrameBatch(first_frame, frames)

    def finish(self, num_frames: int) -> None:
        """Compare with the server's own count of the whole clip.

        Raises:
            DataLoss: it sent more or fewer than arrived.
        """
        if num_frames != self.next_frame:
            raise DataLoss(f"the server sent {num_frames} frames: {self.next_frame} arrived")
