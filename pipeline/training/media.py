"""Loads the media folder that `training.prepare` made: film windows and tiles of textures, on one device."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.sources import PHOTOS
from training.textures import TILE, noise_tiles, text_tiles

HEIGHT, WIDTH = 480, 854
"""Size of the film's windows in pixels."""
TRAIN_SEED, TEST_SEED = 7, 99


def read_film(folder: Path, split: str) -> Tensor:
    """Windows of the film, `[N, window_frames, 3, 480, 854] uint8`; `split` is `train` or `test`."""
    summary = json.loads((folder / "film.json").read_text())
    num_windows, num_frames = len(summary["starts_s"][split]), summary["window_frames"]
    frames = torch.empty(num_windows * num_frames, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    index = 0
    for index, pixels in enumerate(_read_video(folder / f"film-{split}.mp4")):
        frames[index] = torch.from_numpy(pixels)
    if index + 1 != len(frames):
        raise ValueError(f"film-{split}.mp4 has {index + 1} frames: must be {len(frames)}, prepare the media again")
    return frames.view(num_windows, num_frames, HEIGHT, WIDTH, 3).permute(0, 1, 4, 2, 3)


def _read_video(path: Path) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Yield frames `[H, W, 3] uint8`; with OpenCV where PyAV is missing."""
    try:
        import av
    except ImportError:
        yield from _read_video_opencv(path)
        return
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _read_video_opencv(path: Path) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    import cv2  # type: ignore[import-not-found, unused-ignore]

    capture = cv2.VideoCapture(str(path))
    while True:
        more, frame = capture.read()
        if not more:
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def read_photos(folder: Path, *, held_out: bool) -> dict[str, Tensor]:
    """Photographs by name, `[3, H, W] uint8`: those held out, or all the others."""
    photos = {}
    for photo in PHOTOS:
        if photo.held_out == held_out:
            with Image.open(folder / "photos" / f"{photo.name}.jpg") as image:
                photos[photo.name] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return photos


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bicubic resize, `uint8 [N, 3, H, W]` to `uint8 [N, 3, height, width]`."""
    chunks = [
        functional.interpolate(chunk.float(), (height, width), mode="bicubic", antialias=True)
        for chunk in frames.split(16)
    ]
    return torch.cat([chunk.clamp(0, 255).round().byte() for chunk in chunks])


def photo_tiles(photo: Tensor) -> list[Tensor]:
    """Cut a photograph, as it is and at half size, into `[3, TILE, TILE] uint8`, reflected where it is smaller."""
    tiles = []
    for scale in (1.0, 0.5):
        height, width = (round(side * scale) for side in photo.shape[1:])
        if scale < 1 and max(height, width) < 300:
            continue
        picture = resize(photo[None], height, width)
        tiles += [
            _pad(picture[:, :, y : y + TILE, x : x + TILE].float())[0].byte()
            for y in _offsets(height)
            for x in _offsets(width)
        ]
    return tiles


def _offsets(side: int) -> list[int]:
    if side <= TILE:
        return [0]
    return [int(offset) for offset in np.linspace(0, side - TILE, math.ceil(side / TILE))]


def _pad(tile: Tensor) -> Tensor:
    # Reflection pads by less than the side, so a small picture takes several rounds.
    while min(tile.shape[2:]) < TILE:
        height, width = tile.shape[2:]
        right, bottom = min(TILE - width, width - 1), min(TILE - height, height - 1)
        tile = functional.pad(tile, (0, right, 0, bottom), mode="reflect")
    return tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """Texture tiles on the device; photographs first, then text, then noise."""

    tiles: Tensor
    """`[N, 3, TILE, TILE] uint8`."""
    counts: tuple[int, int, int]

    @classmethod
    def load(cls, folder: Path, device: torch.device, *, test: bool, num_made: int) -> Bank:
        """Tiles to train on, or (`test`) text and noise that training never sees; `num_made` of each of those."""
        photos = {} if test else read_photos(folder, held_out=False)
        real = [tile for photo in photos.values() for tile in photo_tiles(photo)]
        seed = TEST_SEED if test else TRAIN_SEED
        text = text_tiles(num_made, seed)
        noise = noise_tiles(num_made, torch.Generator(device).manual_seed(seed))
        return cls(tiles=torch.stack(real + text + noise).to(device), counts=(len(real), len(text), len(noise)))
