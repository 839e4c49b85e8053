"""Samples of films of many kinds: the same pictures as when every frame is decoded, and less is decoded for them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream

from framehaul_pipeline.highlight.messages import Scan
from framehaul_pipeline.highlight.sample import Film, OwnPosition
from framehaul_pipeline.highlight.sparse import NotAsItSays, decoded

RATE, HEIGHT, WIDTH, NUM_FRAMES = 25, 48, 64, 100
SIDE = 24
SCAN = Scan(start=0.0, end=math.inf, per_second=2.0)


class Kind(NamedTuple):
    """How a film is encoded, and how many of its 100 frames are decoded at most for two samples a second.

    100: all of them are, as any may be needed.
    """

    most: int
    codec: str = "libx264"
    options: Mapping[str, str] = MappingProxyType({})
    suffix: str = ".mp4"
    pix_fmt: str = "yuv420p"
    gap: int = 0
    """Frames that lack after each 20th one: a variable rate."""


def x265(options: str) -> dict[str, str]:
    return {"x265-params": f"log-level=none:pools=none:keyint=50:{options}"}


INTERLACED = {"bf": "2", "g": "15", "flags": "+ildct+ilme"}
KINDS = {
    "H.264": Kind(60),
    "H.264 of a variable rate": Kind(60, gap=17),
    "H.264 in Matroska": Kind(60, suffix=".mkv"),
    "H.264 in a transport stream": Kind(60, suffix=".ts"),
    "H.264, short groups": Kind(40, options={"g": "5", "bf": "0"}),
    "H.264, a pyramid": Kind(60, options={"bf": "7", "b_strategy": "0", "b-pyramid": "normal", "refs": "6"}),
    "H.264, open groups": Kind(60, options={"x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    "H.264 without B-frames": Kind(90, options={"bf": "0"}),
    "H.264, gradual refresh": Kind(100, options={"x264-params": "intra-refresh=1:bframes=0"}, suffix=".ts"),
    "H.264, interlaced": Kind(60, options={"x264-params": "tff=1:bframes=3:b-adapt=0"}),
    "HEVC": Kind(60, "libx265", x265("open-gop=0")),
    "HEVC, open groups": Kind(60, "libx265", x265("b-adapt=0")),
    "HEVC, layers in time": Kind(100, "libx265", x265("temporal-layers=3")),
    "HEVC in a transport stream": Kind(95, "libx265", x265("open-gop=0:keyint=40"), suffix=".ts"),
    "VP9": Kind(90, "libvpx-vp9", {"cpu-used": "8"}, suffix=".webm"),
    "AV1": Kind(90, "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, suffix=".webm"),
    "MPEG-4": Kind(60, "mpeg4", {"bf": "2"}),
    "MPEG-4 in AVI": Kind(60, "mpeg4", {"bf": "2"}, suffix=".avi"),
    "MPEG-2": Kind(60, "mpeg2video", {"bf": "2", "g": "15"}, suffix=".ts"),
    "MPEG-2, interlaced": Kind(60, "mpeg2video", INTERLACED, suffix=".ts"),
    "Motion JPEG": Kind(10, "mjpeg", suffix=".mov", pix_fmt="yuvj420p"),
    "ProRes": Kind(10, "prores_ks", suffix=".mov", pix_fmt="yuv422p10le"),
}


def write(path: Path, kind: Kind) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    scene = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(kind.codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, kind.pix_fmt
        stream.codec_context.gop_size = 50
        stream.codec_context.options = dict(kind.options)
        for index in range(NUM_FRAMES):
            pixels = np.roll(scene, (index // 7, 3 * index), axis=(0, 1))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index + index // 20 * kind.gap, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=KINDS)
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kind]:
    kind = KINDS[request.param]
    return write(tmp_path_factory.mktemp("film") / f"film{kind.suffix}", kind), kind


def frames(path: Path, scan: Scan | None = None) -> dict[float, bytes]:
    """By their times, those that are decoded for a scan, or all."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        base, packets = stream.time_base, (packet for packet in container.demux(stream) if packet.size)
        assert base is not None
        coming = (
            container.decode(stream) if scan is None else decoded(packets, stream, lambda at: float(at * base), scan)
        )
        return {float((frame.pts or 0) * base): frame.to_ndarray().tobytes() for frame in coming}


def shown(times: list[float], per_second: float) -> set[float]:
    """What is shown at the moments of a scan."""
    moments = np.arange(math.ceil(times[0] * per_second), math.ceil(times[-1] * per_second)) / per_second
    return {times[index] for index in np.searchsorted(times, moments + 1e-6) - 1}


def test_what_is_decoded_is_the_same_to_the_bit(film: tuple[Path, Kind]) -> None:
    """All that is sampled comes, no frame differs, and others are left out."""
    path, kind = film
    whole, found = frames(path), frames(path, SCAN)
    assert shown(list(whole), SCAN.per_second) <= set(found)
    assert {time: whole[time] for time in found} == found
    assert len(whole) == NUM_FRAMES
    assert len(found) <= kind.most
    assert kind.most < NUM_FRAMES or len(found) == NUM_FRAMES


