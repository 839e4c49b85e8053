"""A track of sound beside a video: copied where the container takes it as it is, else encoded.

It begins with the video and never outlasts it. A track that is shorter ends sooner: no frame is left out for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.filter import Graph

from framehaul.files import open_regular
from framehaul_client.sinks.containers import Container

_BIT_RATE: Final = 96_000
"""For each channel."""
_LAYOUTS: Final = {1: "mono", 2: "stereo", 6: "5.1"}
"""By the number of channels; others become stereo."""
_RATE: Final = 48_000
_UNREADABLE: Final = (av.error.FFmpegError, OSError, ValueError)


class Sound:
    """A file with sound, checked, and how it goes into a container."""

    def __init__(self, path: Path, kind: Container, start: Fraction = Fraction(0)) -> None:
        """Read the file's header.

        Args:
            path: any file with sound that FFmpeg reads.
            kind: where it goes.
            start: where in the track the video begins, in seconds.

        Raises:
            ValueError: it can't be read, has no sound, or ends before `start`; or the container takes none.
        """
        if kind.sound is None:
            raise ValueError(
                f"audio={path}: {kind.muxer} video has no sound here: mp4, m4v, mov, mkv, webm and ts have"
            )
        self.path = path
        self.start = start
        self._encoder: Final = kind.sound
        try:
            with contextlib.closing(_Source(path)) as source:
                stream = source.stream
                name = stream.codec_context.codec.canonical_name
                length = stream.duration and stream.duration * (stream.time_base or 1)
        except _UNREADABLE as error:
            raise ValueError(f"audio={path}: {getattr(error, 'strerror', None) or error}") from error
        if length is not None and length <= start:
            raise ValueError(f"audio={path}: ends after {float(length):g} s: the video begins at {float(start):g} s")
        self.copied = name in kind.sounds and not start

    def add_to(self, container: OutputContainer) -> Track:
        """Give `container` a track of it.

        Raises:
            OSError, ValueError, av.FFmpegError: the file can't be read any more, or the encoder refuses it.
        """
        source = _Source(self.path)
        try:
            if self.copied:
                return _Copied(source, container)
            return _Encoded(source, container, self._encoder, self.start)
        except BaseException:
            source.close()
            raise


class Track:
    """Sound on its way into a file."""

    def __init__(self, source: _Source) -> None:
        """Own `source`."""
        self._source = source

    def until(self, end: Fraction) -> Iterator[av.Packet[AudioStream]]:
        """Give the packets of the sound up to `end`, in seconds of the video, that weren't given before."""
        raise NotImplementedError

    def finish(self, end: Fraction) -> Iterator[av.Packet[AudioStream]]:
        """Give the rest, as far as `end`."""
        yield from self.until(end)

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._source.close()


class _Copied(Track):
    def __init__(self, source: _Source, container: OutputContainer) -> None:
        super().__init__(source)
        self._out = container.add_stream_from_template(source.stream)
        self._packets = source.container.demux(source.stream)
        self._start = source.start
        self._next = next(self._packets, None)

    def until(self, end: Fraction) -> Iterator[av.Packet[AudioStream]]:
        while (packet := self._next) is not None and packet.pts is not None and packet.dts is not None:
            start = round(self._start / packet.time_base)
            if (packet.pts - start) * packet.time_base >= end:
                break
            self._next = next(self._packets, None)
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, self._out
            yield packet


class _Encoded(Track):
    def __init__(self, source: _Source, container: OutputContainer, encoder: str, start: Fraction) -> None:
        super().__init__(source)
        stream = source.stream
        rates = av.Codec(encoder, "w").audio_rates
        self._rate = stream.rate if rates is None or stream.rate in rates else _RATE
        out = container.add_stream(encoder, rate=self._rate)
        assert isinstance(out, AudioStream)
        self._out = out
        codec = out.codec_context
        codec.layout = _LAYOUTS.get(stream.channels, "stereo")
        codec.bit_rate = _BIT_RATE * codec.layout.nb_channels
        codec.time_base = Fraction(1, self._rate)
        codec.open()
        self._decoded = source.container.decode(stream)
        self._graph = _graph(stream, codec, source.start + start)
        self._samples = AudioFifo()
        self._num_taken = 0
        self._ended = False

    def until(self, end: Fraction) -> Iterator[av.Packet[AudioStream]]:
        last = int(end * self._rate)
        size = self._out.codec_context.frame_size or self._rate // 10
        while self._num_taken + size <= last and self._has(size):
            yield from self._take(size)

    def finish(self, end: Fraction) -> Iterator[av.Packet[AudioStream]]:
        yield from self.until(end)
        self._has(rest := int(end * self._rate) - self._num_taken)
        if rest := min(rest, self._samples.samples):
            yield from self._take(rest)
        yield from self._out.encode(None)

    def _take(self, size: int) -> Iterator[av.Packet[AudioStream]]:
        frame = self._samples.read(size)
        assert frame is not None, "has so many"
        frame.pts, frame.time_base = self._num_taken, Fraction(1, self._rate)
        self._num_taken += size
        yield from self._out.encode(frame)

    def _has(self, size: int) -> bool:
        """Decode until so many samples are there; False after the last."""
        while self._samples.samples < size and not self._ended:
            decoded = next(self._decoded, None)
            self._graph.push(decoded)
            self._ended = decoded is None
            try:
                while True:
                    frame = self._graph.pull()
                    assert isinstance(frame, av.AudioFrame), "from a graph of sound"
                    frame.pts = None  # the graph has filled the gaps
                    self._samples.write(frame)
            except (av.error.BlockingIOError, av.error.EOFError):
                pass
        return self._samples.samples >= size


def _graph(stream: AudioStream, codec: AudioCodecContext, start: Fraction) -> Graph:
    """What makes of the file's sound the encoder's, with its first sample at `start`, gaps filled."""
    graph = Graph()
    seconds = float(start)
    graph.link_nodes(
        graph.add_abuffer(template=stream),
        graph.add("atrim", f"start={seconds:.9f}"),
        graph.add("asetpts", f"PTS-{seconds:.9f}/TB"),
        graph.add("aresample", f"{codec.sample_rate}:async=1:first_pts=0"),
        graph.add("aformat", f"sample_fmts={codec.format.name}:channel_layouts={codec.layout.name}"),
        graph.add("abuffersink"),
    ).configure()
    return graph


class _Source:
    """Owner of the open file."""

    def __init__(self, path: Path) -> None:
        """Open `path`; FFmpeg is handed the file, and opens no other one that it names.

        Raises:
            OSError, ValueError, av.FFmpegError: it can't be read, or has no sound.
        """
        self._file = os.fdopen(open_regular(path), "rb")
        try:
            self.container = av.open(self._file, "r", options={"protocol_whitelist": ""})
            found = self.container.streams.best("audio")
            if not isinstance(found, AudioStream):
                raise ValueError("has no sound")
            self.stream = found
            # Where time begins in the file, as ffmpeg has it.
            self.start = Fraction(self.container.start_time or 0, av.time_base)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close it; twice is fine."""
        self.container.close()
        self._file.close()
