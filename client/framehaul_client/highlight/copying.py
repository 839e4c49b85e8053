"""Cuts excerpts out of a film that the caller holds: its own packets, with its sound.

Only what stands between an excerpt's ends and the packets that can be copied is encoded again, by an encoder of the
film's own format. Blocks; for a thread.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.codec.context import Flags
from av.video.frame import PictureType

from framehaul_client.core.cutting import (
    Packet,
    Plan,
    decode_times,
    exact_plan,
    free_parameter_set,
    is_joint,
    spliced,
    whole_plan,
)
from framehaul_client.errors import InvalidOption, OutputError
from framehaul_client.sinks.base import PartialFile
from framehaul_client.sinks.containers import CONTAINERS, suffix_of
from framehaul_client.sinks.video import hushed

COPIED: Final = ("mp4", "m4v", "mov", "mkv", "webm", "ts")
"""The containers that excerpts can be copied into, by suffix."""
_FAILURES: Final = (av.error.FFmpegError, OSError, ValueError, KeyError)
_AROUND_S: Final = 1.0
"""Read before an excerpt for its sound, and after it for frames that are decoded late."""
_PREROLL_S: Final = 0.08
"""Of sound, from which its decoder is in step (RFC 7845, section 4.6); the container says to skip it."""
_EDITED: Final = ("mp4", "mov")
"""Muxers that can say so."""
_KEPT: Final = ("language", "title")
"""Of what a film says of its sound."""
_START_CODES: Final = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How to encode a few frames, such that no difference is seen; without frames that are decoded out of order."""

    encoder: str
    options: dict[str, str] = field(default_factory=dict)


_ENCODINGS: Final = {
    "h264": _Encoding("libx264", {"crf": "15", "preset": "medium"}),
    "hevc": _Encoding("libx265", {"crf": "15", "preset": "fast"}),
    "vp8": _Encoding("libvpx", {"crf": "8", "b": "20M", "auto-alt-ref": "0"}),
    "vp9": _Encoding("libvpx-vp9", {"crf": "15", "b": "0", "auto-alt-ref": "0", "cpu-used": "4"}),
    "av1": _Encoding("libsvtav1", {"crf": "18", "preset": "8", "svtav1-params": "pred-struct=1"}),
}
_X264_PROFILES: Final = {"Constrained Baseline": "baseline", "Baseline": "baseline", "Main": "main", "High": "high"}


@dataclass(frozen=True, slots=True)
class Copied:
    """An excerpt that was cut.

    Attributes:
        path: its file.
        start: of its first frame, in seconds from the film's.
        num_frames: how many it has.
        num_encoded: how many of them were encoded again.
        has_sound: the film has some, and so has this.
        note: why it doesn't start where it should; empty: it does.
    """

    path: Path
    start: float
    num_frames: int
    num_encoded: int
    has_sound: bool
    note: str = ""


def check_copy(film: Path, out: Path) -> None:
    """Find out whether excerpts of `film` can be copied into `out`.

    Raises:
        InvalidOption: `film` can't be read, has no video, or one that doesn't go into such a container.
    """
    suffix = suffix_of(out.name)
    if suffix not in COPIED:
        raise InvalidOption(f"out={out}: must end in {', '.join(f'.{name}' for name in COPIED)} to be copied into")
    with _opened(film) as source, _muxer(io.BytesIO(), suffix) as target:
        for stream in (source.streams.video[0], *source.streams.audio):
            name = stream.codec_context.codec.canonical_name
            if name not in target.supported_codecs:
                raise InvalidOption(
                    f"out={out}: .{suffix} takes no {name}, which {film} has: end it in .mkv, or give --no-copy"
                )


