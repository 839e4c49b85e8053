import errno
import os
import socket
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.errors import OutputClosed, OutputError
from framehaul_client.sinks.containers import CONTAINERS, LOSSLESS, RAW, suffix_of
from framehaul_client.sinks.video import VideoSink
from framehaul_client.sinks.video_options import VideoOptions
from tests.support.pictures import (
    HEIGHT,
    WIDTH,
    batches,
    deep_frames,
    largest_file,
    psnr,
    rgb_frames,
    yuv_frames,
)

FPS = Fraction(24000, 1001)
YUV = FrameLayout(pixel_format=PixelFormat.YUV420P, height=HEIGHT, width=WIDTH)
DEEP = FrameLayout(pixel_format=PixelFormat.YUV420P10LE, height=HEIGHT, width=WIDTH)
RGB = FrameLayout(pixel_format=PixelFormat.RGB24, height=HEIGHT, width=WIDTH)


def make(target: Path, pixel_format: PixelFormat = PixelFormat.YUV420P, **options: Any) -> VideoSink:
    return VideoSink(target, CONTAINERS[suffix_of(target.name)], pixel_format, FPS, VideoOptions(**options))


def write(target: Path, frames: np.ndarray[Any, Any], layout: FrameLayout, **options: Any) -> VideoSink:
    sink = make(target, layout.pixel_format, **options)
    sink.prepare()
    sink.start(layout)
    for batch in batches(frames):
        sink.write(batch)
    sink.finish()
    return sink


def read(path: Path, pixel_format: str = "yuv420p") -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)])


def parameter_sets(path: Path) -> dict[str, int]:
    """The fields of a stream's parameter sets, by their names in the standards."""
    previous = av.logging.get_level()
    av.logging.set_level(av.logging.VERBOSE)
    try:
        with av.open(str(path)) as container, av.logging.Capture() as lines:
            BitStreamFilterContext("trace_headers", container.streams.video[0])
    finally:
        av.logging.set_level(previous)
    fields = (text.split() for _, name, text in lines if name == "trace_headers" and " = " in text)
    return {words[1]: int(words[-1]) for words in fields}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".m4v", ".webm", ".ts"])
def test_the_file_holds_every_frame_in_every_container(tmp_path: Path, suffix: str) -> None:
    """Count, rate, size and picture: close to what went in, by PyAV's own decoder."""
    frames = yuv_frames(25)
    sink = write(tmp_path / f"v{suffix}", frames, YUV)
    decoded = read(tmp_path / f"v{suffix}")
    assert decoded.shape == frames.shape
    assert psnr(decoded, frames) > 38
    with av.open(str(tmp_path / f"v{suffix}")) as container:
        assert container.streams.video[0].average_rate == FPS
        codec = container.streams.video[0].codec_context
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
    assert sink.num_bytes == (tmp_path / f"v{suffix}").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


def test_a_lossless_encoder_keeps_every_bit(tmp_path: Path) -> None:
    """Planes reach the encoder unchanged: nothing is converted, shifted or padded."""
    frames = yuv_frames(5)
    write(tmp_path / "v.mkv", frames, YUV, codec="ffv1")
    assert np.array_equal(read(tmp_path / "v.mkv"), frames)


@pytest.mark.parametrize(("codec", "crf"), [("libx264", 0), ("ffv1", None)])
@pytest.mark.parametrize("layout", [YUV, DEEP], ids=["8 bits", "10 bits"])
def test_lossless_settings_are_so_at_any_depth(
    tmp_path: Path, layout: FrameLayout, codec: str, crf: int | None
) -> None:
    """`--crf 0` says lossless to users of x264, which takes it so in 8 bits only."""
    frames = yuv_frames(4) if layout is YUV else deep_frames(4)
    write(tmp_path / "v.mkv", frames, layout, codec=codec, crf=crf)
    assert np.array_equal(read(tmp_path / "v.mkv", layout.pixel_format.value), frames)


