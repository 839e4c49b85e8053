"""`pipeline encode`: a video of any length in, a latent file out."""

import errno
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import av
import numpy as np
import pytest
import torch
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from framehaul_pipeline.encode.cli import main
from framehaul_pipeline.encode.latent_file import LatentFileWriter
from framehaul_pipeline.encode.tiny_encoder import load_tiny_encoder
from framehaul_pipeline.encode.video_input import Excerpt, VideoInput, _not_applied
from framehaul_pipeline.errors import InvalidInput


def make_video(path: Path, count: int, width: int = 64, height: int = 48, rate: Fraction = Fraction(24)) -> Path:
    """A lossless video whose frame `i` has the red level `2 * i`, over a ramp."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        ramp = np.linspace(0, 255, width, dtype=np.uint8)
        for index in range(count):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[..., 0], pixels[..., 1] = 2 * index % 256, ramp
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read(path: Path, excerpt: Excerpt, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    with VideoInput(str(path), size, excerpt) as video:
        return np.concatenate([chunk.copy() for chunk in video.chunks(8, 4)])


def latents_of(path: Path) -> tuple[Tensor, dict[str, str]]:
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents"), file.metadata()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "clip.mkv", 22, rate=Fraction(24000, 1001))


def test_latents_are_those_of_the_whole_clip(video: Path, tmp_path: Path) -> None:
    """Encoded as a stream; the last group of four is filled up with the last frame."""
    out = tmp_path / "clip.safetensors"
    assert main(["encode", str(video), "--out", str(out), "--device", "cpu"]) == 0
    latents, metadata = latents_of(out)
    assert metadata == {
        "framehaul.model": "tiny",
        "framehaul.layout": "TCHW",
        "framehaul.fps": "24000/1001",
        "framehaul.frames": "22",
        "framehaul.normalized": "false",
    }
    assert latents.dtype == torch.float16
    frames = torch.from_numpy(read(video, Excerpt()))
    assert len(frames) == 24
    assert torch.equal(frames[21], frames[23])
    encoder = load_tiny_encoder(torch.device("cpu"), torch.float32)
    whole, _ = encoder.step(frames.permute(0, 3, 1, 2).float() / 127.5 - 1, encoder.open(48, 64))
    assert latents.shape == (6, 16, 6, 8)
    torch.testing.assert_close(latents.float(), whole, rtol=1e-3, atol=2e-3)


def test_size_scales_and_crops(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.safetensors"
    arguments = ["--size", "40x24", "--max-frames", "4", "--device", "cpu", "--dtype", "bfloat16"]
    assert main(["encode", str(video), "--out", str(out), *arguments]) == 0
    assert latents_of(out)[0].shape == (1, 16, 3, 5)


def test_frames_are_cropped_to_a_multiple_of_eight(tmp_path: Path) -> None:
    path = make_video(tmp_path / "odd.mkv", 2, width=70, height=53)
    assert read(path, Excerpt()).shape == (4, 48, 64, 3)


def test_scaling_keeps_the_shape_of_things(tmp_path: Path) -> None:
    """A wide video made square loses its sides, and is not squeezed: the ramp keeps its middle part."""
    path = make_video(tmp_path / "wide.mkv", 1, width=128, height=64)
    ramp = read(path, Excerpt(), (64, 64))[0, 32, :, 1].astype(int)
    assert abs(ramp[0] - 64) < 8
    assert abs(ramp[-1] - 191) < 8


def test_video_recorded_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    """A telephone's file: stored wide, with a matrix that says which way is up."""
    path = tmp_path / "side.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[:, :48] = 255  # the left half is white
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    header = content.index(b"tkhd")
    assert upright in content[header:]
    path.write_bytes(content[:header] + content[header:].replace(upright, clockwise, 1))
    frame = read(path, Excerpt())[0]
    assert frame.shape == (96, 64, 3)
    assert frame[:40].mean() > 220  # turned clockwise, left is up
    assert frame[56:].mean() < 30


