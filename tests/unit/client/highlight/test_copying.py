from pathlib import Path

import av
import numpy as np
import pytest

from framehaul_client.core.cutting import split_units
from framehaul_client.errors import InvalidOption, OutputError
from framehaul_client.highlight.copying import check_copy, copy_excerpt
from tests.support.cut_films import HEIGHT, RATE, SOUND_RATE, WIDTH, frames_of, make_film, sound_of, times_of

QUIET = {"x265-params": "log-level=error:keyint=20:min-keyint=20:scenecut=0:open-gop=1"}


def film(folder: Path, kind: str) -> Path:
    match kind:
        case "h264.mp4" | "h264.mkv" | "h264.ts":
            return make_film(folder / kind, options={"sc_threshold": "0", "bf": "2", "preset": "ultrafast"})
        case "open.mp4":
            options = {"sc_threshold": "0", "bf": "2", "x264-params": "open-gop=1"}
            return make_film(folder / kind, options=options)
        case "hevc.mp4":
            return make_film(folder / kind, "libx265", options={**QUIET, "preset": "ultrafast"})
        case "vp9.webm":
            return make_film(folder / kind, "libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"}, sound=None)
        case "mpeg4.mp4":
            return make_film(folder / kind, "mpeg4", options={"sc_threshold": "1000000000"})
        case _:
            return make_film(folder / kind, "prores_ks", pix_fmt="yuv422p10le", sound="pcm_s16le")


@pytest.mark.parametrize(
    ("kind", "out", "first", "last", "encoded"),
    [
        ("h264.mp4", "clip.mp4", 30, 70, range(10)),
        ("h264.mp4", "clip.mp4", 40, 60, range(0)),  # from key frame to key frame
        ("h264.mp4", "clip.mkv", 42, 47, range(5)),  # no key frame inside
        ("h264.mkv", "clip.mov", 30, 70, range(10)),
        ("h264.ts", "clip.ts", 30, 70, range(10)),
        ("h264.ts", "clip.mp4", 30, 60, range(10)),
        ("open.mp4", "clip.mp4", 30, 70, range(40)),  # no key frame that ends what was before
        ("hevc.mp4", "clip.mp4", 30, 70, range(10)),
        ("vp9.webm", "clip.webm", 30, 70, range(10)),
        ("prores.mov", "clip.mov", 33, 58, range(0)),  # all are key frames
    ],
)
def test_an_excerpt_has_exactly_its_frames(
    tmp_path: Path, kind: str, out: str, first: int, last: int, encoded: range
) -> None:
    """All but those in front of a key frame, and the last few, are the film's own, bit for bit; those look alike."""
    source = film(tmp_path, kind)
    expected = frames_of(source)[first:last]
    copied = copy_excerpt(source, first / RATE, last / RATE, tmp_path / out)
    found = frames_of(tmp_path / out)
    assert (copied.num_frames, len(found), copied.note) == (last - first, last - first, "")
    assert copied.start == pytest.approx(first / RATE, abs=0.002)
    same = [bool(np.array_equal(one, other)) for one, other in zip(found, expected, strict=True)]
    assert same.count(False) <= copied.num_encoded
    assert len(encoded) <= copied.num_encoded <= len(encoded) + 3
    assert all(same[index] for index in range(len(encoded), last - first - 3))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.astype(float) - other).mean() < 6 * (1 if one.dtype == np.uint8 else 4)
    times = times_of(tmp_path / out)
    np.testing.assert_allclose(np.diff(times), 1 / RATE, atol=0.0015)