def test_colours_stay_in_their_rows_whatever_the_height(tmp_path: Path) -> None:
    """Crops have any even height."""
    height = HEIGHT + 2
    frames = np.random.default_rng(0).integers(16, 240, (3, height * 3 // 2, WIDTH), np.uint8)
    layout = FrameLayout(pixel_format=PixelFormat.YUV420P, height=height, width=WIDTH)
    write(tmp_path / "v.mkv", frames, layout, codec="ffv1")
    np.testing.assert_array_equal(read(tmp_path / "v.mkv"), frames)


@pytest.mark.parametrize(("codec", "profile"), [("libx264", "High 10"), ("libx265", "Main 10")])
def test_ten_bits_stay_ten_bits(tmp_path: Path, codec: str, profile: str, capfd: pytest.CaptureFixture[str]) -> None:
    """By the profiles that players know; the encoder writes nothing on the terminal."""
    frames = deep_frames(5)
    write(tmp_path / "v.mp4", frames, DEEP, codec=codec, crf=8)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0].codec_context
        assert (stream.pix_fmt, stream.profile) == ("yuv420p10le", profile)
        assert stream.codec_tag == ("avc1" if codec == "libx264" else "hvc1")
    assert abs(read(tmp_path / "v.mp4", "yuv420p10le").astype(int) - frames).mean() < 2
    assert capfd.readouterr() == ("", "")


def test_hevc_in_matroska_has_no_apple_tag(tmp_path: Path) -> None:
    """Matroska has names of its own for codecs."""
    write(tmp_path / "v.mkv", deep_frames(2), DEEP, codec="libx265")
    assert read(tmp_path / "v.mkv", "yuv420p10le").shape == (2, *DEEP.shape)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_siting_is_in_the_parameter_sets(tmp_path: Path, codec: str) -> None:
    """As FFmpeg's parser of H.264 and HEVC reads their bytes, 1 is the centre; with the rest of the colours."""
    write(tmp_path / "v.mp4", deep_frames(2), DEEP, codec=codec)
    parsed = parameter_sets(tmp_path / "v.mp4")
    assert parsed["chroma_sample_loc_type_top_field"] == parsed["chroma_sample_loc_type_bottom_field"] == 1
    assert parsed["video_full_range_flag"] == 0
    assert parsed["colour_primaries"] == parsed["transfer_characteristics"] == parsed["matrix_coefficients"] == 1


@pytest.mark.parametrize("layout", [YUV, DEEP], ids=["8 bits", "10 bits"])
def test_matroska_says_the_siting_itself(tmp_path: Path, layout: FrameLayout) -> None:
    """ChromaSitingHorz and ChromaSitingVert, 2 is half-way: for codecs that have no place for it."""
    frames = yuv_frames(2) if layout is YUV else deep_frames(2)
    write(tmp_path / "v.mkv", frames, layout, codec="ffv1")
    assert b"\x55\xb7\x81\x02\x55\xb8\x81\x02" in (tmp_path / "v.mkv").read_bytes()


@pytest.mark.parametrize("layout", [YUV, DEEP, RGB], ids=["yuv420p", "yuv420p10le", "rgb24"])
def test_colours_are_tagged(tmp_path: Path, layout: FrameLayout) -> None:
    """BT.709, limited range, chroma in the centre: in the stream and in the container."""
    frames = {YUV: yuv_frames, DEEP: deep_frames, RGB: rgb_frames}[layout](3)
    write(tmp_path / "v.mp4", frames, layout)
    with av.open(str(tmp_path / "v.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        frame = next(container.decode(video=0))
        assert (frame.color_range, frame.colorspace) == (1, 1)
    assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in (tmp_path / "v.mp4").read_bytes()
    assert parameter_sets(tmp_path / "v.mp4")["chroma_sample_loc_type_top_field"] == 1


def test_rgb_is_converted_to_bt709_limited(tmp_path: Path) -> None:
    """Within one level of the written formula: swscale with AREA, not its BT.601 default."""
    write(tmp_path / "v.mkv", rgb_frames(3), RGB, codec="ffv1", encoded_format="yuv420p")
    difference = read(tmp_path / "v.mkv").astype(int) - yuv_frames(3).astype(int)
    assert abs(difference).max() <= 1


def test_rgb_encoders_get_rgb(tmp_path: Path) -> None:
    """A lossless RGB codec gives the frames back bit for bit."""
    frames = rgb_frames(3)
    write(tmp_path / "v.mkv", frames, RGB, codec="libx264rgb", crf=0, preset="ultrafast", encoded_format="rgb24")
    assert np.array_equal(read(tmp_path / "v.mkv", "rgb24"), frames)


def test_an_encoder_without_yuv420p_gets_its_first_format(tmp_path: Path) -> None:
    """ProRes takes 4:2:2 only: frames are converted."""
    frames = yuv_frames(3)
    write(tmp_path / "v.mov", frames, YUV, codec="prores_ks")
    with av.open(str(tmp_path / "v.mov")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv422p10le"
    assert psnr(read(tmp_path / "v.mov"), frames) > 35


def test_crf_and_preset_reach_the_encoder(tmp_path: Path) -> None:
    """Better quality is a larger file."""
    frames = yuv_frames(10)
    good = write(tmp_path / "good.mp4", frames, YUV, crf=8, preset="slow")
    bad = write(tmp_path / "bad.mp4", frames, YUV, crf=40, preset="slow")
    assert good.num_bytes > 2 * bad.num_bytes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v.mp4", {"codec": "nosuch"}, "codec=nosuch: no such encoder"),
        ("v.mp4", {"codec": "aac"}, "codec=aac: must be a video encoder"),
        ("v.mp4", {"encoded_format": "pal8"}, "pix_fmt=pal8: libx264 takes yuv420p"),
        (
            "v.mp4",
            {"codec": "mpeg4", "pixel_format": PixelFormat.YUV420P10LE},
            "format=yuv420p10le: mpeg4 takes 8 bits",
        ),
        ("v.mkv", {"codec": "rawvideo", "encoded_format": "nosuch"}, "pix_fmt=nosuch: no such pixel format"),
        ("v.mp4", {"preset": "nosuch"}, r"refuses crf=18 preset=nosuch \(invalid preset 'nosuch'\)$"),
        ("v.mp4", {"more": {"tune": "nosuch"}}, r"refuses .* tune=nosuch \(invalid tune 'nosuch'\)$"),
        ("v.mp4", {"codec": "libx265", "preset": "nosuch"}, "codec=libx265: refuses preset=nosuch"),
        ("v.mp4", {"more": {"g": "often"}}, "codec=libx264: refuses .*g=often"),
        ("v.mp4", {"more": {"nosuch": "1"}}, "nosuch=1: libx264 has no such option"),
        ("v.mp4", {"codec": "mpeg4", "preset": "fast"}, "preset=fast: mpeg4 has no such option"),
        ("v.mp4", {"codec": "prores_ks"}, "codec=prores_ks: doesn't go into mp4"),
        ("v.webm", {"codec": "libx264"}, "codec=libx264: doesn't go into webm"),
        (
            "v.mkv",
            {"codec": "rawvideo", "encoded_format": "rgb24"},
            "codec=rawvideo: doesn't go into matroska as rgb24",
        ),
        ("v.y4m", {"codec": "libx264"}, "codec=libx264: must be rawvideo for yuv4mpegpipe"),
        ("v.y4m", {"encoded_format": "rgb24"}, "pix_fmt=rgb24: rawvideo takes yuv420p"),
    ],
)
def test_wrong_options_are_found_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, options: dict[str, Any], message: str
) -> None:
    """The text names the option, the value and what is allowed; the encoder's library writes nothing beside it."""
    options = dict(options)
    pixel_format = options.pop("pixel_format", PixelFormat.YUV420P)
    with pytest.raises(ValueError, match=message):
        make(tmp_path / name, pixel_format, **options)
    assert capfd.readouterr() == ("", "")


def test_a_size_that_the_encoder_refuses_is_said(tmp_path: Path) -> None:
    """The text names encoder and size; no file is left."""
    sink = make(tmp_path / "v.mov", codec="dnxhd")
    sink.prepare()
    with pytest.raises(OutputError, match="dnxhd refused 128x96 yuv422p"):
        sink.start(YUV)
    assert sink.abort() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "same"), [("h264", "libx264"), ("hevc", "libx265"), ("libx264", "libx264"), ("vp9", "libvpx-vp9")]
)
def test_an_encoder_has_our_defaults_under_each_of_its_names(codec: str, same: str) -> None:
    """Options are the encoder's, whether it was named or its format was."""
    options = VideoOptions(codec=codec)
    name = options.encoder(CONTAINERS["mkv"]).name
    assert name == same
    assert options.encoder_options(name) == VideoOptions(codec=same).encoder_options(same)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"crf": "18", "preset": "veryfast"}),
        ({"more": {"g": "12", "tune": "grain"}}, {"crf": "18", "preset": "veryfast", "g": "12", "tune": "grain"}),
        ({"more": {"crf": "20"}}, {"crf": "20", "preset": "veryfast"}),
        ({"more": {"b": "8M"}}, {"preset": "veryfast", "b": "8M"}),
        ({"crf": 0}, {"preset": "veryfast", "qp": "0"}),
    ],
)
def test_other_options_join_our_defaults(options: dict[str, Any], expected: dict[str, str]) -> None:
    """And a bit rate isn't overruled by our quality."""
    assert VideoOptions(**options).encoder_options("libx264") == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"rc": "vbr", "cq": "19", "b": "0"}),
        ({"crf": 24, "preset": "p6"}, {"rc": "vbr", "cq": "24", "b": "0", "preset": "p6"}),
        ({"more": {"b": "8M"}}, {"b": "8M"}),
        ({"more": {"rc": "constqp", "qp": "20"}}, {"rc": "constqp", "qp": "20"}),
    ],
)
def test_quality_has_another_name_in_nvenc(options: dict[str, Any], expected: dict[str, str]) -> None:
    """Constant quality there too, unless the user says otherwise."""
    assert VideoOptions(**options).encoder_options("hevc_nvenc") == expected


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_an_encoder_of_a_card_is_found_by_opening_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], codec: str
) -> None:
    """Many cards have none; then that is told before a session is opened, and nothing beside it."""
    refused = ""
    try:
        write(tmp_path / "v.mp4", yuv_frames(10), YUV, codec=codec)
    except ValueError as error:
        refused = str(error)
    if not refused:
        assert psnr(read(tmp_path / "v.mp4"), yuv_frames(10)) > 30
    else:
        assert refused.startswith(f"codec={codec}: no device or driver on this machine has it")
        assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_an_option_reaches_the_encoder(tmp_path: Path) -> None:
    """Every frame a key frame."""
    write(tmp_path / "v.mp4", yuv_frames(6), YUV, more={"g": "1"})
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


