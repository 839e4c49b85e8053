"""Reads a film for the search: samples of it, key frames alone, or every frame of a part. No torch.

Only what is asked for is converted. A part is read by one seek to the key frame before it; samples are never sought one
by one, which would decode the same frames again and again. Runs in a reader process.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, Final

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from framehaul.formats import PixelFormat
from framehaul_pipeline.encode.video_input import decodable_videos, orientation, screen_rgb, upright
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.highlight import sparse
from framehaul_pipeline.highlight.messages import FilmInfo, ReadFrames, ReadRuns, Scan
from framehaul_pipeline.highlight.runs import Run, runs
from framehaul_pipeline.models.saliency import WINDOW_FRAMES

CONTAINERS: Final = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,h264,hevc,obu,m4v,gif,apng,webp_pipe"
"""FFmpeg's names of what is read; nothing that may name other files, as playlists do."""
_READ_BYTES: Final = 1 << 18
_MOST_KEY_TIMES: Final = 8000
_MAX_STRETCH: Final = 16
_SAME_S: Final = 1e-6
_DAMAGED: Final = "a video whose frames can be decoded"


class OwnPosition:
    """A file that several processes read, each at its own place."""

    def __init__(self, fd: int) -> None:
        """Read `fd` from its beginning."""
        self._fd, self._at = fd, 0

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        content = os.pread(self._fd, size, self._at)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._fd).st_size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at


