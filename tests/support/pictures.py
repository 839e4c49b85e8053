"""Frames to write, smooth enough to survive an encoder, and a disk that is too small for them."""

import contextlib
import io
import resource
import signal
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from framehaul_client.core.frames import FrameBatch

HEIGHT, WIDTH = 96, 128


def rgb_frames(num_frames: int) -> np.ndarray[Any, Any]:
    """Moving colour gradients, `[N, H, W, 3] uint8`."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    frames = []
    for index in range(num_frames):
        red = 127 + 100 * np.sin(x / 20 + index / 4)
        green = 127 + 100 * np.sin(y / 15 - index / 5)
        blue = 127 + 100 * np.sin((x + y) / 25 + index / 6)
        frames.append(np.stack([red, green, blue], axis=-1))
    return np.stack(frames).astype(np.uint8)


def yuv_frames(num_frames: int) -> np.ndarray[Any, Any]:
    """The same pictures by the written formula of BT.709 limited, chroma as 2x2 means, `[N, H * 3 / 2, W] uint8`."""
    rgb = rgb_frames(num_frames).astype(np.float64) / 127.5 - 1
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = [np.floor(125.5 + 109.5 * luma + 0.5).reshape(num_frames, -1)]
    small = rgb.reshape(num_frames, HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(2, 4))
    small_luma = 0.2126 * small[..., 0] + 0.7152 * small[..., 1] + 0.0722 * small[..., 2]
    planes.append(np.floor(128 + 112 * (small[..., 2] - small_luma) / 1.8556 + 0.5).reshape(num_frames, -1))
    planes.append(np.floor(128 + 112 * (small[..., 0] - small_luma) / 1.5748 + 0.5).reshape(num_frames, -1))
    return np.concatenate(planes, axis=1).astype(np.uint8).reshape(num_frames, HEIGHT * 3 // 2, WIDTH)


def deep_frames(num_frames: int) -> np.ndarray[Any, Any]:
    """Those in 10 bits, with levels between those of 8: `[N, H * 3 / 2, W] uint16`."""
    y, x = np.mgrid[0 : HEIGHT * 3 // 2, 0:WIDTH]
    deep: np.ndarray[Any, Any] = (yuv_frames(num_frames).astype(np.uint16) * 4 + (x + y) % 4).astype("<u2")
    return deep


def half_frames(num_frames: int) -> np.ndarray[Any, Any]:
    """Planes G, B, R of half floats in 0..1, among them the very small ones: `[N, 3, H, W] float16`."""
    noise = np.random.default_rng(5).random((num_frames, 3, HEIGHT, WIDTH))
    noise[:, :, :20] **= 8
    noise[:, :, -1, :3] = (0.0, 1.0, 2.0**-24)
    return noise.astype("<f2")


def batches(frames: np.ndarray[Any, Any], size: int = 3) -> list[FrameBatch]:
    """The frames as they would arrive: read-only views of messages."""
    found = []
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        found.append(FrameBatch(start, np.frombuffer(part.tobytes(), part.dtype).reshape(part.shape)))
    return found


def psnr(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Peak signal to noise, dB."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let this process's files grow no further: a full disk, without one."""
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, previous[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)


def read_jpeg(jpeg: bytes) -> np.ndarray[Any, Any]:
    """`[H, W, 3] uint8`."""
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        assert isinstance(container, InputContainer)
        return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