@pytest.mark.parametrize("codec", ["hevc", "libsvtav1", "libx265"])
def test_encoders_are_quiet(tmp_path: Path, codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What they say by themselves would lie across the progress, and come despite --quiet."""
    write(
        tmp_path / "v.mkv", yuv_frames(2), YUV, codec=codec, more={"x265-params": "pools=1"} if codec == "hevc" else {}
    )
    assert capfd.readouterr() == ("", "")


NAMES = [
    "12:30:00.mp4",
    "./x:1.mp4",
    "a:b/v.mkv",
    "concat:z.mp4",
    "file:x.mp4",
    "pipe:1.y4m",
    "subfile,,start,0,end,0,,:v.mov",
    "-v.mp4",
    " .mp4",
    ".mp4",
    "a\nb.mp4",
    "50%_%04d.mp4",
    os.fsdecode(b"\xff.mp4"),
    "a" * 237 + ".mp4",
    "a" * 251 + ".mp4",
    "\u5b57" * 83 + ".mp4",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    """The video is in a file of that very name, and nothing else is."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    write(tmp_path / name, yuv_frames(2), YUV)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    with (tmp_path / name).open("rb") as file, av.open(file, "r") as container:
        assert len(list(container.decode(video=0))) == 2


@pytest.mark.parametrize("scheme", ["http", "tcp", "rtmp", "ftp", "rtp", "async:http"])
def test_no_name_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A relative name with a server's address in it: nobody connects, and the name never reaches FFmpeg."""
    monkeypatch.chdir(tmp_path)
    opened, real = [], av.open

    def note(file: Any, *rest: Any, **more: Any) -> Any:
        opened.append(file)
        return real(file, *rest, **more)

    monkeypatch.setattr(av, "open", note)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        target = Path(f"{scheme}:/127.0.0.1:{server.getsockname()[1]}/v.mp4")
        write(target, yuv_frames(2), YUV)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert target.stat().st_size > 0
    assert opened
    assert all(isinstance(file.name, int) for file in opened)


@pytest.mark.parametrize("name", ["a" * 252 + ".mp4", "\u5b57" * 84 + ".mp4", "new/" + "a" * 300 + ".mp4"])
def test_a_name_that_is_too_long_is_found_before_any_work(tmp_path: Path, name: str) -> None:
    """Although the temporary name would fit."""
    with pytest.raises(OutputError, match="File name too long"):
        make(tmp_path / name).prepare()


def through_pipe(sink: VideoSink, pipe: Path, layout: FrameLayout, frames: np.ndarray[Any, Any]) -> Path:
    """Write to a pipe, and return the file with what its reader got."""
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    sink.prepare()
    copy = pipe.with_name("copy")
    with copy.open("wb") as out, subprocess.Popen(["cat"], stdin=reading, stdout=out):
        os.close(reading)
        try:
            sink.start(layout)
            for batch in batches(frames):
                sink.write(batch)
            sink.finish()
        finally:
            sink.abort()  # else the reader waits for ever after a failure
    return copy


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "y4m"])
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path, suffix: str) -> None:
    """Its reader gets a video that plays; mp4 without a second pass."""
    pipe = tmp_path / f"v.{suffix}"
    sink = make(pipe)
    copy = through_pipe(sink, pipe, YUV, yuv_frames(30))
    assert pipe.is_fifo()
    assert sink.num_bytes == copy.stat().st_size
    assert len(read(copy)) == 30


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A pipe without a reader, a socket, a terminal: told before any work."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    controller, terminal = os.openpty()
    (tmp_path / "tty.mp4").symlink_to(os.ttyname(terminal))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        for name, message in (
            ("pipe.mp4", "is a pipe that nobody reads: start its reader first"),
            ("socket.mp4", "is a socket"),
            ("tty.mp4", "is a terminal"),
        ):
            sink = make(tmp_path / name)
            with pytest.raises(OutputError, match=message):
                sink.prepare()
            assert sink.abort() is None
    os.close(controller)
    os.close(terminal)
    write(tmp_path / "null.mp4", yuv_frames(2), YUV)
    assert (tmp_path / "null.mp4").is_char_device()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_reader_that_leaves_is_told_apart(tmp_path: Path) -> None:
    """ffplay was closed: no error to show."""
    os.mkfifo(tmp_path / "v.mkv")
    reading = os.open(tmp_path / "v.mkv", os.O_RDONLY | os.O_NONBLOCK)
    sink = make(tmp_path / "v.mkv", codec="rawvideo")
    sink.prepare()
    os.close(reading)
    with pytest.raises(OutputClosed, match=r"v\.mkv: its reader has gone"):  # noqa: PT012
        sink.start(YUV)
        for batch in batches(yuv_frames(6)):
            sink.write(batch)
    assert sink.abort() is None


