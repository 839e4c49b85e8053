"""Small films with a product in them, and its picture."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

SIZE = (160, 90)


def product() -> NDArray[np.uint8]:
    """`[64, 64, 3]`: a red ring on yellow, with a blue bar."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    picture = np.full((64, 64, 3), (240, 220, 40), np.uint8)
    picture[(x**2 + y**2 < 0.8) & (x**2 + y**2 > 0.3)] = (220, 20, 30)
    picture[abs(y) < 0.12] = (20, 40, 200)
    return picture


def add_video(container: OutputContainer, codec: str, rate: int) -> VideoStream:
    """A new video stream."""
    stream = container.add_stream(codec, rate=rate)
    assert isinstance(stream, VideoStream)
    return stream


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream = add_video(container, "png", 1)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def frames(seconds: float, product_at: tuple[float, float], *, rate: int = 10, seed: int = 0) -> NDArray[np.uint8]:
    """Shots of 2 s of coloured noise that drifts; the product moves through those between two moments."""
    random = np.random.default_rng(seed)
    width, height = SIZE
    shown, scene = [], np.zeros((height, width, 3), np.uint8)
    for index in range(round(seconds * rate)):
        if index % (2 * rate) == 0:
            rough = random.integers(0, 255, (6, 10, 3), np.uint8)
            scene = np.kron(rough, np.ones((15, 16, 1), np.uint8))
        frame = np.roll(scene, index, axis=1)
        if product_at[0] <= index / rate < product_at[1]:
            left = 20 + index % rate * 5
            frame[13:77, left : left + 64] = product()
        shown.append(frame)
    return np.stack(shown)


def write_film(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    rate: int = 10,
    gop: int = 20,
    codec: str = "libx264",
    apart_s: float | None = None,
) -> Path:
    """Encode frames `[N, H, W, 3]`; `apart_s` is from one to the next, where it isn't by the rate."""
    with av.open(str(path), "w") as container:
        stream = add_video(container, codec, rate)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.time_base = Fraction(1, rate)
        for index, each in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(each, format="rgb24")
            frame.pts = round(index * rate * apart_s) if apart_s else index
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> None:
    """A file with a second of silence, and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        assert isinstance(stream, AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