def copy_excerpt(film: Path, start: float, end: float, out: Path) -> Copied:
    """Cut the frames from `start` up to `end`, in seconds from the film's first frame, into `out`.

    Raises:
        InvalidOption: `film` can't be read.
        OutputError: `out` can't be written.
    """
    output = PartialFile(out)
    try:
        with _opened(film) as source:
            cut = _Cut(source, start, end)
            cut.write(output, suffix_of(out.name))
        output.publish()
    except _FAILURES as error:
        raise OutputError(f"{out}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if output.path != output.target:
            output.discard()
    return Copied(out, cut.start, cut.num_frames, cut.num_encoded, cut.has_sound, cut.note)


class _Cut:
    """One excerpt: what is read of the film, what becomes of it, and the file."""

    def __init__(self, source: av.container.InputContainer, start: float, end: float) -> None:
        self._source = source
        self._video = video = source.streams.video[0]
        assert video.time_base is not None, "FFmpeg gives each stream one"
        self._tick: Fraction = video.time_base
        self._codec = video.codec_context.codec.canonical_name
        self.note = ""
        first, self._frame = self._first_frame()
        half = self._frame / 2
        self._start = first + round(start / self._tick - half)
        self._end = first + round(end / self._tick - half)
        self._read()
        self._extradata = self._with_start_codes()
        self._plan = self._planned()
        self._encoded = self._encode()
        pts = [packet.pts for packet in self._ordered()]
        shown = [each for each in pts if each is not None]
        self.start = float((min(shown) - first) * self._tick)
        self.num_frames = len(shown)
        self.num_encoded = sum(map(len, self._encoded))
        self.has_sound = bool(self._sound)

    def _first_frame(self) -> tuple[int, float]:
        """When the film's first frame is shown, and how long a frame is."""
        rate = self._video.average_rate or self._video.guessed_rate or Fraction(25)
        pts = []
        for packet in self._source.demux(self._video):
            if packet.pts is not None and not packet.is_discard:
                pts.append(packet.pts)
            if len(pts) == 32:
                break
        if not pts:
            raise ValueError("its frames have no times, so it can't be cut without decoding it: give --no-copy")
        return min(pts), float(1 / rate / self._tick)

    def _read(self) -> None:
        """Take the packets from the key frame before the excerpt to a little after it."""
        around = round(_AROUND_S / self._tick)
        self._source.seek(self._start - around, stream=self._video, backward=True)
        self._packets: list[av.Packet[Any]] = []
        self._sound: list[tuple[Any, list[av.Packet[Any]]]] = [(each, []) for each in self._source.streams.audio]
        sounds = {each.index: packets for each, packets in self._sound}
        ended = {self._video.index: False, **dict.fromkeys(sounds, False)}
        for packet in self._source.demux(self._video, *(each for each, _ in self._sound)):
            if packet.dts is None or packet.pts is None:
                continue
            if packet.stream_index in sounds:
                sounds[packet.stream_index].append(packet)
            elif not ended[packet.stream_index]:
                self._packets.append(packet)
            late = self._end + around if packet.stream_index == self._video.index else self._end
            if packet.dts * packet.time_base >= late * self._tick:
                ended[packet.stream_index] = True
                if ended[self._video.index] and (packet.dts * packet.time_base >= (late + 4 * around) * self._tick):
                    break
            if all(ended.values()):
                break
        if not any(packet.is_keyframe for packet in self._packets):
            raise ValueError("no key frame near the excerpt")

    def _with_start_codes(self) -> bytes | None:
        """Turn H.264 and HEVC into streams with start codes, and return the parameter sets; None for other formats."""
        if self._codec not in _START_CODES:
            return None
        extradata = self._video.codec_context.extradata or b""
        if extradata[:3] in (b"\0\0\1", b"\0\0\0"):
            return extradata
        convert = av.BitStreamFilterContext(_START_CODES[self._codec], self._video)
        self._packets = [made for packet in self._packets for made in convert.filter(packet)]
        return _parameter_sets(self._codec, extradata)

    def _planned(self) -> Plan:
        packets = [
            Packet(
                packet.pts or 0,
                packet.is_keyframe,
                packet.is_keyframe and (self._codec not in _START_CODES or is_joint(self._codec, bytes(packet))),
            )
            for packet in self._packets
        ]
        plan = exact_plan(packets, self._start, self._end)
        if not plan.encodes:
            return plan
        why = self._not_joinable()
        if not why:
            return plan
        self.note = f"{why}, so that the excerpt begins at the key frame before"
        return whole_plan(packets, self._start, self._end)

    def _not_joinable(self) -> str:
        """Why frames encoded here can't stand beside the film's packets; empty: they can."""
        context = self._video.codec_context
        encoding = _ENCODINGS.get(self._codec)
        if encoding is None or encoding.encoder not in av.codecs_available:
            return f"this client can't encode {self._codec}"
        formats = [each.name for each in av.Codec(encoding.encoder, "w").video_formats or []]
        if formats and context.pix_fmt not in formats:
            return f"{encoding.encoder} takes no {context.pix_fmt}"
        return ""

    def _encode(self) -> tuple[list[av.Packet[Any]], list[av.Packet[Any]]]:
        head, tail = self._plan.head, self._plan.tail
        with hushed():
            return self._encode_frames(*head), self._encode_frames(*tail)

    def _encode_frames(self, start: int, end: int) -> list[av.Packet[Any]]:
        if start >= end:
            return []
        encoder = self._encoder()
        packets: list[av.Packet[Any]] = []
        for number, frame in enumerate(self._decoded(start, end)):
            frame.pict_type = PictureType.I if number == 0 else PictureType.NONE
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        made = encoder.extradata or b""
        if self._codec == "h264" and made not in (self._extradata or b""):
            self._extradata = (self._extradata or b"") + made
        return packets

    def _encoder(self) -> av.VideoCodecContext:
        encoding, film = _ENCODINGS[self._codec], self._video.codec_context
        options = dict(encoding.options)
        encoder = av.VideoCodecContext.create(encoding.encoder, "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = film.width, film.height, film.pix_fmt
        encoder.time_base = self._tick
        encoder.framerate = self._video.average_rate or Fraction(25)
        if film.sample_aspect_ratio:
            encoder.sample_aspect_ratio = film.sample_aspect_ratio
        encoder.color_range, encoder.colorspace = film.color_range, film.colorspace
        encoder.color_primaries, encoder.color_trc = film.color_primaries, film.color_trc
        if self._codec == "h264":
            # A number of its own for its parameter sets: one header then has both, and each frame names its own.
            number = free_parameter_set(self._extradata or b"")
            options["x264-params"] = f"sps-id={number}:bframes=0"
            if film.profile in _X264_PROFILES:
                options["profile"] = _X264_PROFILES[film.profile]
            encoder.flags |= Flags.global_header
        elif self._codec == "hevc":
            options["x265-params"] = "log-level=error:bframes=0"
        encoder.options = options
        return encoder

    def _decoded(self, start: int, end: int) -> Iterator[av.VideoFrame]:
        """The film's frames from `start` until `end`."""
        first = max(
            (index for index, each in enumerate(self._packets) if each.is_keyframe and (each.pts or 0) <= start),
            default=0,
        )
        film = self._video.codec_context
        decoder = av.VideoCodecContext.create(film.codec.name, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata = self._extradata if self._codec in _START_CODES else film.extradata
        for packet in (*self._packets[first:], None):
            for frame in decoder.decode(packet):
                if frame.pts is not None and start <= frame.pts < end:
                    frame.time_base = self._tick
                    yield frame
                elif frame.pts is not None and frame.pts >= end:
                    return

    def _ordered(self) -> list[av.Packet[Any]]:
        """The excerpt's packets in the order of decoding."""
        return [*self._encoded[0], *(self._packets[index] for index in self._plan.copied), *self._encoded[1]]

    def write(self, output: PartialFile, suffix: str) -> None:
        """Mux it into `output`."""
        kind = CONTAINERS[suffix]
        with _muxer(output.file, suffix, output.reader) as target:
            video = target.add_stream_from_template(self._video, opaque=True)
            if aspect := self._video.sample_aspect_ratio:  # the container's own may differ from the stream's
                video.codec_context.sample_aspect_ratio = aspect
            if self._extradata is not None:
                video.codec_context.extradata = self._extradata
                if self._codec == "hevc" and self._plan.encodes and kind.apple:
                    video.codec_context.codec_tag = "hev1"  # its parameter sets change on the way
            sounds = [target.add_stream_from_template(stream, opaque=True) for stream, _ in self._sound]
            for stream, (film, _) in zip(sounds, self._sound, strict=True):
                stream.metadata.update({name: film.metadata[name] for name in _KEPT if name in film.metadata})
            ordered = self._ordered()
            since_s = min(packet.pts or 0 for packet in ordered) * self._tick
            until_s = max(self._end * self._tick, since_s) - since_s
            packets = list(self._moved_video(ordered, video))
            for (_, found), stream in zip(self._sound, sounds, strict=True):
                preroll_s = _PREROLL_S if kind.muxer in _EDITED else 0.0
                packets += _moved_sound(found, stream, since_s, until_s, preroll_s)
            packets.sort(key=lambda packet: (packet.dts or 0) * packet.time_base)
            for packet in packets:
                target.mux_one(packet)

    def _moved_video(self, ordered: list[av.Packet[Any]], stream: Any) -> Iterator[av.Packet[Any]]:
        shown = [packet.pts or 0 for packet in ordered]
        first, last = min(shown), max(shown)
        joint = len(self._encoded[0])
        for number, (packet, pts, dts) in enumerate(zip(ordered, shown, decode_times(shown), strict=True)):
            if number == joint > 0:
                packet = _replaced(packet, spliced(self._codec, bytes(packet)))
            packet.stream = stream
            packet.pts, packet.dts, packet.time_base = pts - first, dts - first, self._tick
            if pts == last:
                packet.duration = packet.duration or round(self._frame)
            yield packet


def _moved_sound(
    packets: Iterable[av.Packet[Any]], stream: Any, since_s: Fraction, until_s: Fraction, preroll_s: float
) -> Iterator[av.Packet[Any]]:
    """The packets of the excerpt's time, and those in front of it from which decoders need to start."""
    for packet in packets:
        tick = packet.time_base
        offset = round(since_s / tick)
        pts, dts = (packet.pts or 0) - offset, (packet.dts or 0) - offset
        ends_s = (pts + (packet.duration or 0)) * tick
        begins = ends_s > -preroll_s if preroll_s else pts >= 0
        if begins and pts * tick < until_s:
            packet.stream, packet.pts, packet.dts = stream, pts, dts
            yield packet


def _replaced(packet: av.Packet[Any], content: bytes) -> av.Packet[Any]:
    """The same packet with other bytes."""
    made = av.Packet(content)
    made.is_keyframe, made.duration = packet.is_keyframe, packet.duration
    return made


def _parameter_sets(codec: str, extradata: bytes) -> bytes:
    """The parameter sets of an MP4's configuration record, with start codes (ISO/IEC 14496-15, 5.3.3 and 8.3.3)."""
    sets: list[bytes] = []
    if codec == "h264":
        position = 5
        for mask in (31, 255):
            count, position = extradata[position] & mask, position + 1
            for _ in range(count):
                size = int.from_bytes(extradata[position : position + 2])
                sets.append(extradata[position + 2 : position + 2 + size])
                position += 2 + size
    else:
        position = 23
        for _ in range(extradata[22]):
            count, position = int.from_bytes(extradata[position + 1 : position + 3]), position + 3
            for _ in range(count):
                size = int.from_bytes(extradata[position : position + 2])
                sets.append(extradata[position + 2 : position + 2 + size])
                position += 2 + size
    return b"".join(b"\0\0\0\1" + each for each in sets)


@contextlib.contextmanager
def _opened(film: Path) -> Iterator[av.container.InputContainer]:
    """Open a film; by its file, since FFmpeg would take what stands before a colon for a protocol.

    Raises:
        InvalidOption: it can't be read, or has no video.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(film, "rb"))
            source = stack.enter_context(av.open(file, "r"))
        except (av.error.FFmpegError, OSError) as error:
            raise InvalidOption(f"film={film}: {getattr(error, 'strerror', None) or error}") from error
        if not source.streams.video:
            raise InvalidOption(f"film={film}: has no video")
        yield source


def _muxer(file: Any, suffix: str, reader: Any = None) -> av.container.OutputContainer:
    kind = CONTAINERS[suffix]
    return av.open(file, "w", format=kind.muxer, container_options=kind.whole, io_open=reader)