def boxes(path: Path) -> list[bytes]:
    """The names of an mp4's outermost boxes."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    return found


@pytest.mark.parametrize("suffix", ["mp4", "mov", "m4v"])
def test_the_index_is_in_front(tmp_path: Path, suffix: str) -> None:
    """A browser plays before it has everything."""
    write(tmp_path / f"v.{suffix}", yuv_frames(9), YUV)
    assert boxes(tmp_path / f"v.{suffix}").index(b"moov") == 1


@pytest.mark.parametrize(
    ("name", "live"), [("v.mp4", True), ("v.mov", True), ("v.mkv", True), ("v.mkv", False), ("v.ts", False)]
)
def test_a_file_plays_while_it_grows(tmp_path: Path, name: str, live: bool) -> None:
    """All but the last seconds of it, as after kill -9; live under its own name, replacing the old file."""
    (tmp_path / name).write_bytes(b"old")
    sink = make(tmp_path / name, live=live)
    sink.prepare()
    sink.start(YUV)
    for batch in batches(yuv_frames(150)):
        sink.write(batch)
    (growing,) = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")] or [tmp_path / name]
    assert (growing == tmp_path / name) == live
    assert 70 <= len(read(growing)) < 150
    sink.finish()
    assert len(read(tmp_path / name)) == 150
    with av.open(str(tmp_path / name)) as container:
        assert next(container.decode(video=0)).time == pytest.approx(container.start_time / 1e6, abs=1e-5)
        assert name == "v.ts" or container.start_time == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("layout", [YUV, DEEP], ids=["8 bits", "10 bits"])
def test_raw_video_names_its_colours(tmp_path: Path, layout: FrameLayout) -> None:
    """Stdout's Matroska: every bit of the frames, in BT.709, limited range, chroma in the centre."""
    frames = yuv_frames(7) if layout is YUV else deep_frames(7)
    raw = RAW if layout is YUV else LOSSLESS
    sink = VideoSink(tmp_path / "v", raw, layout.pixel_format, FPS, VideoOptions())
    copy = through_pipe(sink, tmp_path / "v", layout, frames)
    assert np.array_equal(read(copy, layout.pixel_format.value), frames)
    with av.open(copy) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
    assert b"\x55\xb7\x81\x02\x55\xb8\x81\x02" in copy.read_bytes()


