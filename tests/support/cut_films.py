"""Short films of any format, of which each frame can be told, and each moment of sound."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE, SOUND_RATE = 25, 48000
HEIGHT, WIDTH = 64, 96


def make_film(
    path: Path,
    codec: str = "libx264",
    *,
    num_frames: int = 100,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    sound: str | None = "aac",
    rotation: int = 0,
) -> Path:
    """Write one, with key frames 20 apart; its frames are grey, each in its own way, and its sound a rising tone."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, pix_fmt
        video.codec_context.gop_size = 20
        video.codec_context.color_range, video.codec_context.colorspace = 1, 1
        video.codec_context.options = options or {}
        if rotation:
            video.set_display_rotation(rotation)
        tone: Any = container.add_stream(sound, rate=SOUND_RATE) if sound else None
        for index in range(num_frames):
            rows = np.arange(HEIGHT)[:, None, None] * 2 + index
            pixels = np.broadcast_to(rows % 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if tone is not None:
            at = np.arange(num_frames * SOUND_RATE // RATE) / SOUND_RATE
            samples = (0.5 * np.sin(2 * np.pi * (200 + 100 * at) * at)).astype(np.float32)
            for start in range(0, len(samples), 960):
                part = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    """All of them, as they are decoded."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def times_of(path: Path) -> list[float]:
    """When each is shown."""
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


def sound_of(path: Path) -> tuple[float, np.ndarray[Any, Any]]:
    """When it begins, and its samples."""
    with av.open(str(path)) as container:
        parts = [(float(frame.time or 0), frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    return parts[0][0], np.concatenate([part for _, part in parts])
