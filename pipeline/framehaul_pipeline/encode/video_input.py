"""Reads a video file as a stream of chunks of RGB frames with PyAV, shown as players show it. No torch.

Frames come at a constant rate, deinterlaced, upright, with square pixels, in the range of an SDR screen, scaled and
cropped. What is left out of a video is said in the log. At most one chunk of frames is held, so memory doesn't grow
with the video's length.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, Final, cast

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from framehaul.formats import checked_fps
from framehaul_pipeline.encode import hdr
from framehaul_pipeline.encode.frame_rate import constant_rate
from framehaul_pipeline.encode.input_file import ends_midway, matroska_is_cut_off, open_input
from framehaul_pipeline.errors import InvalidInput

log = logging.getLogger(__name__)

SIZE_STEP: Final = 8
"""Frames are cropped to a multiple of this many pixels each way."""
MAX_SIDE: Final = 8192
DEFAULT_FPS: Final = Fraction(24)
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED of FFmpeg's libavutil/pixfmt.h."""
_MATRICES: Final = frozenset({0, 1, _UNSPECIFIED, 4, 5, 6, 7, 9})
"""Those of ITU-T H.273 that FFmpeg's scaler knows."""
_HIGH_DEFINITION_HEIGHT = 720
_DYNAMIC_RANGES: Final = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
}
_MAX_STRETCH = 16
"""Pixels more oblong than this are a mistake in the file."""
_DEFAULT_SCORE = 5_000_000
"""Pixels that a stream marked as the default one counts for more, as in ffmpeg's choice (fftools/ffmpeg_mux_init.c)."""
_JUMP_BACK_S, _JUMP_AHEAD_S = 0.1, 10.0
"""Time stamps that jump further start anew, in the formats that may, as in ffmpeg (fftools/ffmpeg_demux.c)."""
_TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT of FFmpeg's libavformat/avformat.h."""
_SEEK_EARLY_S = 0.13
"""Where a seek is by decoding time, pictures may come three frames later (ffmpeg: fftools/ffmpeg_demux.c)."""

_DAMAGED = "it has damaged frames; what could be decoded of them is shown"


def _unnamed(kind: type[SideDataType], number: object) -> SideDataType:
    """A kind of side data that PyAV has no name for, EXIF say: it would refuse all of such a frame's."""
    member: Any = object.__new__(kind)
    member._name_, member._value_ = str(number), number
    return cast(SideDataType, member)