@pytest.mark.parametrize(
    ("layout", "siting"), [(YUV, b" C420jpeg XYSCSS=420JPEG "), (DEEP, b" C420p10 XYSCSS=420P10 ")], ids=["8", "10"]
)
def test_y4m_holds_every_bit(tmp_path: Path, layout: FrameLayout, siting: bytes) -> None:
    """Its header names size, rate, range and, in 8 bits, siting: C420jpeg is chroma in the centre."""
    frames = yuv_frames(5) if layout is YUV else deep_frames(5)
    write(tmp_path / "v.y4m", frames, layout)
    assert np.array_equal(read(tmp_path / "v.y4m", layout.pixel_format.value), frames)
    header = (tmp_path / "v.y4m").read_bytes().split(b"\n")[0]
    assert header.startswith(b"YUV4MPEG2 W128 H96 F24000:1001 Ip ")
    assert siting in header
    assert b" XCOLORRANGE=LIMITED" in header


def test_the_name_appears_only_when_the_file_is_whole(tmp_path: Path) -> None:
    """Until then the old file is there, untouched."""
    target = tmp_path / "deep" / "v.mp4"
    target.parent.mkdir()
    target.write_bytes(b"old")
    sink = make(target)
    sink.prepare()
    sink.start(YUV)
    for batch in batches(yuv_frames(6)):
        sink.write(batch)
        assert target.read_bytes() == b"old"
    sink.finish()
    assert len(read(target)) == 6
    assert sink.abort() is None, "what is finished can't be aborted"


