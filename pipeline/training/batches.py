"""Feeds training: batches of film crops and synthetic clips, made on a stream of their own while a step runs."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from training.media import Bank, resize
from training.synthesis import Dice, Scenes, change_colours

FILM_SHARE: Final = 0.45
MAX_NOISE: Final = 0.08
"""Most standard deviation of the noise laid over latents."""
SMALL_HEIGHT, SMALL_WIDTH = 304, 540


class FilmCrops:
    """Random crops of the film, in two sizes, turned and reversed."""

    def __init__(self, windows: Tensor, dice: Dice) -> None:
        """Take windows `[N, F, 3, H, W] uint8` to `dice`'s device."""
        n, frames = windows.shape[:2]
        large = windows.to(dice.device)
        small = torch.cat([resize(window, SMALL_HEIGHT, SMALL_WIDTH) for window in large])
        self._sizes = [large, small.view(n, frames, *small.shape[1:])]

    def make(self, n: int, frames: int, size: int) -> Tensor:
        """`n` clips `[n, frames, 3, size, size]` in [0, 1]."""
        clips = []
        for _ in range(n):
            windows = random.choices(self._sizes, (5, 2))[0]
            stride = random.choice((1, 1, 1, 2))
            length = (frames - 1) * stride + 1
            index, start = random.randrange(len(windows)), random.randrange(windows.shape[1] - length + 1)
            y, x = (random.randrange(side - size + 1) for side in windows.shape[3:])
            clip = windows[index, start : start + length : stride, :, y : y + size, x : x + size]
            if random.random() < 0.5:
                clip = clip.flip(3)
            if random.random() < 0.15:
                clip = clip.transpose(2, 3)
            if random.random() < 0.3:
                clip = clip.flip(0)
            clips.append(clip)
        return torch.stack(clips).float() / 255


class Feeder:
    """Makes the next batch while the current one is trained on."""

    def __init__(self, film: FilmCrops, bank: Bank, dice: Dice, *, batch: int, frames: int, size: int) -> None:
        """Allocate `frames` and `noise`, the tensors that a step reads."""
        device = dice.device
        self._film, self._dice, self._scenes = film, dice, Scenes(bank, size, frames, dice)
        self.batch = batch
        self._num_frames, self._size = frames, size
        self.frames = torch.zeros(frames * batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
        self.noise = torch.zeros(frames // 4 * batch, 16, size // 8, size // 8, device=device)
        self._next_frames, self._next_noise = torch.zeros_like(self.frames), torch.zeros_like(self.noise)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._fill()

    def advance(self) -> None:
        """Put the prepared batch where the step reads it, and start on the following one."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        self.frames.copy_(self._next_frames)
        self.noise.copy_(self._next_noise)
        if self._stream is not None:
            # Only the copies just queued must be over, not the step that the caller queues next.
            self._stream.wait_stream(torch.cuda.current_stream())
        self._fill()

    @torch.no_grad()
    def _fill(self) -> None:
        stream: Any = torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()
        with stream:
            num_film = round(self.batch * FILM_SHARE)
            made = self._scenes.make(self.batch - num_film)
            clips = torch.cat([made, self._film.make(num_film, self._num_frames, self._size)])
            clips = change_colours(clips, self._dice)
            clips = clips[torch.randperm(len(clips), device=clips.device)] * 2 - 1
            self._next_frames.copy_(clips.transpose(0, 1).flatten(0, 1))
            steps = self._num_frames // 4
            sigma = self._dice.uniform(1, self.batch, 1, 1, 1) * MAX_NOISE
            noise = self._dice.normal(steps, self.batch, *self.noise.shape[1:]) * sigma
            self._next_noise.copy_(noise.flatten(0, 1))
