import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameLayout
from framehaul_client.sinks.choice import choose_sink
from framehaul_client.sinks.video_options import VideoOptions
from tests.support.pictures import HEIGHT, WIDTH, batches, yuv_frames

RATE = 32000
CLICK_S = 1.25
FPS = Fraction(24)
NUM_FRAMES = 48
YUV = FrameLayout(pixel_format=PixelFormat.YUV420P, height=HEIGHT, width=WIDTH)


def track(folder: Path, seconds: float, suffix: str = "wav", channels: int = 2) -> Path:
    """Silence, with a click at `CLICK_S`."""
    samples = np.zeros((round(seconds * RATE), channels), "<i2")
    samples[round(CLICK_S * RATE) :][: RATE // 200] = 20000
    path = folder / "track.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    if suffix == "wav":
        return path
    other = folder / f"track.{suffix}"
    with av.open(str(path)) as source, av.open(str(other), "w") as container:
        stream = container.add_stream({"m4a": "aac", "flac": "flac", "mp3": "libmp3lame"}[suffix], rate=RATE)
        assert isinstance(stream, av.AudioStream)
        for frame in source.decode(audio=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return other


def write(out: Path, audio: Path, **options: Any) -> None:
    video = VideoOptions(audio=audio, **options)
    sink = choose_sink(str(out), PixelFormat.YUV420P, lambda: FPS, video)
    sink.prepare()
    sink.start(YUV, NUM_FRAMES)
    for batch in batches(yuv_frames(NUM_FRAMES)):
        sink.write(batch)
    sink.finish()


def sound(path: Path) -> tuple[str, float, float, float]:
    """Kind, first and last moment, and when the click is, in seconds of the video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        codec = container.streams.audio[0].codec_context.codec.canonical_name
    with av.open(str(path)) as container:
        zero = next(container.decode(video=0)).time or 0.0
    rate = frames[0].sample_rate
    samples = np.concatenate([abs(frame.to_ndarray().reshape(frame.samples, -1)[:, 0]) for frame in frames])
    if frames[0].format.is_planar:
        samples = np.concatenate([abs(frame.to_ndarray()[0]) for frame in frames])
    start = (frames[0].time or 0.0) - zero
    click = float(np.argmax(samples > 0.5 * samples.max()) / rate) if samples.any() else -1.0
    return codec, start, start + len(samples) / rate, start + click


@pytest.mark.parametrize(
    ("out", "suffix", "codec"),
    [
        ("v.mp4", "wav", "aac"),
        ("v.mp4", "m4a", "aac"),
        ("v.mp4", "mp3", "aac"),
        ("v.mp4", "flac", "aac"),
        ("v.mov", "wav", "pcm_s16le"),
        ("v.mkv", "flac", "flac"),
        ("v.mkv", "m4a", "aac"),
        ("v.webm", "wav", "opus"),
        ("v.ts", "wav", "aac"),
    ],
)
def test_sound_begins_with_the_video_and_ends_with_it(tmp_path: Path, out: str, suffix: str, codec: str) -> None:
    """As the container has it, in time with the frames, and no longer than they are but for the rest of a packet."""
    write(tmp_path / out, track(tmp_path, 3.0, suffix))
    found, start, end, click = sound(tmp_path / out)
    assert found == codec
    assert start == pytest.approx(0, abs=0.05)
    assert NUM_FRAMES / FPS - 0.03 <= end <= NUM_FRAMES / FPS + 0.07
    assert click == pytest.approx(CLICK_S, abs=0.005)


@pytest.mark.parametrize("out", ["v.mp4", "v.mkv", "v.webm"])
def test_sound_may_begin_within_the_track(tmp_path: Path, out: str) -> None:
    """For frames from the middle of a clip: to the sample, so it isn't copied."""
    write(tmp_path / out, track(tmp_path, 3.0), audio_start=Fraction(1, 2))
    _, start, end, click = sound(tmp_path / out)
    assert start == pytest.approx(0, abs=0.03)
    assert end == pytest.approx(float(NUM_FRAMES / FPS), abs=0.05)
    assert click == pytest.approx(CLICK_S - 0.5, abs=0.005)


@pytest.mark.parametrize(("out", "live"), [("v.mp4", False), ("v.mp4", True), ("v.mkv", False)])
def test_shorter_sound_leaves_every_frame(tmp_path: Path, out: str, live: bool) -> None:
    """The video goes on in silence."""
    write(tmp_path / out, track(tmp_path, 1.5), live=live)
    assert sound(tmp_path / out)[2] == pytest.approx(1.5, abs=0.03)
    with av.open(str(tmp_path / out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == NUM_FRAMES


@pytest.mark.parametrize(
    ("out", "options", "text"),
    [
        ("%d.png", {}, "must go into a video, not beside images"),
        ("v.y4m", {}, "yuv4mpegpipe video has no sound here: mp4, m4v"),
        ("-", {}, "matroska video has no sound here"),
        ("v.mp4", {"audio_start": Fraction(4)}, "ends after 3 s: the video begins at 4 s"),
        ("v.mp4", {"audio": "text"}, "Invalid data found"),
        ("v.mp4", {"audio": "gone"}, "No such file"),
        ("v.mp4", {"audio": "."}, "is a directory: must be a regular file"),
        ("v.mp4", {"audio": "list.m3u8"}, "Invalid data found"),
    ],
)
def test_sound_that_cant_be_is_told_at_once(tmp_path: Path, out: str, options: dict[str, Any], text: str) -> None:
    """Before a session is opened; the text names the file."""
    audio = track(tmp_path, 3.0)
    (tmp_path / "text").write_text("not sound")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:3,\n{audio}\n#EXT-X-ENDLIST\n")
    video = VideoOptions(
        **{"audio": audio, **options, **({"audio": tmp_path / options["audio"]} if "audio" in options else {})}
    )
    with pytest.raises(ValueError, match=f"^audio={video.audio}: .*{text}"):
        choose_sink(out if out == "-" else str(tmp_path / out), None, lambda: FPS, video)