def test_folders_are_made(tmp_path: Path) -> None:
    """--out out/video.mp4 works in a fresh checkout."""
    write(tmp_path / "a" / "b" / "v.mp4", yuv_frames(1), YUV)
    assert (tmp_path / "a" / "b" / "v.mp4").exists()


def test_the_file_gets_the_usual_rights(tmp_path: Path) -> None:
    """As any program's file: what umask leaves."""
    previous = os.umask(0o027)
    try:
        write(tmp_path / "v.mp4", yuv_frames(1), YUV)
    finally:
        os.umask(previous)
    assert (tmp_path / "v.mp4").stat().st_mode & 0o777 == 0o640


def test_an_aborted_file_is_kept_and_plays(tmp_path: Path) -> None:
    """The frames so far are worth something; the target's name stays free."""
    sink = make(tmp_path / "v.mp4")
    sink.prepare()
    sink.start(YUV)
    for batch in batches(yuv_frames(6)):
        sink.write(batch)
    kept = sink.abort()
    assert kept is not None
    assert kept.name.startswith("v.mp4.")
    assert kept.name.endswith(".partial")
    assert len(read(kept)) == 6
    assert not (tmp_path / "v.mp4").exists()
    assert sink.abort() is None


def test_an_abort_before_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    """An empty file is worth nothing, whether the encoder was opened or not."""
    for started in (False, True):
        sink = make(tmp_path / "v.mp4")
        sink.prepare()
        if started:
            sink.start(YUV)
        assert sink.abort() is None
    assert not list(tmp_path.iterdir())


