"""One PNG or OpenEXR file for each frame, encoded by FFmpeg without loss; every file appears whole.

Samples are the decoder's, display-referred as it was trained: nothing is converted to another colour space or
linearised. PNG files carry no colour chunks, which by the specification leaves the choice to the reader: sRGB
everywhere.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout, Pixels
from framehaul_client.sinks.base import PartialFile, output_error
from framehaul_client.sinks.planes import frame_of_planes

_NUMBER: Final = re.compile(r"%(?:0[0-9]{1,3})?d")
_HALVES: Final = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
_LEVELS: Final = np.rint(np.nan_to_num(_HALVES).clip(0, 1) * 65535).astype(">u2")
"""Of each half float, by its bits."""
_EXR_MAGIC_BYTES: Final = 8
_CHROMATICITIES: Final = struct.pack(
    "<15s15si8f", b"chromaticities", b"chromaticities", 32,
    0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290,  # ITU-R BT.709-6, item 1.4: R, G, B and D65, each x and y
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoding:
    """One kind of image file.

    Attributes:
        pixel_format: what frames must be in.
        codec: FFmpeg's name of the encoder.
        encoded_format: FFmpeg's name of the pixel format that the encoder takes.
        frame: brings a frame into that format.
        options: for the encoder.
        finish: makes the final bytes of the encoder's.
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


def _with_chromaticities(image: bytes) -> bytes:
    """Add to an OpenEXR file of one part what FFmpeg leaves out: that red, green and blue are those of BT.709.

    Layout: https://openexr.com/en/latest/OpenEXRFileLayout.html. A header is a list of attributes, each a name and a
    type that end in a zero byte, a size and a value; an empty name ends it. A table of the chunks' places follows.
    """
    end = _EXR_MAGIC_BYTES
    while image[end]:
        size_at = image.index(0, image.index(0, end) + 1) + 1
        end = size_at + 4 + int.from_bytes(image[size_at : size_at + 4], "little")
    table = end + 1
    # The table ends where the first chunk starts.
    (first_chunk,) = struct.unpack_from("<Q", image, table)
    num_chunks = (first_chunk - table) // 8
    places = struct.unpack_from(f"<{num_chunks}Q", image, table)
    moved = struct.pack(f"<{num_chunks}Q", *(place + len(_CHROMATICITIES) for place in places))
    return b"".join((image[:end], _CHROMATICITIES, image[end:table], moved, memoryview(image)[first_chunk:]))


PNG: Final = ImageEncoding(pixel_format=PixelFormat.RGB24, codec="png", encoded_format="rgb24", frame=_rgb24)
PNG16: Final = ImageEncoding(pixel_format=PixelFormat.GBRPF16LE, codec="png", encoded_format="rgb48be", frame=_rgb48)
EXR: Final = ImageEncoding(
    pixel_format=PixelFormat.GBRPF16LE,
    codec="exr",
    encoded_format="gbrpf32le",
    frame=_gbrpf32,
    options={"format": "half", "compression": "zip1"},  # a line at a time, which compositors read fastest
    finish=_with_chromaticities,
)
IMAGE_ENCODINGS: Final = {"png": (PNG, PNG16), "exr": (EXR,)}
"""By the file's suffix; the first is the default."""


def _check_pattern(pattern: str) -> None:
    """Check that `pattern` names one file for each frame number, by one `%d` or `%06d` in its last part.

    Raises:
        ValueError: it doesn't.
    """
    if len(_NUMBER.findall(os.path.basename(pattern))) != 1:
        raise ValueError(f"out={pattern}: the file's name must hold one frame number, such as frame-%06d.png")


class ImageSink:
    """Numbers its files from 0, the index of the frame in the clip."""

    def __init__(self, pattern: str, encoding: ImageEncoding) -> None:
        """Write files named by `pattern`, such as `frames/%06d.png`, in `encoding`.

        Raises:
            ValueError: the pattern doesn't name one file for each frame.
        """
        _check_pattern(pattern)
        folder, self._name = os.path.split(pattern)
        self._folder = Path(folder)
        self._encoding = encoding
        self._codec: VideoCodecContext | None = None
        self.fps: Fraction | None = None
        self.pixel_format = encoding.pixel_format
        self.num_bytes = 0
        self.faster = encoding.codec

    def prepare(self) -> None:
        """Create the folder, and see that the first file can be written there.

        Raises:
            OutputError: it can't.
        """
        PartialFile(self._path(0)).discard()

    def start(self, layout: FrameLayout, num_frames: int | None = None) -> None:
        """Open the encoder for frames of this size, and see that the last file, whose name is longest, can be written.

        Raises:
            OutputError: it can't.
        """
        if num_frames:
            PartialFile(self._path(num_frames - 1)).discard()
        self._codec = self._encoding.open(layout)

    def write(self, batch: FrameBatch) -> None:
        """Write one file for each frame.

        Raises:
            OutputError: the disk is full or failed.
        """
        assert self._codec is not None, "start comes first"
        for index, pixels in enumerate(batch.frames, batch.first_frame):
            self._write_file(self._path(index), self._encoding.encode(self._codec, pixels))

    def finish(self) -> None:
        """Do nothing: every file is whole already."""

    def abort(self) -> Path | None:
        """Leave the files that are there: each is whole."""
        return self._folder if self.num_bytes else None

    def _path(self, index: int) -> Path:
        return self._folder / _NUMBER.sub(lambda number: number[0] % index, self._name)

    def _write_file(self, path: Path, image: bytes) -> None:
        file = PartialFile(path)
        try:
            file.file.write(image)
            file.close()
            file.take_name()
        except OSError as error:
            raise output_error(path, error) from error
        finally:
            if file.path != file.target:
                file.discard()
        self.num_bytes += len(image)