SideDataType._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Which part of a video to read."""

    start_s: float = 0.0
    duration_s: float | None = None
    """None: to the end."""
    max_frames: int | None = None
    """None: no limit."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InvalidInput: a value is out of range.
        """
        if not 0 <= self.start_s < float("inf"):
            raise InvalidInput("start", self.start_s, "0 or more seconds")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise InvalidInput("duration", self.duration_s, "more than 0 seconds")
        if self.max_frames is not None and self.max_frames < 1:
            raise InvalidInput("max-frames", self.max_frames, "1 or more")


class VideoInput:
    """An open video; a context manager.

    Attributes:
        fps: frames a second, as many decimals as the client takes; 24 if the file doesn't say.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        num_frames: how many have been read so far.
    """

    def __init__(self, name: str, size: tuple[int, int] | None, excerpt: Excerpt) -> None:
        """Open `name`.

        Args:
            name: a file of any kind that FFmpeg reads, numbered pictures as `%04d.png`, or `-` for standard input.
            size: width and height to make frames, in pixels; None keeps the video's, cropped to multiples of 8.
            excerpt: the part to read.

        Raises:
            InvalidInput: not a readable video, or a size that can't be made.
        """
        if size is not None:
            _check_size(*size)
        self._name, self._excerpt = name, excerpt
        self._notes: set[str] = set()
        try:
            self._container, self._file = open_input(name)
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput("video", name, f"a readable video file ({_reason(error)})") from error
        # FFmpeg's errors are counted from here on, and none printed: of most damage nothing else tells.
        self._log_level = av.logging.get_level()
        av.logging.set_level(av.logging.PANIC)
        try:
            self._stream = self._video_stream()
            self.fps = _frame_rate(self._stream)
            self.num_frames = self._num_undecodable = 0
            self._read_to_s, self._read_to_byte = 0.0, 0
            first = self._start()
            width, height = self._shown_size(first)
            # Once: a frame that was asked for its side data is freed late.
            self._orientation = orientation(first)
            if self._orientation[0]:
                width, height = height, width
            self.width, self.height = size or (width - width % SIZE_STEP, height - height % SIZE_STEP)
            if min(self.width, self.height) < SIZE_STEP:
                raise InvalidInput(
                    "video", f"{width}x{height}", f"at least {SIZE_STEP}x{SIZE_STEP} pixels, or use --size"
                )
            if first.rotation % 90 and abs(first.rotation) <= 180:  # a matrix of nothing has no angle
                self._note(f"of its rotation by {first.rotation} degrees, right angles are applied alone")
            for text in _not_applied(self._container, self._stream, first):
                self._note(text)
            self._scales = size is not None
            # One for all frames: each frame's own would keep some MB.
            self._reformatter = VideoReformatter()
        except BaseException:
            self.close()
            raise

    @property
    def num_frames_hint(self) -> int | None:
        """How many frames are likely to come; None if the file doesn't say."""
        total_s = self._promised_s
        if total_s is None:
            if not self._container.duration:
                return None
            total_s = self._container.duration / av.time_base
        left_s = max(0.0, total_s - self._excerpt.start_s)
        if self._excerpt.duration_s is not None:
            left_s = min(left_s, self._excerpt.duration_s)
        count = round(left_s * float(self.fps))
        return count if self._excerpt.max_frames is None else min(count, self._excerpt.max_frames)

    def chunks(self, num_frames: int, multiple: int) -> Iterator[NDArray[np.uint8]]:
        """Yield `[F, H, W, 3] uint8`, `num_frames` at a time; the array is overwritten by the next one.

        The last chunk may be shorter; its last frame is repeated up to a multiple of `multiple` frames.

        Raises:
            InvalidInput: the video is cut off or can't be decoded, or the excerpt holds no frame.
        """
        chunk = np.empty((num_frames, self.height, self.width, 3), np.uint8)
        filled = 0
        shown: VideoFrame | None = None
        for frame in self._frames():
            if frame is not shown:
                shown, pixels = frame, self._pixels(frame)
            chunk[filled] = pixels
            filled += 1
            self.num_frames += 1
            if filled == num_frames:
                yield chunk
                filled = 0
        if self.num_frames == 0:
            raise self._empty()
        if filled:
            padded = filled + -filled % multiple
            chunk[filled:padded] = chunk[filled - 1]
            yield chunk[:padded]
        if self._num_undecodable:
            log.warning(
                "%s: %d damaged packets could not be decoded; the frames before them are repeated",
                self._name,
                self._num_undecodable,
            )
        elif _num_errors() > self._errors_before:
            self._note(_DAMAGED)

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        av.logging.set_level(self._log_level)
        self._container.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> VideoInput:
        """Hold the file open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _video_stream(self) -> VideoStream:
        """The video that ffmpeg would choose; never the cover of an album."""
        videos = decodable_videos(self._container)
        if not videos:
            raise InvalidInput("video", self._name, "a file with a video stream that can be decoded")
        stream = videos[0]
        if len(videos) > 1:
            self._note(f"of its {len(videos)} videos, only that of stream {stream.index} is read")
        # Not a thread for each frame: PyAV loses whole frames with one that can't be decoded.
        stream.thread_type = "SLICE"
        return stream

    def _start(self) -> VideoFrame:
        """Seek to the excerpt and decode one frame, since only frames tell how the video is turned."""
        start_s = self._excerpt.start_s
        try:
            seeks = start_s > _SEEK_EARLY_S and self._seek(start_s - _SEEK_EARLY_S)
            decoded = self._decoded()
            first = next(decoded, None)
            if seeks and (first is None or (self._time_s(first) or 0) > start_s):
                # It went too far: to where no picture begins. Back to before the first one.
                self._seek(-1)
                decoded = self._decoded()
                first = next(decoded, None)
        except av.FFmpegError as error:
            raise self._damaged(error) from error
        if first is None:
            raise self._empty()
        self._first_and_rest = chain([first], decoded)
        return first

    def _seek(self, time_s: float) -> bool:
        """Go to a time since the video's beginning; False where frames are read from there on all the same."""
        if self._file is None or not self._file.seekable():
            return False
        try:
            self._container.seek(int((time_s + self._begin_s) * av.time_base), backward=True)
        except av.FFmpegError:
            return False
        return True

    def _time_s(self, frame: VideoFrame) -> float | None:
        """When the frame is shown, since the video's beginning."""
        return None if frame.pts is None else float(frame.pts * (frame.time_base or 0)) - self._begin_s

    @property
    def _begin_s(self) -> float:
        """The time stamp that the video starts with, whichever of its streams has it."""
        return (self._container.start_time or 0) / av.time_base

    @property
    def _promised_s(self) -> float | None:
        """When the video ends by its file's header; None where that may be a guess, or is of another stream."""
        container, stream = self._container.format.name, self._stream
        time_base = stream.time_base or Fraction(0)
        begin_s = float((stream.start_time or 0) * time_base) - self._begin_s
        if container.startswith("mov") and stream.duration:
            return begin_s + float(stream.duration * time_base)
        if container == "avi" and stream.frames and stream.average_rate:
            return begin_s + float(stream.frames / stream.average_rate)
        return None

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames as the file has them, but for those that can't be decoded."""
        begin_s = self._begin_s
        # Who begins in the middle, as a recording of television does, finds packets that need earlier ones.
        counts = not (self._may_jump or self._excerpt.start_s)
        self._errors_before = _num_errors()
        for packet in self._container.demux():
            time = packet.dts if packet.pts is None else packet.pts
            is_video = packet.stream is self._stream
            if time is not None and (is_video or self._promised_s is None):
                end_s = float((time + (packet.duration or 0)) * packet.time_base) - begin_s
                self._read_to_s = max(self._read_to_s, end_s)
            if not is_video:
                continue
            self._read_to_byte = max(self._read_to_byte, (packet.pos or 0) + packet.size)
            try:
                for frame in self._stream.decode(packet):
                    if frame.is_corrupt:
                        self._note(_DAMAGED)
                    if not counts:
                        self._errors_before = _num_errors()
                    yield frame
                    counts = True
            except av.FFmpegError:
                self._num_undecodable += counts

    def _progressive(self) -> Iterator[VideoFrame]:
        """Frames whose lines are of one moment: the second field's lines are made out of what is around them."""
        filters: Graph | None = None
        shape = None
        for frame in self._first_and_rest:
            if filters is None and not frame.interlaced_frame:
                yield frame
                continue
            if filters is None or shape != (frame.width, frame.height, frame.format.name):
                yield from _drained(filters)
                shape = (frame.width, frame.height, frame.format.name)
                filters = self._deinterlacer(frame)
            filters.push(frame)
            yield from _ready(filters)
        yield from _drained(filters)

    def _deinterlacer(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._stream.time_base
        )
        graph.link_nodes(
            source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
        ).configure()
        return graph

    @property
    def _may_jump(self) -> bool:
        """Whether time stamps may start anew."""
        return bool(self._container.format.flags & _TS_DISCONT)

    def _timed(self) -> Iterator[tuple[VideoFrame, float, float]]:
        """Frames with their times and ends, in seconds since the excerpt's start."""
        shift_s = -self._excerpt.start_s
        last: tuple[VideoFrame, float] | None = None
        end_s = shift_s
        for frame in self._progressive():
            stamp_s = self._time_s(frame)
            time_s = end_s if stamp_s is None else stamp_s + shift_s
            if last is not None and self._may_jump and not -_JUMP_BACK_S <= time_s - end_s <= _JUMP_AHEAD_S:
                shift_s += end_s - time_s
                time_s = end_s
            if last is not None:
                yield *last, time_s
            last = frame, time_s
            end_s = time_s + (float(frame.duration * (frame.time_base or 0)) or 1 / float(self.fps))
        if last is not None:
            yield *last, end_s

    def _frames(self) -> Iterator[VideoFrame]:
        """Frames of the excerpt, at a constant rate."""
        excerpt, count = self._excerpt, 0
        most = None if excerpt.duration_s is None else max(1, round(excerpt.duration_s * float(self.fps)))
        if excerpt.max_frames is not None:
            most = excerpt.max_frames if most is None else min(most, excerpt.max_frames)
        try:
            for frame in constant_rate(self._timed(), self.fps):
                if count == most:
                    return
                yield frame
                count += 1
        except av.FFmpegError as error:
            raise self._damaged(error) from error
        if count != most:
            self._check_whole()

    def _check_whole(self) -> None:
        """Hold what was read against what the file's header promises.

        Raises:
            InvalidInput: it is less.
        """
        # Almost a frame of slack: a list of edits may begin within one.
        promised_s, fps = self._promised_s, float(self.fps)
        if promised_s is not None and self._read_to_s < promised_s - 0.99 / fps:
            raise self._cut_off(f"{round((promised_s - self._excerpt.start_s) * fps)} frames")
        container = self._container.format.name
        file = self._file if self._file is not None and self._file.seekable() else None
        if file is not None and ends_midway(file, container, self._read_to_byte):
            self._note("its end is missing: it is cut off")
        if promised_s is not None or not container.startswith(("matroska", "flv")):
            return
        # The longest stream's end, to within a packet of sound. Of the last picture, nobody knows how long it lasts.
        promised_s = (self._container.duration or 0) / av.time_base - self._begin_s
        if self._read_to_s < promised_s - 0.1 - 1 / fps:
            if file is not None and matroska_is_cut_off(file):
                raise self._cut_off(f"about {round((promised_s - self._excerpt.start_s) * fps)} frames")
            self._note(f"it ends after {self._read_to_s:.2f} of {promised_s:.2f} s: it may be cut off")

    def _cut_off(self, promised: str) -> InvalidInput:
        return InvalidInput(
            "video",
            self._name,
            f"whole: it is cut off after {self.num_frames} of {promised} (--duration takes what is there)",
        )

    def _shown_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height of a frame whose pixels are made square, before it is turned."""
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, _MAX_STRETCH) <= aspect <= _MAX_STRETCH:
            self._note(f"its pixel aspect of {aspect.numerator}:{aspect.denominator} is not applied")
            aspect = Fraction(1)
        return max(1, round(frame.width * aspect)), frame.height

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """`[H, W, 3] uint8`: scaled to cover the size, the middle cut out, turned upright."""
        if any(component.is_alpha for component in frame.format.components):
            self._note("its transparency is left out")
        turned = self._orientation[0]
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        scaled_width, scaled_height = self._shown_size(frame)
        # A stream's size may also change midway.
        if self._scales or scaled_width < width or scaled_height < height:
            scale = max(Fraction(width, scaled_width), Fraction(height, scaled_height))
            scaled_width, scaled_height = round(scaled_width * scale), round(scaled_height * scale)
        transfer = self._stream.codec_context.color_trc
        if transfer in hdr.NAMES:
            self._note(f"its high dynamic range ({hdr.NAMES[transfer]}) is mapped to that of an SDR screen")
        if frame.colorspace not in _MATRICES:
            self._note(f"its colour matrix, number {frame.colorspace} of ITU-T H.273, is not applied: read as untagged")
        try:
            pixels = screen_rgb(frame, scaled_width, scaled_height, self._stream, self._reformatter)
        except av.FFmpegError as error:
            raise self._damaged(error) from error
        top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
        return upright(pixels[top : top + height, left : left + width], self._orientation)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            log.warning("%s: %s", self._name, text)

    def _damaged(self, error: Exception) -> InvalidInput:
        return InvalidInput("video", self._name, f"a video that can be decoded ({_reason(error)})")

    def _empty(self) -> InvalidInput:
        return InvalidInput("video", self._name, "a video with frames in the part asked for")


def decodable_videos(container: InputContainer) -> list[VideoStream]:
    """The one that ffmpeg would choose first; never the cover of an album."""
    # A stream has no codec context if FFmpeg doesn't know its codec.
    videos = [
        stream
        for stream in container.streams.video
        if stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]
    return sorted(videos, key=_score, reverse=True)


def _score(stream: VideoStream) -> tuple[bool, int]:
    """Higher for what ffmpeg would rather choose; a picture that stands for an AVIF's frames comes last."""
    size = stream.width * stream.height
    return stream.frames != 1, size + _DEFAULT_SCORE * bool(stream.disposition & Disposition.default)