def test_a_sink_that_was_not_prepared_aborts(tmp_path: Path) -> None:
    """Nothing was made, nothing is kept."""
    assert make(tmp_path / "v.mp4").abort() is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_an_error_and_keeps_what_is_there(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The text says why; the target's name stays free; the partial file is named, and called kept if it plays."""
    target = tmp_path / f"v{suffix}"
    noise = np.random.default_rng(0).integers(16, 235, (60, HEIGHT * 3 // 2, WIDTH), np.uint8)
    sink = make(target)
    with largest_file(150_000):
        sink.prepare()
        sink.start(YUV)
        with pytest.raises(OutputError, match=os.strerror(errno.EFBIG)):  # noqa: PT012
            for batch in batches(noise):
                sink.write(batch)
            sink.finish()
        kept = sink.abort()
    (partial,) = tmp_path.iterdir()
    assert partial.stat().st_size == 150_000
    assert kept == (partial if suffix == ".mkv" else None)
    assert (f"{partial} has frames, but no index: players can't read it" in caplog.text) == (kept is None)
    assert not target.exists()


def test_an_unwritable_folder_is_found_before_any_work(tmp_path: Path) -> None:
    """A folder that can't be made, and a name that is a folder."""
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.mp4").mkdir()
    for target, message in (
        (tmp_path / "file" / "v.mp4", "file: a file is in its way"),
        (tmp_path / "file" / "deep" / "v.mp4", "file/deep: a file is in its way"),
        (tmp_path / "dir.mp4", r"dir\.mp4: is a directory"),
        (Path("/proc/none/v.mp4"), "/proc/none: No such file or directory"),
    ):
        with pytest.raises(OutputError, match=message):
            make(target).prepare()


def test_a_name_that_is_taken_meanwhile_is_an_error(tmp_path: Path) -> None:
    """The rename fails when a folder took the name; the frames are kept."""
    target = tmp_path / "v.mp4"
    sink = make(target)
    sink.prepare()
    sink.start(YUV)
    sink.write(batches(yuv_frames(3))[0])
    target.mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        sink.finish()
    kept = sink.abort()
    assert kept is not None
    assert len(read(kept)) == 3
