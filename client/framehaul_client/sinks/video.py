"""A video by PyAV, into a file or a pipe.

Frames of 4:2:0 go into the encoder without a conversion, those of 8 bits without a copy.

Colours: BT.709, limited range, chroma in the centre, tagged as such, whatever the wire format was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import av.error
from av.codec.codec import Capabilities
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout, Pixels
from framehaul_client.errors import OutputClosed, OutputError
from framehaul_client.sinks.base import PartialFile, Pipe, open_output
from framehaul_client.sinks.containers import Container
from framehaul_client.sinks.parts import Parts
from framehaul_client.sinks.planes import frame_of_planes, planes_of_420
from framehaul_client.sinks.segments import Plan, Segment, SegmentEncoders, plan_segments, spans_clip, uncut
from framehaul_client.sinks.sound import Sound, Track
from framehaul_client.sinks.video_options import VideoOptions, encoded_format

_LOG: Final = logging.getLogger(__name__)
VIDEO_FORMATS: Final = (PixelFormat.YUV420P, PixelFormat.YUV420P10LE, PixelFormat.RGB24)
"""How frames may arrive. Not as half floats: swscale would make them 256/255 brighter on their way to YCbCr."""
_APPLE_TAGS: Final = {"hevc": "hvc1"}  # what QuickTime and editors on macOS want; FFmpeg's own choice is hev1
_BT709: Final = 1  # ITU-T H.273: matrix, primaries and transfer characteristics alike
_RGB_MATRIX: Final = 0
_BUFFER_BYTES: Final = 1 << 20
_PRESETS: Final = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""Of x264 and x265, the fastest first."""
_STDERR: Final = 2
_LIBRARY_ERROR: Final = re.compile(r"^x26[45] \[error\]: (.+)$", re.MULTILINE)
_TRIAL_SIZE: Final = (640, 480)
_INTERLEAVING: Final = {"max_interleave_delta": "1000000"}
"""Microseconds that packets wait for those of another track, which may have ended."""
_SOUND_AHEAD_S: Final = Fraction(1, 2)
"""Of the video, so that the muxer, which puts packets in order, never waits for sound."""
_ONLY_SLICES: Final = frozenset({"mjpeg"})
"""Encoders that don't go over cores frame by frame, though they say so."""
_START_CODE: Final = b"\0\0\1"
_PREFIX_SEI: Final = 39  # ITU-T H.265, table 7-1
_FAILURES: Final = (av.error.FFmpegError, OSError)


