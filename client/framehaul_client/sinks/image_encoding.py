"""How one frame becomes the bytes of one image file: PNG in 8 and in 16 bits, OpenEXR in half floats; by FFmpeg.

None is converted to another colour space or linearised: samples are the decoder's, display-referred as it was trained.
PNG files carry no colour chunks, which by its specification leaves the choice to the reader: sRGB everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout, Pixels
from framehaul_client.sinks.exr import add_chromaticities
from framehaul_client.sinks.planes import frame_of_planes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoding:
    """One kind of image file.

    Attributes:
        pixel_format: what frames must be in.
        codec: FFmpeg's name of the encoder.
        encoded_format: and of what it takes.
        frame: brings a frame into that.
        options: for the encoder.
        finish: is given the file's bytes and returns the final ones.
    """

    pixel_format: PixelFormat
    codec: str
    encoded_format: str
    frame: Callable[[Pixels], av.VideoFrame]
    options: dict[str, str] = field(default_factory=dict)
    finish: Callable[[bytes], bytes] = bytes

    def open(self, layout: FrameLayout) -> VideoCodecContext:
        """Open an encoder for frames of this size."""
        codec = av.CodecContext.create(self.codec, "w")
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height = layout.width, layout.height
        codec.pix_fmt = self.encoded_format
        codec.time_base = Fraction(1, 1)
        codec.sample_aspect_ratio = Fraction(1, 1)
        codec.options = dict(self.options)
        # Frames are independent, and one at a time comes out again: threads would hold some back.
        codec.thread_count = 1
        return codec

    def encode(self, codec: VideoCodecContext, pixels: Pixels) -> bytes:
        """Make the bytes of a file."""
        return self.finish(b"".join(bytes(packet) for packet in codec.encode(self.frame(pixels))))


def _rgb24(pixels: Pixels) -> av.VideoFrame:
    return av.VideoFrame.from_numpy_buffer(pixels, format="rgb24")


def _rgb48(pixels: Pixels) -> av.VideoFrame:
    """`[3, H, W] float16` in 0..1, planes G, B, R, to the nearest of 65536 levels."""
    levels = _LEVELS[pixels.view(np.uint16)][[2, 0, 1]].transpose(1, 2, 0)
    return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(levels).view(np.uint16), format="rgb48be")


def _gbrpf32(pixels: Pixels) -> av.VideoFrame:
    """FFmpeg's EXR encoder takes float32 and gives the same half floats back."""
    return frame_of_planes("gbrpf32le", list(pixels.astype("<f4")))


_HALVES: Final = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
_LEVELS: Final = np.rint(np.nan_to_num(_HALVES).clip(0, 1) * 65535).astype(">u2")
"""Of each half float, by its bits."""

PNG: Final = ImageEncoding(pixel_format=PixelFormat.RGB24, codec="png", encoded_format="rgb24", frame=_rgb24)
PNG16: Final = ImageEncoding(pixel_format=PixelFormat.GBRPF16LE, codec="png", encoded_format="rgb48be", frame=_rgb48)
EXR: Final = ImageEncoding(
    pixel_format=PixelFormat.GBRPF16LE,
    codec="exr",
    encoded_format="gbrpf32le",
    frame=_gbrpf32,
    options={"format": "half", "compression": "zip1"},  # a line at a time, which compositors read fastest
    finish=add_chromaticities,
)
IMAGE_ENCODINGS: Final = {".png": (PNG, PNG16), ".exr": (EXR,)}
"""By the file's suffix; the first is the default."""
