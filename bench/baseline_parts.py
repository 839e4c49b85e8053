"""What the baseline is made of besides its loop: an encoder, and a CUDA stream that may be missing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from framehaul_client.sinks.containers import CONTAINERS
from framehaul_client.sinks.video_options import VideoOptions

_FPS: Final = Fraction(24)


class Encoder:
    """x264 with the client's options, or nothing."""

    def __init__(self, out: Path | None, height: int, width: int) -> None:
        """Open `out`; None discards frames."""
        self._container = None
        if out is not None:
            codec = CONTAINERS["mp4"].codec
            self._container = av.open(str(out), "w")
            stream = self._container.add_stream(codec, rate=_FPS)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.options = VideoOptions().encoder_options(codec)
            self._stream = stream

    def write(self, frame: NDArray[np.uint8], layout: str) -> None:
        """Encode one frame of `layout`."""
        if self._container is not None:
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format=layout)):
                self._container.mux(packet)

    def close(self) -> None:
        """Write what is held back."""
        if self._container is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
            self._container.close()


class Stream:
    """A CUDA stream, or nothing on the CPU."""

    def __init__(self, device: torch.device) -> None:
        """Make one."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def use(self) -> Any:
        """Put work here."""
        return torch.cuda.stream(self._stream)

    def record(self) -> Any:
        """Mark the work so far."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event

    def wait(self, event: Any) -> None:
        """Wait for another stream's mark."""
        if self._stream is not None:
            self._stream.wait_event(event)

    def keep(self, tensor: Tensor) -> None:
        """Don't let the allocator reuse it before work here is done."""
        if self._stream is not None:
            tensor.record_stream(self._stream)