@pytest.mark.parametrize(("height", "colorspace", "red"), [(64, 2, 235), (720, 2, 250), (720, 5, 235), (64, 1, 250)])
def test_untagged_high_definition_is_bt709(tmp_path: Path, height: int, colorspace: int, red: int) -> None:
    path = tmp_path / "flat.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        stream.codec_context.colorspace = colorspace
        frame = av.VideoFrame(64, height, "yuv420p")
        for plane, level in zip(frame.planes, (120, 90, 200), strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        frame.colorspace = colorspace
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(int(read(path, Excerpt())[0, 8, 8, 0]) - red) <= 1


@pytest.mark.parametrize(
    ("excerpt", "first", "count"),
    [
        (Excerpt(), 0, 22),
        (Excerpt(max_frames=5), 0, 5),
        (Excerpt(start_s=10 * 1001 / 24000), 10, 12),
        (Excerpt(start_s=10 * 1001 / 24000, duration_s=6 * 1001 / 24000), 10, 6),
        (Excerpt(duration_s=100.0), 0, 22),
    ],
)
def test_excerpt_holds_the_frames_asked_for(video: Path, excerpt: Excerpt, first: int, count: int) -> None:
    reds = read(video, excerpt)[:, 0, 0, 0]
    assert list(reds[:count]) == [2 * (first + i) for i in range(count)]
    assert len(reds) == count + -count % 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "63x48"], "multiple of 8"),
        (["--start", "-1"], "0 or more"),
        (["--start", "nan"], "0 or more"),
        (["--start", "99"], "a video with frames"),
        (["--duration", "0"], "more than 0"),
        (["--max-frames", "0"], "1 or more"),
    ],
)
def test_bad_options_are_refused(
    video: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", str(video), "--out", str(tmp_path / "x.safetensors"), "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["encode", "clip.mp4", "--out", str(tmp_path / "x.safetensors"), "--size", "0x48"])
    assert "'0x48': must be WIDTHxHEIGHT in pixels" in capsys.readouterr().err


def test_what_is_no_video_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "clip.mp4"
    text.write_text("no video")
    for name in (text, tmp_path / "missing.mp4", tmp_path):
        assert main(["encode", str(name), "--out", str(tmp_path / "x.safetensors")]) == 2
        assert "must be a readable video file" in capsys.readouterr().err


