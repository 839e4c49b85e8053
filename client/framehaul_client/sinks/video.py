"""A video file by PyAV: 4:2:0 frames go into the encoder without a conversion, those of 8 bits without a copy.

Colours: BT.709, limited range, chroma in the centre, tagged as such, whatever the wire format was.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import av.error
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout, Pixels
from framehaul_client.errors import OutputError
from framehaul_client.sinks.base import PartialFile
from framehaul_client.sinks.planes import frame_of_planes, planes_of_420
from framehaul_client.sinks.video_options import VideoOptions, encoded_format

CONTAINERS: Final = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
VIDEO_FORMATS: Final = (PixelFormat.YUV420P, PixelFormat.YUV420P10LE, PixelFormat.RGB24)
"""How frames may arrive. Not as half floats: swscale would make them 256/255 brighter on their way to YCbCr."""
_APPLE_TAGS: Final = {"hevc": "hvc1"}  # what QuickTime and editors on macOS want; FFmpeg's own choice is hev1
_BT709: Final = 1  # ITU-T H.273: matrix, primaries and transfer characteristics alike
_RGB_MATRIX: Final = 0


class VideoSink:
    """Writes one file, which gets its name only when it is whole."""

    def __init__(self, target: Path, pixel_format: PixelFormat, fps: Fraction, options: VideoOptions) -> None:
        """Check what can be checked without writing anything.

        Args:
            target: the file, .mp4, .mov or .mkv.
            pixel_format: of the frames, one of `VIDEO_FORMATS`.
            fps: frames a second.
            options: how to encode.

        Raises:
            ValueError: no such container, encoder, or pixel format of the encoder.
        """
        container = CONTAINERS.get(target.suffix.lower())
        if container is None:
            raise ValueError(f"out={target}: must end in {', '.join(CONTAINERS)}")
        self._target = target
        self._container_format = container
        self._fps = fps
        self._options = options
        self._encoded_format = encoded_format(options, pixel_format)
        is_rgb = av.VideoFormat(self._encoded_format).is_rgb
        full_range = is_rgb or self._encoded_format.startswith("yuvj")
        self._range = ColorRange.JPEG if full_range else ColorRange.MPEG
        self._colorspace = _RGB_MATRIX if is_rgb else _BT709
        self._file: PartialFile | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._num_frames = 0
        self._finished = False
        self.pixel_format = pixel_format

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return 0 if self._file is None else self._file.num_bytes

    def prepare(self) -> None:
        """Create the file under its temporary name.

        Raises:
            OutputError: the folder can't be written.
        """
        self._file = PartialFile(self._target)

    def start(self, layout: FrameLayout) -> None:
        """Open the encoder.

        Raises:
            OutputError: the encoder refuses the size or its options.
        """
        assert self._file is not None, "prepare comes first"
        options = self._options.encoder_options
        try:
            self._container = av.open(str(self._file.path), "w", format=self._container_format)
            stream = self._container.add_stream(self._options.codec, rate=self._fps)
            assert isinstance(stream, VideoStream)
            self._configure(stream, layout, options)
            stream.codec_context.open()
        except (av.error.FFmpegError, ValueError) as error:
            asked = " ".join(f"{name}={value}" for name, value in options.items())
            reason = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
            raise OutputError(
                f"{self._target}: {self._options.codec} refused {layout.width}x{layout.height} "
                f"{self._encoded_format} {asked} ({reason})"
            ) from error
        unknown = sorted(options.keys() & stream.codec_context.options.keys())
        if unknown:
            raise OutputError(f"{self._target}: {self._options.codec} has no option {', '.join(unknown)}")
        self._stream = stream

    def write(self, batch: FrameBatch) -> None:
        """Encode frames.

        Raises:
            OutputError: the disk is full or failed, or the encoder did.
        """
        for pixels in batch.frames:
            self._encode(self._frame(pixels))
            self._num_frames += 1

    def finish(self) -> None:
        """Write what the encoder holds back, close the file and give it its name.

        Raises:
            OutputError: the disk is full or failed.
        """
        assert self._file is not None, "prepare comes first"
        self._close()
        self._file.publish()
        self._finished = True

    def abort(self) -> Path | None:
        """Keep the frames so far under the temporary name, playable if the disk allows it."""
        if self._file is None or self._finished:
            return None
        self._finished = True
        if self._num_frames == 0:
            self._release()
            self._file.discard()
            return None
        try:
            self._close()
        except OutputError:
            self._release()
        return self._file.path

    def _configure(self, stream: VideoStream, layout: FrameLayout, options: dict[str, str]) -> None:
        codec = stream.codec_context
        codec.width, codec.height = layout.width, layout.height
        codec.pix_fmt = self._encoded_format
        codec.time_base = 1 / self._fps
        if self._container_format != "matroska" and codec.codec.canonical_name in _APPLE_TAGS:
            codec.codec_tag = _APPLE_TAGS[codec.codec.canonical_name]
        self._tag(codec)
        codec.options = {**options, "chroma_sample_location": "center"}

    def _frame(self, pixels: Pixels) -> av.VideoFrame:
        if self.pixel_format is PixelFormat.YUV420P10LE:
            frame = frame_of_planes(self.pixel_format.value, planes_of_420(pixels))
        else:
            frame = av.VideoFrame.from_numpy_buffer(pixels, format=self.pixel_format.value)
        arrived_range = ColorRange.JPEG if self.pixel_format is PixelFormat.RGB24 else ColorRange.MPEG
        frame.color_range = int(arrived_range)
        if self._encoded_format != self.pixel_format.value:
            frame = frame.reformat(
                format=self._encoded_format,
                src_colorspace=Colorspace.ITU709,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=arrived_range,
                dst_color_range=self._range,
                interpolation=Interpolation.AREA,  # a mean of 2x2: chroma in the centre
            )
        frame.pts = self._num_frames
        frame.time_base = 1 / self._fps
        self._tag(frame)
        return frame

    def _tag(self, target: VideoCodecContext | av.VideoFrame) -> None:
        target.color_range = int(self._range)
        target.colorspace = self._colorspace
        target.color_primaries = _BT709
        target.color_trc = _BT709

    def _encode(self, frame: av.VideoFrame | None) -> None:
        assert self._stream is not None, "start comes first"
        assert self._container is not None, "start comes first"
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise OutputError(f"{self._target}: {error.strerror}") from error

    def _close(self) -> None:
        if self._container is None:  # finishing got this far before it failed
            return
        self._encode(None)
        try:
            self._container.close()
        except av.error.FFmpegError as error:
            raise OutputError(f"{self._target}: {error.strerror}") from error
        self._container = None

    def _release(self) -> None:
        """Free the container, whatever becomes of the file: on a full disk, closing fails again."""
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.error.FFmpegError):
                container.close()
