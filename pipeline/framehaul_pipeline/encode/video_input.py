"""Reads a video file as a stream of chunks of RGB frames with PyAV, scaled and cropped. No torch.

At most one chunk of frames is held, so memory doesn't grow with the video's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from framehaul_pipeline.errors import InvalidInput

SIZE_STEP = 8
"""Frames are cropped to a multiple of this many pixels each way."""
MAX_SIDE = 8192
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED of FFmpeg's libavutil/pixfmt.h."""
_HIGH_DEFINITION_HEIGHT = 720


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
    """An open video; a context manager."""

    def __init__(self, path: Path, size: tuple[int, int] | None, excerpt: Excerpt) -> None:
        """Open `path`.

        Args:
            path: anything that FFmpeg reads.
            size: width and height to make frames, in pixels; None keeps the video's, cropped to multiples of 8.
            excerpt: the part to read.

        Raises:
            InvalidInput: not a readable video, or a size that can't be made.
        """
        if size is not None:
            _check_size(*size)
        self._path, self._excerpt = path, excerpt
        try:
            self._container: InputContainer = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput("video", path, f"a readable video file ({_reason(error)})") from error
        try:
            self._stream = self._video_stream()
            first = self._start()
            width, height = first.width, first.height
            if self._is_turned(first):
                width, height = height, width
            self.width, self.height = size or (width - width % SIZE_STEP, height - height % SIZE_STEP)
            if min(self.width, self.height) < SIZE_STEP:
                raise InvalidInput(
                    "video", f"{width}x{height}", f"at least {SIZE_STEP}x{SIZE_STEP} pixels, or use --size"
                )
            self._scales = size is not None
        except BaseException:
            self._container.close()
            raise

    @property
    def fps(self) -> Fraction:
        """Mean frame rate; 24 if the file doesn't say."""
        return self._stream.average_rate or self._stream.guessed_rate or Fraction(24)

    @property
    def num_frames_hint(self) -> int | None:
        """How many frames are likely to come; None if the file doesn't say."""
        if self._stream.frames:
            total_s = self._stream.frames / float(self.fps)
        elif self._container.duration:
            total_s = self._container.duration / av.time_base
        else:
            return None
        left_s = max(0.0, total_s - self._excerpt.start_s)
        if self._excerpt.duration_s is not None:
            left_s = min(left_s, self._excerpt.duration_s)
        count = round(left_s * float(self.fps))
        return count if self._excerpt.max_frames is None else min(count, self._excerpt.max_frames)

    def chunks(self, num_frames: int, multiple: int) -> Iterator[NDArray[np.uint8]]:
        """Yield `[F, H, W, 3] uint8`, `num_frames` at a time; the array is overwritten by the next one.

        The last chunk may be shorter; its last frame is repeated up to a multiple of `multiple` frames.

        Raises:
            InvalidInput: the video is damaged, or the excerpt holds no frame.
        """
        chunk = np.empty((num_frames, self.height, self.width, 3), np.uint8)
        filled = total = 0
        for frame in self._frames():
            chunk[filled] = self._pixels(frame)
            filled, total = filled + 1, total + 1
            if filled == num_frames:
                yield chunk
                filled = 0
        if total == 0:
            raise self._empty()
        if filled:
            padded = filled + -filled % multiple
            chunk[filled:padded] = chunk[filled - 1]
            yield chunk[:padded]

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._container.close()

    def __enter__(self) -> VideoInput:
        """Hold the file open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _video_stream(self) -> VideoStream:
        if not self._container.streams.video:
            raise InvalidInput("video", self._path, "a file with a video stream")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        return stream

    def _start(self) -> VideoFrame:
        """Seek to the excerpt and decode one frame, since only frames tell how the video is turned."""
        try:
            if self._excerpt.start_s:
                self._container.seek(int(self._excerpt.start_s * av.time_base), backward=True)
            decoded = self._container.decode(self._stream)
            first = next(decoded, None)
        except av.FFmpegError as error:
            raise self._damaged(error) from error
        if first is None:
            raise self._empty()
        self._decoded = chain([first], decoded)
        return first

    def _frames(self) -> Iterator[VideoFrame]:
        """Decoded frames of the excerpt."""
        excerpt, first_s, count = self._excerpt, None, 0
        begin_s = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        # Half a frame of slack: time stamps are rounded to the file's time base.
        slack_s = 0.5 / float(self.fps)
        try:
            for frame in self._decoded:
                time_s = None if frame.time is None else frame.time - begin_s
                if time_s is not None and time_s < excerpt.start_s - slack_s:
                    continue
                first_s = time_s if first_s is None else first_s
                if excerpt.max_frames is not None and count >= excerpt.max_frames:
                    return
                if self._is_past(time_s, first_s, count):
                    return
                yield frame
                count += 1
        except av.FFmpegError as error:
            raise self._damaged(error) from error

    def _is_past(self, time_s: float | None, first_s: float | None, count: int) -> bool:
        if self._excerpt.duration_s is None:
            return False
        since_s = count / float(self.fps) if time_s is None or first_s is None else time_s - first_s
        return since_s > self._excerpt.duration_s - 0.5 / float(self.fps)

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """`[H, W, 3] uint8`: scaled to cover the size, the middle cut out, turned upright."""
        turned = self._is_turned(frame)
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        scaled_width, scaled_height = frame.width, frame.height
        # A stream's size may also change midway.
        if self._scales or frame.width < width or frame.height < height:
            scale = max(Fraction(width, frame.width), Fraction(height, frame.height))
            scaled_width, scaled_height = round(frame.width * scale), round(frame.height * scale)
        # Untagged high-definition video is BT.709, as players assume; swscale would assume BT.601.
        untagged = frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb
        source = Colorspace.ITU709 if untagged and frame.height >= _HIGH_DEFINITION_HEIGHT else None
        rgb = frame.reformat(
            width=scaled_width, height=scaled_height, format="rgb24", src_colorspace=source, interpolation="BICUBIC"
        )
        pixels: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
        return np.rot90(pixels[top : top + height, left : left + width], round(frame.rotation / 90))

    @staticmethod
    def _is_turned(frame: VideoFrame) -> bool:
        """Whether the frame lies on its side, as phones record."""
        return round(frame.rotation / 90) % 2 == 1

    def _damaged(self, error: Exception) -> InvalidInput:
        return InvalidInput("video", self._path, f"a video that can be decoded ({_reason(error)})")

    def _empty(self) -> InvalidInput:
        return InvalidInput("video", self._path, "a video with frames in the part asked for")


def _check_size(width: int, height: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if side % SIZE_STEP or not SIZE_STEP <= side <= MAX_SIDE:
            raise InvalidInput(f"size {name}", side, f"a multiple of {SIZE_STEP} in {SIZE_STEP}..{MAX_SIDE}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
