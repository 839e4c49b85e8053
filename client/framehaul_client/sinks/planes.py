"""Copies frames that PyAV can't wrap into FFmpeg's own memory, plane by plane."""

from __future__ import annotations

import av
import numpy as np

from framehaul_client.core.frames import Pixels


def frame_of_planes(name: str, planes: list[Pixels]) -> av.VideoFrame:
    """Copy `planes`, each `[h, w]` and the first as large as the frame, into FFmpeg's planar format `name`."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, name)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(samples.shape[0], -1)  # longer than the samples
        rows[:, : samples.shape[1] * samples.itemsize] = samples.view(np.uint8)
    return frame


def planes_of_420(pixels: Pixels) -> list[Pixels]:
    """Views of the planes Y, U, V of a frame `[H * 3 / 2, W]`."""
    height, width = pixels.shape[0] * 2 // 3, pixels.shape[1]
    chroma = pixels[height:].reshape(2, height // 2, width // 2)
    return [pixels[:height], chroma[0], chroma[1]]
