"""A clip cut into closed groups of pictures, several of which are encoded side by side.

Each segment has an encoder of its own, on a thread of its own, and begins with a key frame. Where the cuts are, and
how many threads each encoder has, follows from the clip, the options and the number of cores, and never from timing:
so the same frames give the same bytes. Packets come out in the frames' order. FFmpeg works without Python's lock.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from framehaul_client.core.frames import Pixels

SEGMENT_FRAMES: Final = 48
"""Two seconds. Each key frame costs about what a frame more would."""
_MOST_WAITING_BYTES: Final = 512 << 20
_ENDING_FRAMES: Final = 8
"""Of the last segment, whose threads share each frame: one that looks ahead begins when most frames have come."""
_LATE_SEGMENTS: Final = 2
"""Before that, which are still at work when the clip ends, and have more threads."""
_FEWEST_FRAMES: Final = 152
"""Of a clip that is cut: three segments and the last one."""
_PIXELS_A_THREAD: Final = {"libx264": 230_400, "libx264rgb": 230_400, "libx265": 100_000}
"""Of a frame, by encoder: with more threads than that, each does much less. Others gain nothing, or cost many bytes."""
_MOST_THREADS: Final = 8
"""Of an encoder in a clip of few segments."""
_FEWEST_ENCODERS: Final = {"libx264": 6, "libx264rgb": 6, "libx265": 3}
"""With fewer, one encoder with all cores is as fast."""
_WHOLE_CLIP: Final = frozenset(
    {"b", "maxrate", "minrate", "bufsize", "rc", "pass", "passlogfile", "stats", "flags", "intra-refresh", "threads"}
)
"""Options by which an encoder keeps account of all frames before, or that say how many threads it has."""
_WHOLE_CLIP_PARAMETERS: Final = ("rate", "vbv", "pass", "stats", "keyint", "refresh", "rc=", "tbr", "mbr", "threads")
_PARAMETERS: Final = ("x264-params", "x264opts", "x265-params", "svtav1-params")
_KEY_FRAMES: Final = ("g", "keyint_min")


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames from one key frame to the next.

    Attributes:
        num_frames: in it.
        num_threads: of its encoder.
        thread_type: what they share, as FFmpeg calls it: `FRAME`, or `SLICE` for the least delay; empty for what the
            encoder does by itself.
    """

    num_frames: int
    num_threads: int
    thread_type: str = "FRAME"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a clip, or a part of one, is cut.

    Attributes:
        num_encoders: at work at a time, at most. So many times `SEGMENT_FRAMES` frames wait for them at most.
        segments: all of it.
    """

    num_encoders: int
    segments: tuple[Segment, ...]


def plan_segments(
    codec: str, options: Mapping[str, str], num_pixels: int, frame_bytes: int, num_frames: int | None, share: int = 1
) -> Plan | None:
    """Cut a clip, if that makes sense.

    Args:
        codec: FFmpeg's name of the encoder.
        options: of the encoder.
        num_pixels: of a frame.
        frame_bytes: of a frame, as it waits for the encoder.
        num_frames: of the clip; None: not known.
        share: so many clips are encoded side by side.

    Returns:
        The plan; or None where one encoder does better, or where it alone does what the options say.
    """
    if codec not in _PIXELS_A_THREAD or num_frames is None or num_frames < _FEWEST_FRAMES or spans_clip(options):
        return None
    cores = num_cores() // share
    num_threads = -(-num_pixels // _PIXELS_A_THREAD[codec])
    num_encoders = min(cores // num_threads, _MOST_WAITING_BYTES // share // (SEGMENT_FRAMES * frame_bytes))
    if num_encoders < _FEWEST_ENCODERS[codec]:
        return None
    body = num_frames - _ENDING_FRAMES
    count = -(-body // SEGMENT_FRAMES)
    if count < num_encoders:
        num_threads = max(num_threads, min(2 * cores // count, _MOST_THREADS))
    most_threads = max(num_threads, cores // 2)
    segments = [
        Segment(
            body * (index + 1) // count - body * index // count,
            num_threads if index < count - _LATE_SEGMENTS else most_threads,
        )
        for index in range(count)
    ]
    return Plan(num_encoders, (*segments, Segment(_ENDING_FRAMES, most_threads, "SLICE")))


def uncut(num_frames: int, share: int) -> Plan:
    """One encoder for one of `share` parts of a clip."""
    return Plan(1, (Segment(num_frames, max(1, num_cores() // share), ""),))


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def spans_clip(options: Mapping[str, str]) -> bool:
    """Whether the options mean something else for a segment than for the clip."""
    if not options.keys().isdisjoint(_WHOLE_CLIP):
        return True
    if any(word in options.get(name, "") for name in _PARAMETERS for word in _WHOLE_CLIP_PARAMETERS):
        return True
    return any(not 0 < int(options.get(name, 1)) <= SEGMENT_FRAMES for name in _KEY_FRAMES)


class _Encoding:
    """A segment on its way."""

    def __init__(self) -> None:
        self.frames: queue.Queue[tuple[int, Pixels] | None] = queue.Queue(SEGMENT_FRAMES)
        self.packets: list[av.Packet[VideoStream]] = []  # this and what follows are guarded by the condition
        self.ended = False
        self.error: Exception | None = None


class SegmentEncoders:
    """Owner of the encoders' threads; one thread gives it frames and takes packets."""

    def __init__(
        self,
        plan: Plan,
        first: VideoCodecContext | None,
        open_encoder: Callable[[Segment], VideoCodecContext],
        make_frame: Callable[[int, Pixels], av.VideoFrame],
    ) -> None:
        """Prepare; nothing runs before the first frame.

        Args:
            plan: where to cut.
            first: the first segment's encoder, if it is open.
            open_encoder: opens another one; called on the segment's own thread.
            make_frame: makes what an encoder takes of a frame's index and its pixels; likewise.
        """
        self._num_encoders = plan.num_encoders
        # Whoever has more frames than were announced may go on.
        self._segments = itertools.chain(plan.segments, itertools.repeat(plan.segments[-1]))
        self._first = first
        self._open_encoder = open_encoder
        self._make_frame = make_frame
        self._changed = threading.Condition()
        self._encodings: deque[_Encoding] = deque()  # in order, until their last packet is taken
        self._num_missing = 0  # frames of the last one
        self._closed = False

    def put(self, index: int, pixels: Pixels) -> Iterator[av.Packet[VideoStream]]:
        """Give the next frame; gives the packets that are ready, and waits for them while all encoders are at work.

        Raises:
            Exception: what an encoder raised; packets before that were given first.
        """
        if self._num_missing == 0:
            yield from self._take(self._num_encoders - 1)
            self._begin(next(self._segments))
        self._num_missing -= 1
        self._encodings[-1].frames.put((index, pixels))
        if self._num_missing == 0:
            self._encodings[-1].frames.put(None)
        yield from self._take(self._num_encoders)

    def finish(self) -> Iterator[av.Packet[VideoStream]]:
        """Give all packets that are missing yet; twice is fine.

        Raises:
            Exception: what an encoder raised.
        """
        self._end_last()
        yield from self._take(0)

    def close(self) -> None:
        """Let the threads end, at their next frame, and forget their packets; twice is fine."""
        self._closed = True
        self._end_last()
        self._encodings.clear()

    def _end_last(self) -> None:
        if self._num_missing:
            self._num_missing = 0
            self._encodings[-1].frames.put(None)

    def _begin(self, segment: Segment) -> None:
        encoding = _Encoding()
        self._encodings.append(encoding)
        self._num_missing = segment.num_frames
        encoder, self._first = self._first, None
        # A daemon, as the thread that gives it frames is: that one may wait for a pipe that nobody reads.
        threading.Thread(
            target=self._run, args=(encoding, segment, encoder), name="framehaul-segment", daemon=True
        ).start()

    def _take(self, most: int) -> Iterator[av.Packet[VideoStream]]:
        """Give what is ready, in order, and wait until at most `most` segments are left."""
        while self._encodings:
            first = self._encodings[0]
            with self._changed:
                while len(self._encodings) > most and not first.packets and not first.ended:
                    self._changed.wait()
                packets, first.packets = first.packets, []
                ended = first.ended
            yield from packets
            if first.error is not None:
                raise first.error
            if ended:
                self._encodings.popleft()
            elif len(self._encodings) <= most:
                return

    def _run(self, encoding: _Encoding, segment: Segment, encoder: VideoCodecContext | None) -> None:
        """Run on the segment's thread."""
        frames = iter(encoding.frames.get, None)
        try:
            encoder = encoder or self._open_encoder(segment)
            for index, pixels in frames:
                if not self._closed:
                    self._give(encoding, encoder.encode(self._make_frame(index, pixels)))
                del pixels  # frees its memory before the next one comes
            if not self._closed:
                self._give(encoding, encoder.encode(None), ended=True)
        except Exception as error:
            encoding.error = error
            self._give(encoding, [], ended=True)
            deque(frames, maxlen=0)  # whoever gives frames doesn't wait for room

    def _give(self, encoding: _Encoding, packets: list[av.Packet[VideoStream]], *, ended: bool = False) -> None:
        with self._changed:
            encoding.packets += packets
            encoding.ended |= ended
            self._changed.notify()