def _frame_rate(stream: VideoStream) -> Fraction:
    """The rate that ffmpeg would choose, if a file of latents may have it."""
    guessed, average = stream.guessed_rate, stream.average_rate
    if guessed and not average and guessed * (stream.time_base or 0) == 1:
        return DEFAULT_FPS  # FFmpeg knows no rate, and takes the clock's
    for fps in (guessed, average):
        with contextlib.suppress(ValueError):
            return checked_fps(fps or Fraction(0))
    return DEFAULT_FPS


def screen_rgb(
    frame: VideoFrame,
    width: int,
    height: int,
    stream: VideoStream,
    reformatter: VideoReformatter,
    interpolation: str = "BICUBIC",
) -> NDArray[np.uint8]:
    """`[height, width, 3] uint8`: the frame scaled, in the range of an SDR screen; not turned."""
    transfer = stream.codec_context.color_trc
    matrix = None
    if frame.colorspace not in _MATRICES - {_UNSPECIFIED} and not frame.format.is_rgb:
        # Untagged high-definition video is BT.709, as players assume; swscale would assume BT.601.
        matrix = Colorspace.ITU709 if frame.height >= _HIGH_DEFINITION_HEIGHT else Colorspace.ITU601
    rgb = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb48le" if transfer in hdr.NAMES else "rgb24",
        src_colorspace=matrix,
        interpolation=interpolation,
    )
    pixels: NDArray[Any] = rgb.to_ndarray()
    return hdr.to_bt709(pixels, transfer, stream.codec_context.color_primaries) if transfer in hdr.NAMES else pixels