NAMES = ["12:30:00.mkv", "file:x.mkv", "concat:a|b", "pipe:0", "~", "100% %d.mkv", "%03d.mkv", "v" * 251 + ".mkv", "-"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_name(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In and out, whatever FFmpeg, a shell or a pattern makes of it elsewhere. A lone `-` is standard input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(video.read_bytes())
    given = "./-" if name == "-" else name
    assert main(["encode", given, "--out", "whole", "--max-frames", "4", "--device", "cpu"]) == 0
    out = f"./{name}"
    assert main(["encode", "./" + name, "--out", out, "--overwrite", "--max-frames", "4", "--device", "cpu"]) == 0
    assert (tmp_path / name).read_bytes() == Path("whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])


def test_name_that_is_not_utf8_is_a_name(video: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mkv")
    Path(name).write_bytes(video.read_bytes())
    assert read(Path(name), Excerpt(max_frames=4)).shape[0] == 4


def test_home_is_expanded_after_an_equals_sign(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["encode", str(video), "--out=~/x.safetensors", "--max-frames", "4", "--device", "cpu"]) == 0
    assert latents_of(tmp_path / "x.safetensors")[0].shape[0] == 1


def test_name_too_long_is_refused_before_any_work(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", str(video), "--out", str(tmp_path / ("v" * 256))]) == 2
    assert "a name that the file system takes (File name too long)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("http:/127.0.0.1:{port}/x.mkv", None),
        ("tcp://127.0.0.1:{port}", None),
        ("http://127.0.0.1:{port}/%d.png", None),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile 'tcp://127.0.0.1:{port}'\n"),
    ],
)
def test_neither_a_name_nor_a_playlist_opens_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("an address is looked up"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if content is not None:
            Path(name).write_text(content.format(port=port))
        assert main(["encode", name.format(port=port), "--out", "x.safetensors", "--device", "cpu"]) == 2
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_numbered_pictures_are_a_video(tmp_path: Path) -> None:
    for index in range(3):
        with av.open(str(tmp_path / f"{index}.png"), "w", format="image2") as container:
            stream = container.add_stream("png", rate=24)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
            pixels = np.full((48, 64, 3), 10 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    assert list(read(tmp_path / "%d.png", Excerpt())[:, 0, 0, 0]) == [0, 10, 20, 20]
    (tmp_path / "2.png").rename(tmp_path / "%d.png")
    assert list(read(tmp_path / "%d.png", Excerpt())[:, 0, 0, 0]) == [20] * 4


def piped(video: Path, path: Path, container: str, codec: str) -> Path:
    """The clip again, in a container that can be read from a pipe."""
    with av.open(str(video)) as source, av.open(str(path), "w", format=container) as target:
        stream = target.add_stream(codec, rate=24)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
        target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "mpeg4"), ("mpegts", "mpeg2video"), ("yuv4mpegpipe", "wrapped_avframe")]
)
@pytest.mark.parametrize("name", ["-", "fifo"])
def test_pipe_is_read_as_the_file_is(video: Path, tmp_path: Path, container: str, codec: str, name: str) -> None:
    """With `--start` too, though there is no way back in a pipe."""
    path = piped(video, tmp_path / "clip", container, codec)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(fifo.write_bytes, path.read_bytes())
        if name == "-":
            own, pipe = os.dup(0), os.open(fifo, os.O_RDONLY)
            os.dup2(pipe, 0)
            try:
                frames = read(Path("-"), Excerpt(start_s=0.25))
            finally:
                os.dup2(own, 0)
                os.close(own)
                os.close(pipe)
        else:
            frames = read(fifo, Excerpt(start_s=0.25))
        written.result()
    assert np.array_equal(frames, read(path, Excerpt(start_s=0.25)))
    assert len(frames) == 16


def test_interrupt_ends_the_wait_for_a_pipe(tmp_path: Path) -> None:
    """While it waits for bytes, SIGINT is heard, and nothing is left."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "framehaul_pipeline.encode.cli", "encode", str(fifo), "--out", f"{tmp_path}/x"]
    with subprocess.Popen(command) as running, open(fifo, "wb"):
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == -signal.SIGINT
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_pipe_under_the_outputs_name_is_kept(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overwrite: list[str]
) -> None:
    out = tmp_path / "x.safetensors"
    os.mkfifo(out)
    assert main(["encode", str(video), "--out", str(out), *overwrite]) == 2
    assert "a regular file, not a folder, a pipe or a device" in capsys.readouterr().err
    assert out.is_fifo()


def test_an_output_link_is_followed_or_refused_before_any_work(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is missing where it leads is missing; a loop leads nowhere."""
    for name, leads_to, message in (
        ("a", "missing/x.safetensors", "in a folder that exists"),
        ("b", "b", "Too many levels of symbolic links"),
    ):
        (tmp_path / name).symlink_to(leads_to)
        assert main(["encode", str(video), "--out", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / name).is_symlink()
    (tmp_path / "c").symlink_to("x.safetensors")
    assert main(["encode", str(video), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c").is_symlink()
    assert (tmp_path / "x.safetensors").is_file()


def test_damaged_video_leaves_no_file(video: Path, tmp_path: Path) -> None:
    """Half the bytes of a clip are half a clip or an error, never a half-written latent file."""
    half = tmp_path / "half.mkv"
    half.write_bytes(video.read_bytes()[:300])
    assert main(["encode", str(half), "--out", str(tmp_path / "x.safetensors"), "--device", "cpu"]) == 2
    assert list(tmp_path.iterdir()) == [half]


def test_existing_target_is_kept_unless_asked(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip.safetensors"
    out.write_bytes(b"mine")
    arguments = ["encode", str(video), "--out", str(out), "--max-frames", "4", "--device", "cpu"]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert latents_of(out)[0].shape[0] == 1


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 6, "x.safetensors: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
    ],
)
def test_exit_codes_are_those_of_the_client(
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(LatentFileWriter, "finish", fail)
    out = tmp_path / "x.safetensors"
    assert main(["encode", str(video), "--out", str(out), "--max-frames", "4", "--device", "cpu"]) == code
    assert text in capsys.readouterr().err


def test_no_more_frames_are_told_than_there_are(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last latent may be filled up with the last frame."""
    monkeypatch.setattr("framehaul_pipeline.encode.encode.REPORT_S", -1.0)
    out = str(tmp_path / "x.safetensors")
    with caplog.at_level(logging.INFO):
        assert main(["encode", str(video), "--out", out, "--max-frames", "11", "--device", "cpu"]) == 0
    assert "11 of 11 frames encoded" in caplog.messages


def test_missing_folder_is_refused(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(video), "--out", str(tmp_path / "none" / "x.safetensors")]) == 2
    assert "folder that exists" in capsys.readouterr().err


def test_cuda_without_a_device_is_refused(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["encode", str(video), "--out", str(tmp_path / "x.safetensors"), "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_closing_twice_is_fine(video: Path) -> None:
    source = VideoInput(str(video), None, Excerpt())
    source.close()
    source.close()


def test_excerpt_refuses_nonsense() -> None:
    with pytest.raises(InvalidInput, match="start"):
        Excerpt(start_s=float("inf"))


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from framehaul_pipeline.encode import encode as module

class Encoder:
    def open(self, height, width):
        return []

    def step(self, frames, state):
        return torch.zeros(len(frames) // 4, 16, frames.shape[2] // 8, frames.shape[3] // 8), state

module.load_tiny_encoder = lambda device, dtype: Encoder()
peaks = []
for name in sys.argv[1:]:
    module.encode(name, Path(name + ".safetensors"), device="cpu")
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Ten times the frames, 115 MB of them, add less than 24 MB to the peak."""
    short = make_video(tmp_path / "short.mkv", 50, width=320, height=240)
    long = make_video(tmp_path / "long.mkv", 500, width=320, height=240)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(short), str(long)], capture_output=True, text=True, check=True, timeout=100
    )
    first_mb, second_mb = (int(value) for value in done.stdout.split())
    assert latents_of(Path(f"{long}.safetensors"))[0].shape == (125, 16, 30, 40)
    assert second_mb - first_mb < 24


def test_cropping_that_is_not_applied_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Matroska's PixelCropTop and PixelCropLeft, put where the duration of a frame was."""
    plain = make_video(tmp_path / "plain.mkv", 2).read_bytes()
    at = plain.index(bytes.fromhex("23e38384"))
    video = plain.index(b"\xe0", at + 8)
    assert video == at + 8
    fields_at = video + 2
    num_bytes = plain[video + 1] & 0x7F
    cropped = bytes([0xE0, 0x80 | num_bytes + 8]) + bytes.fromhex("54bb811054cc8108")
    path = tmp_path / "cropped.mkv"
    path.write_bytes(plain[:at] + cropped + plain[fields_at:])
    assert read(path, Excerpt()).shape == (4, 48, 64, 3)
    assert [line for line in caplog.messages if "crop" in line] == [
        f"{path}: the cropping in its container (8 pixels left, 0 right, 16 above, 0 below) is not applied"
    ]


@pytest.mark.parametrize(
    ("kind", "said"), [("DYNAMIC_HDR_PLUS", "HDR10+"), ("DYNAMIC_HDR_VIVID", "HDR Vivid"), ("DOVI_METADATA", "Dolby")]
)
def test_metadata_of_the_range_that_is_left_out_is_said(video: Path, kind: str, said: str) -> None:
    """In the names of PyAV's side data."""
    assert kind in SideDataType.__members__
    with av.open(str(video)) as container:
        frame = cast("av.VideoFrame", SimpleNamespace(side_data={kind: object()}))
        (text,) = _not_applied(container, container.streams.video[0], frame)
    assert said in text