def test_h264_names_the_parameter_sets_of_both_parts(tmp_path: Path) -> None:
    """By numbers of their own, in one record: players need not take new ones on the way."""
    copy_excerpt(film(tmp_path, "h264.mp4"), 30 / RATE, 70 / RATE, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        record = clip.streams.video[0].codec_context.extradata or b""
        assert clip.streams.video[0].codec_context.codec_tag == "avc1"
    assert record[5] & 31 == 2
    first = int.from_bytes(record[6:8])
    ids = {record[8 + 4] >> 7, record[8 + first + 2 + 4] >> 7}  # exponential Golomb: 0 begins with 1, 1 with 0
    assert ids == {0, 1}


def test_hevc_is_spliced_at_the_joint(tmp_path: Path) -> None:
    """The film's first key frame is a broken link, not one that goes on with what was before it."""
    copy_excerpt(film(tmp_path, "hevc.mp4"), 30 / RATE, 70 / RATE, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        convert = av.BitStreamFilterContext("hevc_mp4toannexb", clip.streams.video[0])
        made = [each for packet in clip.demux(video=0) if packet.size for each in convert.filter(packet)]
    kinds = [[unit[0] >> 1 & 63 for unit in split_units(bytes(packet)) if unit] for packet in made]
    assert 18 in kinds[10]
    assert 21 not in kinds[10]


@pytest.mark.parametrize("out", ["clip.mp4", "clip.mkv"])
def test_sound_stays_with_its_frames(tmp_path: Path, out: str) -> None:
    """Where the container can skip its beginning it starts with the first frame, else a packet later at most."""
    source = film(tmp_path, "h264.mp4")
    copy_excerpt(source, 30 / RATE, 70 / RATE, tmp_path / out)
    begins_s, samples = sound_of(tmp_path / out)
    begins_s -= times_of(tmp_path / out)[0]
    assert begins_s == pytest.approx(0, abs=0.001 if out == "clip.mp4" else 1024 / SOUND_RATE)
    _, whole = sound_of(source)
    skipped = 4096  # the decoder's first packets
    at = round((30 / RATE + begins_s) * SOUND_RATE) + skipped
    window = samples[skipped : skipped + 20000]
    distances = {offset: float(np.abs(whole[at + offset :][:20000] - window).mean()) for offset in range(-60, 61)}
    assert min(distances, key=distances.__getitem__) == pytest.approx(0, abs=50)  # Matroska's milliseconds
    assert len(samples) / SOUND_RATE == pytest.approx(40 / RATE, abs=0.05)


def test_what_can_not_be_joined_begins_at_the_key_frame_before(tmp_path: Path) -> None:
    """And one line says so."""
    source = film(tmp_path, "mpeg4.mp4")
    copied = copy_excerpt(source, 30 / RATE, 70 / RATE, tmp_path / "clip.mp4")
    assert (copied.start, copied.num_encoded) == (20 / RATE, 0)
    assert copied.note == "this client can't encode mpeg4, so that the excerpt begins at the key frame before"
    found = frames_of(tmp_path / "clip.mp4")
    assert all(np.array_equal(one, other) for one, other in zip(found, frames_of(source)[20:], strict=False))
    assert len(found) == copied.num_frames >= 50


def test_the_picture_is_shown_as_the_film_is(tmp_path: Path) -> None:
    """Its rotation and its colours' tags are kept."""
    source = make_film(tmp_path / "film.mp4", options={"preset": "ultrafast"}, rotation=90)
    copy_excerpt(source, 30 / RATE, 70 / RATE, tmp_path / "clip.mp4")
    with av.open(str(source)) as film_in, av.open(str(tmp_path / "clip.mp4")) as clip:
        one, other = (next(each.decode(video=0)) for each in (film_in, clip))
    assert (other.rotation, other.colorspace, other.color_range) == (one.rotation, one.colorspace, one.color_range)
    assert (abs(other.rotation), other.width, other.height) == (90, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("nothing.mp4", "clip.mp4", "No such file"),
        ("noise.mp4", "clip.mp4", "Invalid data"),
        ("sound.mp4", "clip.mp4", "has no video"),
        ("prores.mov", "clip.webm", "takes no prores"),
        ("prores.mov", "clip.gif", "must end in .mp4"),
    ],
)
def test_what_can_not_be_cut_is_refused_at_once(tmp_path: Path, name: str, out: str, words: str) -> None:
    """Before a film is sent anywhere."""
    if name == "noise.mp4":
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    elif name == "sound.mp4":
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("aac", rate=SOUND_RATE)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = SOUND_RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    elif name == "prores.mov":
        film(tmp_path, name)
    with pytest.raises(InvalidOption, match=words):
        check_copy(tmp_path / name, tmp_path / out)


def test_a_failed_cut_leaves_nothing(tmp_path: Path) -> None:
    """Neither a file of that name, nor a part of one."""
    source = film(tmp_path, "mpeg4.mp4")
    with pytest.raises(OutputError, match=r"clip\.webm"):
        copy_excerpt(source, 1.0, 2.0, tmp_path / "clip.webm")
    assert [path.name for path in tmp_path.iterdir()] == ["mpeg4.mp4"]