def samples(
    path: Path, *spans: tuple[float, float], per_second: float = 8.0, keys_alone: bool = False
) -> dict[float, bytes]:
    """By their times; those that are shown at the end of one span and in the next one come once."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found: dict[float, bytes] = {}
        for start, end in spans:
            film = Film(OwnPosition(fd), "it", max_pixels=1 << 20, max_seconds=60)
            scan = Scan(start=start, end=end, per_second=per_second, keys_alone=keys_alone)
            found |= {time: pixels.tobytes() for time, pixels in film.samples(scan, SIDE)}
        return found
    finally:
        os.close(fd)


def test_parts_have_the_samples_of_the_whole(film: tuple[Path, Kind]) -> None:
    """Wherever a film is cut, and whatever is read before: also where no index tells of key frames."""
    path, _ = film
    whole = samples(path, (0.0, math.inf))
    assert len(whole) >= 32
    assert samples(path, (0.0, 1.3), (1.3, 2.9), (2.9, math.inf)) == whole


def test_key_frames_alone_are_those_of_the_whole(film: tuple[Path, Kind]) -> None:
    """All of them and no others, in their order; but where a gradual refresh begins there is no picture yet."""
    path, kind = film
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        stamps = [packet.pts for packet in container.demux(video=0) if packet.is_keyframe]
    assert base is not None
    times = [float((stamp - (stamps[0] or 0)) * base) for stamp in stamps if stamp is not None]
    found, whole = samples(path, (0.0, math.inf), keys_alone=True), samples(path, (0.0, math.inf), per_second=1000)
    assert [*found] == pytest.approx(times[:1] if "intra-refresh" in str(kind.options) else times)
    assert {time: whole[time] for time in found} == found


@pytest.mark.parametrize("name", ["H.264", "H.264 in a transport stream", "HEVC", "MPEG-2", "VP9"])
def test_a_damaged_film_is_decoded_whole(name: str, tmp_path: Path) -> None:
    """From the damage on: its samples are those of a film of which every frame is sampled."""
    kind = KINDS[name]
    path = write(tmp_path / f"film{kind.suffix}", kind)
    undamaged = samples(path, (0.0, math.inf), per_second=1000)
    content = bytearray(path.read_bytes())
    for at in range(len(content) * 4 // 10, len(content) * 7 // 10, 97):
        content[at] ^= 1 << at % 8
    path.write_bytes(content)
    whole = samples(path, (0.0, math.inf), per_second=1000)
    assert whole != undamaged
    wanted = shown(list(whole), SCAN.per_second)
    found = samples(path, (0.0, math.inf), per_second=SCAN.per_second)
    assert found == {time: whole[time] for time in wanted}


def packet(stamp: int | None, *, key: bool = False, num_bytes: int = 10) -> Packet[VideoStream]:
    made: Packet[Any] = Packet(num_bytes)
    made.pts, made.is_keyframe = stamp, key
    return made


class PicturesAlone:
    """A stream of pictures of which none refers to another, and some don't come out when they are decoded."""

    def __init__(self, lost: tuple[int, ...] = (), codec: str = "pictures") -> None:
        self.lost, self.num_decoded = lost, 0
        kind = SimpleNamespace(canonical_name=codec, intra_only=codec == "pictures")
        self.codec_context = SimpleNamespace(codec=kind, skip_frame="DEFAULT")

    def decode(self, packet: Packet[VideoStream] | None) -> list[Any]:
        if packet is None:
            return []
        self.num_decoded += 1
        lost = packet.pts in self.lost or self.codec_context.skip_frame == "NONREF"
        return [] if lost else [SimpleNamespace(pts=packet.pts, is_corrupt=False)]


def planned(stream: Any, packets: Iterable[Packet[VideoStream]], scan: Scan = SCAN) -> Iterator[int | None]:
    """Stamps, ten a second, of what is decoded."""
    return (frame.pts for frame in decoded(packets, stream, lambda stamp: stamp / 10, scan))


@pytest.mark.parametrize(
    "packets",
    [
        [packet(0, key=True), packet(None)],
        [packet(0, key=True), packet(0)],
        [packet(5, key=True), packet(6), packet(2, key=True), packet(3)],
        [packet(0, key=True), *(packet(stamp) for stamp in range(1, 2000))],
        [packet(0, key=True), packet(1, num_bytes=65 << 20)],
    ],
    ids=["no stamp", "a stamp twice", "a clock that goes back", "a group of many packets", "a group of many bytes"],
)
def test_what_cant_be_planned_is_told_before_it_is_decoded(packets: list[Packet[VideoStream]]) -> None:
    stream = PicturesAlone()
    with pytest.raises(NotAsItSays):
        list(planned(stream, packets))
    assert stream.num_decoded == 0


@pytest.mark.parametrize(("lost", "found"), [(5, [0]), (15, [0, 5, 10]), (19, [0, 5, 10, 15])])
def test_a_frame_that_doesnt_come_is_missed_before_a_later_one_comes(lost: int, found: list[int]) -> None:
    coming = planned(PicturesAlone((lost,)), (packet(stamp, key=True) for stamp in range(20)))
    assert [next(coming) for _ in found] == found
    with pytest.raises(NotAsItSays):
        next(coming)


def test_what_is_past_a_scans_end_is_not_read() -> None:
    """But for the first frame that is; and of a film that ends earlier, its last one."""
    packets = (packet(stamp, key=True) for stamp in range(1000))
    coming = planned(PicturesAlone(), packets, Scan(start=0, end=0.9, per_second=2))
    assert [next(coming) for _ in range(3)] == [0, 5, 9]
    assert next(packets).pts == 12
    film = [packet(0, key=True), packet(5), packet(10), packet(29)]
    scan = Scan(start=0, end=2.95, per_second=1)
    assert list(planned(PicturesAlone(codec="mpeg4"), film, scan)) == [0, 10, 29]


def test_codecs_whose_groups_are_not_known_are_decoded_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "film.gif", Kind(100, "gif", suffix=".gif", pix_fmt="rgb8"))
    with pytest.raises(NotAsItSays):
        frames(path, SCAN)
    assert len(samples(path, (0.0, math.inf))) == 32