class Film:
    """An open film; times are seconds from its first frame."""

    def __init__(self, file: OwnPosition, name: str, *, max_pixels: int, max_seconds: float) -> None:
        """Open `file`, which the caller closes; `name` is what a client knows it by.

        Raises:
            InvalidInput: it is no video, or one beyond the limits.
        """
        self._name = name
        try:
            self._container = av.open(
                file,
                "r",
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": "pipe"},
                buffer_size=_READ_BYTES,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._wrong(f"a readable video file ({_reason(error)})") from error
        videos = decodable_videos(self._container)
        if not videos:
            raise self._wrong("a file with a video stream that can be decoded")
        self._stream = stream = videos[0]
        if not 0 < stream.width * stream.height <= max_pixels:
            raise InvalidInput("video", f"{stream.width}x{stream.height}", f"1..{max_pixels} pixels a frame")
        stream.thread_type = "NONE"  # segments are read by several processes
        self._max_pixels = max_pixels
        self._reformatter = VideoReformatter()
        self._base = stream.time_base or Fraction(1, 1000)
        self._begin_s = 0.0
        try:
            first = next(self._decoded(self._packets()), None)
        except av.FFmpegError as error:
            raise self._wrong(f"{_DAMAGED} ({_reason(error)})") from error
        if first is None:
            raise self._wrong("a video with frames")
        self._begin_s = 0.0 if first.pts is None else self._shown_at(first.pts)
        self._orientation = orientation(first)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, _MAX_STRETCH) <= aspect <= _MAX_STRETCH:
            aspect = Fraction(1)
        self._shown = max(1, round(first.width * aspect)), first.height
        self.duration = self._duration_s()
        if self.duration > max_seconds:
            raise InvalidInput("video", f"{self.duration:.0f} s", f"up to {max_seconds:g} s long")
        self._at_beginning = False

    def info(self) -> FilmInfo:
        """What a server wants to know."""
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        keys = [
            entry.timestamp * self._base - Fraction(self._begin_s)
            for entry in self._stream.index_entries
            if entry.is_keyframe
        ]
        width, height = self._shown[::-1] if self._orientation[0] else self._shown
        return FilmInfo(
            duration=self.duration,
            width=width,
            height=height,
            rate_numerator=rate.numerator,
            rate_denominator=rate.denominator,
            seekable=self._container.format.name not in ("gif", "apng"),
            key_times=tuple(max(0.0, float(time)) for time in keys[:_MOST_KEY_TIMES]),
        )

    def samples(self, scan: Scan, side: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """What is shown at each moment of a row: the time of the frame and `[side, side, 3] uint8`, each frame once.

        Raises:
            InvalidInput: the film can't be decoded.
        """
        if scan.keys_alone:
            for time, frame in self._read_from(scan.start, keys_alone=True):
                if time >= scan.end:
                    return
                if time >= scan.start - _SAME_S:
                    yield time, self._scaled(frame, side, side)
            return
        index = math.ceil(scan.start * scan.per_second - _SAME_S)
        shown: tuple[float, VideoFrame] | None = None
        for time, frame in self._sparsely_read(scan):
            wanted = False
            while index / scan.per_second < min(time - _SAME_S, scan.end):
                wanted, index = True, index + 1
            if wanted and shown is not None:
                yield shown[0], self._scaled(shown[1], side, side)
            shown = time, frame
            if index / scan.per_second >= scan.end:
                return
        if shown is not None and index / scan.per_second < min(scan.end, shown[0] + self._shown_for(shown[1])):
            yield shown[0], self._scaled(shown[1], side, side)

    def frames(self, wanted: ReadFrames) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Every frame shown in a part, upright and cropped: its time and its bytes in the pixel format.

        Raises:
            InvalidInput: the film can't be decoded.
        """
        num_frames = 0
        half = float(1 / (self._stream.average_rate or Fraction(25))) / 2
        for time, frame in self._read_from(wanted.start):
            if time >= wanted.end - half or num_frames == wanted.num_frames:
                return
            if time < wanted.start - half:
                continue
            num_frames += 1
            whole = upright(screen_rgb(frame, *self._shown, self._stream, self._reformatter), self._orientation)
            pixels = whole[wanted.top : wanted.top + wanted.height, wanted.left : wanted.left + wanted.width]
            yield time, self._formatted(np.ascontiguousarray(pixels), wanted.pixel_format)

    def runs(self, wanted: ReadRuns) -> Iterator[tuple[Run, list[NDArray[np.uint8]]]]:
        """Runs of frames, each upright and as large as the network wants them, `[height, width, 3] uint8`.

        Frames are what is shown at an even rate. After the film's last frame, that is shown for as long as is wanted.

        Raises:
            InvalidInput: the film can't be decoded.
        """
        maps = range(wanted.first, wanted.first + wanted.num_maps * wanted.every, wanted.every)
        index = max(0, wanted.first - WINDOW_FRAMES + 1)
        shown = self._shown_from(index, Fraction(wanted.rate_numerator, wanted.rate_denominator))
        kept: dict[int, NDArray[np.uint8]] = {}
        for run in runs(maps, wanted.most_frames):
            oldest = max(0, run.maps[0] - WINDOW_FRAMES + 1)
            kept = {number: pixels for number, pixels in kept.items() if number >= oldest}
            while index < run.end:
                frame = next(shown, None)
                if frame is None:
                    raise self._wrong("a video with frames")
                if index >= oldest:
                    kept[index] = self._scaled(frame, wanted.width, wanted.height)
                index += 1
            yield run, [kept[number] for number in range(run.begin, run.end)]

    def _shown_from(self, index: int, rate: Fraction) -> Iterator[VideoFrame]:
        """What is shown in the middle of each frame's time at this rate, the last frame for ever."""
        shown: VideoFrame | None = None
        for time, frame in self._read_from(float(index / rate)):
            while shown is not None and (index + 0.5) / rate < time:
                yield shown
                index += 1
            shown = frame
        while shown is not None:
            yield shown

    def _formatted(self, pixels: NDArray[np.uint8], pixel_format: PixelFormat) -> NDArray[np.uint8]:
        if pixel_format is PixelFormat.RGB24:
            return pixels.reshape(-1)
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        planes = self._reformatter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709)
        return np.asarray(planes.to_ndarray(), np.uint8).reshape(-1)

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        size = (height, width) if self._orientation[0] else (width, height)
        return upright(screen_rgb(frame, *size, self._stream, self._reformatter, "AREA"), self._orientation)

    def _read_from(self, start: float, *, keys_alone: bool = False) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with their times, from the key frame before `start` on, as far as they can be decoded."""
        self._seek(start)
        self._stream.codec_context.skip_frame = "DEFAULT"
        yield from self._timed(self._key_frames() if keys_alone else self._decoded(self._packets()))

    def _sparsely_read(self, scan: Scan) -> Iterator[tuple[float, VideoFrame]]:
        """Likewise, without most of the frames that a scan doesn't sample."""
        self._seek(scan.start)
        last = -math.inf
        try:
            for last, frame in self._timed(sparse.decoded(self._packets(), self._stream, self._shown_at, scan)):
                yield last, frame
        except sparse.NotAsItSays:
            for time, frame in self._read_from(max(last, scan.start)):
                if time > last:
                    yield time, frame

    def _seek(self, start: float) -> None:
        """Go to a key frame that is shown at `start` or before, or to the film's beginning."""
        with contextlib.suppress(av.FFmpegError):
            early = 0.0
            while start > early:
                at = int((start - early + self._begin_s) / self._base)
                self._container.seek(at, backward=True, stream=self._stream)
                key = next((packet for packet in self._packets() if packet.is_keyframe), None)
                stamp = None if key is None else key.dts if key.pts is None else key.pts
                if stamp is not None and self._shown_at(stamp) <= start + _SAME_S:
                    self._container.seek(at, backward=True, stream=self._stream)
                    return
                early = 4 * early or 1.0  # without an index, what is found may be behind the key frame
            try:
                self._container.seek(-1 << 40, backward=True)
            except av.FFmpegError:  # AVI knows no time before its first one
                self._container.seek(0, backward=True)

    def _timed(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[float, VideoFrame]]:
        last = -math.inf
        try:
            for frame in frames:
                if frame.width * frame.height > self._max_pixels:
                    raise InvalidInput("video", f"{frame.width}x{frame.height}", f"1..{self._max_pixels} pixels")
                frame_s = float(1 / (self._stream.average_rate or 25))
                time = last + frame_s if frame.pts is None else self._shown_at(frame.pts)
                if time > last:  # a clock that goes back tells nothing
                    yield time, frame
                    last = time
        except av.FFmpegError as error:
            raise self._wrong(f"{_DAMAGED} ({_reason(error)})") from error

    def _decoded(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        """Frames but for those that can't be decoded."""
        wrong: av.FFmpegError | None = None
        num_frames = 0
        for packet in chain(packets, (None,)):
            try:
                for frame in self._stream.decode(packet):
                    num_frames += 1
                    yield frame
            except MemoryError as error:
                raise MemoryError from error  # not as one of FFmpeg's
            except av.FFmpegError as error:
                wrong = error
        if wrong is not None and not num_frames:
            raise wrong

    def _key_frames(self) -> Iterator[VideoFrame]:
        """Each by itself: not every decoder can be told to skip the others, nor gives key frames alone in order."""
        for packet in self._packets():
            if packet.is_keyframe:
                with contextlib.suppress(av.FFmpegError):
                    yield from self._decoded((packet,))
                self._stream.codec_context.flush_buffers()

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """The film's, without the empty one at its end."""
        with contextlib.suppress(IndexError):  # PyAV's, at the end of a file whose streams are more than at its start
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)

    def _shown_at(self, stamp: int) -> float:
        return float(stamp * self._base) - self._begin_s

    def _shown_for(self, frame: VideoFrame) -> float:
        """Seconds for which the last frame is shown."""
        given = float((frame.duration or 0) * (frame.time_base or self._base))
        return (given or float(1 / (self._stream.average_rate or 25))) - _SAME_S

    def _duration_s(self) -> float:
        if self._stream.duration:
            return float(self._stream.duration * self._base)
        return (self._container.duration or 0) / av.time_base

    def _wrong(self, allowed: str) -> InvalidInput:
        return InvalidInput("video", self._name, allowed)


def read_picture(content: bytes, name: str, sizes: tuple[int, ...], max_pixels: int) -> list[NDArray[np.uint8]]:
    """A picture in several sizes, `[size, size, 3] uint8` each.

    Raises:
        InvalidInput: it is none.
    """
    try:
        with av.open(
            io.BytesIO(content),
            "r",
            options={"format_whitelist": "jpeg_pipe,png_pipe,webp_pipe,image2pipe,mjpeg", "protocol_whitelist": "pipe"},
        ) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise InvalidInput(name, f"{stream.width}x{stream.height}", f"up to {max_pixels} pixels")
            frame = next(container.decode(stream))
            reformatter = VideoReformatter()
            how = orientation(frame)
            return [upright(screen_rgb(frame, size, size, stream, reformatter), how) for size in sizes]
    except (av.FFmpegError, IndexError, StopIteration, ValueError) as error:
        raise InvalidInput(name, f"{len(content)} bytes", "a whole JPEG, PNG or WebP picture") from error


def _reason(error: Exception) -> Any:
    return getattr(error, "strerror", None) or type(error).__name__