class VideoSink:
    """Writes one file, which gets its name only when it is whole, or a pipe."""

    def __init__(
        self, target: Path | None, container: Container, pixel_format: PixelFormat, fps: Fraction, options: VideoOptions
    ) -> None:
        """Check what can be checked without writing anything, the encoder's options too.

        Args:
            target: the file, or a pipe or device; None for stdout.
            container: what to write.
            pixel_format: of the frames, one of `VIDEO_FORMATS`.
            fps: frames a second.
            options: how to encode.

        Raises:
            ValueError: no such encoder, or pixel format or option of the encoder; or the container doesn't take it.
        """
        self._target = target
        self._name = "stdout" if target is None else str(target)
        self._container_kind = container
        self._live = options.live
        self._codec = options.encoder(container).name
        self._encoder_options = options.encoder_options(self._codec)
        self._encoded_format = encoded_format(options, container, pixel_format)
        is_rgb = av.VideoFormat(self._encoded_format).is_rgb
        full_range = is_rgb or self._encoded_format.startswith("yuvj")
        self._range = ColorRange.JPEG if full_range else ColorRange.MPEG
        self._colorspace = _RGB_MATRIX if is_rgb else _BT709
        if options.in_parts and spans_clip(self._encoder_options):
            asked = " ".join(f"{name}={value}" for name, value in options.more.items())
            raise ValueError(f"{asked}: is kept over a whole clip, whose parts can't be encoded side by side then")
        self._output: PartialFile | Pipe | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._parts: Parts | None = None
        self._ends: tuple[int, ...] | None = None
        self._sound = None if options.audio is None else Sound(options.audio, container, options.audio_start)
        self._track: Track | None = None
        self._num_frames = 0
        self._ended = False
        self.fps = fps
        self.pixel_format = pixel_format
        if self._codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # else it writes on stderr by itself
        self._try_encoder()

    @property
    def num_bytes(self) -> int:
        """Bytes written."""
        return 0 if self._output is None else self._output.num_bytes

    @property
    def _length(self) -> Fraction:
        """Of the frames so far, in seconds."""
        return self._num_frames / self.fps

    @property
    def faster(self) -> str:
        """The encoder, and the next faster one of x264's and x265's presets."""
        preset = self._encoder_options.get("preset", "")
        if preset not in _PRESETS[1:] or self._codec not in ("libx264", "libx265"):
            return self._codec
        return f"{self._codec} {preset}; --preset {_PRESETS[_PRESETS.index(preset) - 1]} is faster, with more bytes"

    def prepare(self) -> None:
        """Create the file under its temporary name, or open the pipe.

        Raises:
            OutputError: it can't be written.
        """
        self._output = open_output(self._target)

    def start(self, layout: FrameLayout, num_frames: int | None = None) -> None:
        """Open the encoder and write the header.

        Raises:
            OutputClosed: the pipe's reader has gone.
            OutputError: the encoder refuses the size, or the disk is full or failed.
        """
        assert self._output is not None, "prepare comes first"
        output, options = self._output, self._encoder_options
        size = (layout.width, layout.height)
        plans = self._plans(layout, num_frames)
        self._container, self._stream = self._open(output, size, options, plans[0].segments[0] if plans else None)
        if plans:
            first: list[VideoCodecContext | None] = [self._stream.codec_context, *[None] * (len(plans) - 1)]
            encoders = [
                SegmentEncoders(plan, encoder, self._open_segment, self._frame)
                for plan, encoder in zip(plans, first, strict=True)
            ]
            self._parts = Parts(self._ends or (num_frames or 0,), encoders)
        try:
            if self._sound is not None:
                self._track = self._sound.add_to(self._container)
            self._container.start_encoding()
        except _FAILURES as error:
            raise self._failure(error) from error
        if self._live and isinstance(output, PartialFile):
            output.take_name()

    def come_in_parts(self, ends: Sequence[int]) -> None:
        """Expect frames of several parts of the clip side by side; before `start`.

        Args:
            ends: of each part, the index after its last frame. Within a part, frames come in order.
        """
        self._ends = tuple(ends)

    def has_room(self, batch: FrameBatch) -> bool:
        """Whether `batch` may be written, or what waits for earlier parts' frames is too much; on any thread."""
        return self._parts is None or self._parts.has_room(batch.first_frame)

    def _plans(self, layout: FrameLayout, num_frames: int | None) -> list[Plan]:
        """How each part is encoded; none of them if one encoder takes all frames in order."""
        if self._ends is None:
            plan = self._plan(layout, num_frames, 1)
            return [] if plan is None else [plan]
        lengths = [end - start for start, end in pairwise((0, *self._ends))]
        return [self._plan(layout, length, len(lengths)) or uncut(length, len(lengths)) for length in lengths]

    def _plan(self, layout: FrameLayout, num_frames: int | None, share: int) -> Plan | None:
        num_pixels, frame_bytes = layout.width * layout.height, layout.frame_bytes
        return plan_segments(self._codec, self._encoder_options, num_pixels, frame_bytes, num_frames, share)

    def write(self, batch: FrameBatch) -> None:
        """Encode frames.

        Raises:
            OutputError: the disk is full or failed, or the encoder did.
        """
        for index, pixels in enumerate(batch.frames, self._num_frames if self._ends is None else batch.first_frame):
            self._num_frames += 1
            if self._parts is None:
                self._encode(self._frame(index, pixels))
            else:
                self._mux(self._parts.put(index, pixels))

    def finish(self) -> None:
        """Write what the encoder holds back, close the file and give it its name.

        Raises:
            OutputClosed: the pipe's reader has gone.
            OutputError: the disk is full or failed.
        """
        assert self._output is not None, "prepare comes first"
        self._close()
        self._output.publish()
        self._ended = True

    def abort(self) -> Path | None:
        """Keep the frames so far, under the temporary name, if they can be played."""
        if self._output is None or self._ended:
            return None
        self._ended = True
        if self._num_frames > 0:
            with contextlib.suppress(OutputError):
                self._close()
        self._release()
        self._output.close()
        if isinstance(self._output, Pipe):
            return None
        if self._num_frames == 0 or self._output.num_bytes == 0:
            self._output.discard()
            return None
        if not _plays(self._output):
            _LOG.warning("%s has frames, but no index: players can't read it", self._output.path)
            return None
        return self._output.path

    def _try_encoder(self) -> None:
        """Find options that the encoder refuses, at a size that most encoders take.

        Raises:
            ValueError: it refuses them, or the container refuses the encoder.
        """
        with hushed() as told:
            # An encoder that takes few sizes fails either way; `start` knows the size.
            opened = self._opens(self._encoder_options)
            refused = not opened and self._opens({})
        if not opened and not refused and av.Codec(self._codec, "w").capabilities & Capabilities.hardware:
            raise ValueError(
                f"codec={self._codec}: no device or driver on this machine has it "
                "(of NVIDIA's cards A100, H100 and H200 have no video encoder)"
            )
        if refused:
            asked = " ".join(f"{name}={value}" for name, value in self._encoder_options.items())
            because = f" ({told[0]})" if told else ""
            raise ValueError(f"codec={self._codec}: refuses {asked}{because}")

    def _opens(self, options: dict[str, str]) -> bool:
        nowhere = Pipe(Path(os.devnull))
        try:
            container, _ = self._open(nowhere, _TRIAL_SIZE, options)
            container.start_encoding()
            container.close()
        except OutputError:
            return False
        except _FAILURES as error:
            muxer = self._container_kind.muxer
            raise ValueError(f"codec={self._codec}: doesn't go into {muxer} as {self._encoded_format}") from error
        finally:
            nowhere.close()
        return True

    def _open(
        self, output: PartialFile | Pipe, size: tuple[int, int], options: dict[str, str], segment: Segment | None = None
    ) -> tuple[OutputContainer, VideoStream]:
        """Open the container and the encoder.

        Raises:
            ValueError: the container doesn't take the encoder, or the encoder has no such option.
            OutputError: the encoder refuses the size or its options.
        """
        kind = self._container_kind
        container = av.open(
            output.file,
            "w",
            format=kind.muxer,
            container_options=_INTERLEAVING | (kind.growing if output.streamed or self._live else kind.whole),
            buffer_size=_BUFFER_BYTES,
            io_open=None if isinstance(output, Pipe) else output.reader,
        )
        try:
            stream = container.add_stream(self._codec, rate=self.fps)
        except ValueError as error:
            raise ValueError(f"codec={self._codec}: doesn't go into {kind.muxer}: {error}") from error
        assert isinstance(stream, VideoStream)
        codec = stream.codec_context
        if kind.apple and codec.codec.canonical_name in _APPLE_TAGS:
            codec.codec_tag = _APPLE_TAGS[codec.codec.canonical_name]
        self._open_codec(codec, size, options, segment)
        unknown = sorted(options.keys() & codec.options.keys())
        if unknown:
            raise ValueError(
                ", ".join(f"{name}={options[name]}" for name in unknown) + f": {self._codec} has no such option"
            )
        return container, stream

    def _open_codec(
        self, codec: VideoCodecContext, size: tuple[int, int], options: dict[str, str], segment: Segment | None
    ) -> None:
        codec.width, codec.height = size
        codec.pix_fmt = self._encoded_format
        codec.framerate, codec.time_base = self.fps, 1 / self.fps
        codec.thread_type = "SLICE" if codec.codec.name in _ONLY_SLICES else "AUTO"
        if segment is not None:
            codec.thread_count = segment.num_threads
            codec.thread_type = segment.thread_type or codec.thread_type
        self._tag(codec)
        codec.options = {"chroma_sample_location": "center", **options}
        try:
            codec.open()
        except _FAILURES as error:
            asked = " ".join(f"{name}={value}" for name, value in options.items())
            raise OutputError(
                f"{self._name}: {self._codec} refused {size[0]}x{size[1]} {self._encoded_format} {asked} "
                f"({error.strerror})"
            ) from error

    def _open_segment(self, segment: Segment) -> VideoCodecContext:
        """Open another encoder for the same stream; on the segment's thread.

        Raises:
            OutputError: that failed, or it makes another kind of stream than the first one.
        """
        assert self._stream is not None, "start comes first"
        first = self._stream.codec_context
        codec = av.CodecContext.create(self._codec, "w")
        assert isinstance(codec, VideoCodecContext)
        codec.flags = first.flags
        self._open_codec(codec, (first.width, first.height), self._encoder_options, segment)
        if _parameter_sets(codec) != _parameter_sets(first):
            raise OutputError(f"{self._name}: {self._codec} began a segment with another header than the file has")
        return codec

    def _frame(self, index: int, pixels: Pixels) -> av.VideoFrame:
        """Make what the encoder takes; on any thread."""
        # PyAV takes a buffer of 4:2:0 for one whose height is a multiple of 4.
        if self.pixel_format is PixelFormat.YUV420P10LE or (
            self.pixel_format is PixelFormat.YUV420P and len(pixels) % 6
        ):
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
        frame.pts = index
        frame.time_base = 1 / self.fps
        self._tag(frame)
        return frame

    def _tag(self, target: VideoCodecContext | av.VideoFrame) -> None:
        target.color_range = int(self._range)
        target.colorspace = self._colorspace
        target.color_primaries = _BT709
        target.color_trc = _BT709

    def _encode(self, frame: av.VideoFrame | None) -> None:
        assert self._stream is not None, "start comes first"
        try:
            self._mux(self._stream.codec_context.encode(frame))
        except _FAILURES as error:
            raise self._failure(error) from error

    def _mux(self, packets: Iterable[av.Packet[VideoStream]]) -> None:
        assert self._stream is not None, "start comes first"
        assert self._container is not None, "start comes first"
        try:
            for packet in packets:
                packet.stream = self._stream
                if self._track is not None and packet.pts is not None:
                    until = min(packet.pts / self.fps + _SOUND_AHEAD_S, self._length)
                    self._container.mux(list(self._track.until(until)))
                self._container.mux(packet)
        except _FAILURES as error:
            raise self._failure(error) from error

    def _close(self) -> None:
        if self._container is None:  # finishing got this far before it failed
            return
        if self._parts is None:
            self._encode(None)
        else:
            self._mux(self._parts.finish())
        try:
            if self._track is not None:
                self._container.mux(list(self._track.finish(self._length)))
            self._container.close()
        except _FAILURES as error:
            raise self._failure(error) from error
        self._release()

    def _release(self) -> None:
        """Free the container, whatever becomes of the file: on a full disk, closing fails again."""
        container, self._container = self._container, None
        if self._parts is not None:
            self._parts.close()
        if self._track is not None:
            self._track.close()
        if container is not None:
            with contextlib.suppress(*_FAILURES):
                container.close()

    def _failure(self, error: Exception) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputClosed(f"{self._name}: its reader has gone")
        reason = getattr(error, "strerror", None) or error
        return OutputError(f"{self._name}: {reason}")


@contextlib.contextmanager
def hushed() -> Iterator[list[str]]:
    """Keep from stderr what libraries of codecs write there by themselves; the list then has the errors among it."""
    errors: list[str] = []
    stderr = os.dup(_STDERR)
    with tempfile.TemporaryFile("w+", errors="replace") as written:
        os.dup2(written.fileno(), _STDERR)
        try:
            yield errors
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            written.seek(0)
            errors += _LIBRARY_ERROR.findall(written.read())


def _parameter_sets(codec: VideoCodecContext) -> list[bytes]:
    """The parts of an encoder's header that say how its packets are read.

    x265 writes its settings beside them, with the number of threads, in a unit of supplemental information.
    """
    header = bytes(codec.extradata or b"")
    if codec.codec.canonical_name != "hevc":
        return [header]
    units = [unit.rstrip(b"\0") for unit in header.split(_START_CODE) if unit.strip(b"\0")]
    return [unit for unit in units if unit[0] >> 1 & 0x3F != _PREFIX_SEI]


def _plays(output: PartialFile) -> bool:
    """Whether a player finds a frame."""
    try:
        with output.reader() as file, av.open(file, "r") as container:
            return any(packet.size for packet in container.demux(video=0))
    except (*_FAILURES, IndexError):
        return False