def upright(pixels: NDArray[np.uint8], how: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """A frame `[H, W, 3]`, turned as `orientation` says."""
    turned, mirrored, upside_down = how
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    pixels = pixels[:, ::-1] if mirrored else pixels
    return pixels[::-1] if upside_down else pixels


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to bring a frame upright: change rows with columns; then mirror left and right; then above and below.

    Source: `av_display_rotation_get` and the matrix's layout in FFmpeg's libavutil/display.h: (p, q) goes to
    (a p + c q, b p + d q), with b and c the second and the fourth number.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    return (turned, c < 0, b < 0) if turned else (turned, a < 0, d < 0)


def _not_applied(container: Any, stream: VideoStream, first: VideoFrame) -> Iterator[str]:
    """What a video says of how it wants to be shown that isn't done, one sentence each."""
    # FFmpeg's description of the file is PyAV's only way to a stream's side data (its type
    # stubs lack it), and comes through FFmpeg's log.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        described = container.dumps_format()
    finally:
        av.logging.set_level(level)
    crop = re.search(rf"Stream #0:{stream.index}\b(?:(?!Stream #).)*?Frame Cropping: ([\d/]+)", described, re.DOTALL)
    if crop:
        left, right, top, bottom = crop[1].split("/")
        yield (
            f"the cropping in its container ({left} pixels left, {right} right, {top} above, {bottom} below) "
            "is not applied"
        )
    for kind, name in _DYNAMIC_RANGES.items():
        if first.side_data.get(kind) is not None:
            yield f"its {name} metadata is left out"


def _num_errors() -> int:
    """How many errors FFmpeg has logged in this process."""
    number: int = av.logging.get_last_error()[0]
    return number


def _ready(graph: Graph) -> Iterator[VideoFrame]:
    """What comes out of the filters now."""
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.vpull()


def _drained(graph: Graph | None) -> Iterator[VideoFrame]:
    """What the filters hold back."""
    if graph is not None:
        graph.push(None)
        yield from _ready(graph)


def _check_size(width: int, height: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if side % SIZE_STEP or not SIZE_STEP <= side <= MAX_SIDE:
            raise InvalidInput(f"size {name}", side, f"a multiple of {SIZE_STEP} in {SIZE_STEP}..{MAX_SIDE}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
