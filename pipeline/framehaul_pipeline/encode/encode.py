"""`pipeline encode`: a video in, a latent file out, chunk by chunk. Imports torch."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from framehaul_pipeline.encode.latent_file import LatentFileWriter
from framehaul_pipeline.encode.tiny_encoder import load_tiny_encoder
from framehaul_pipeline.encode.video_input import Excerpt, VideoInput
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY_SPEC

log = logging.getLogger(__name__)

CHUNK_LATENTS: Final = 2
"""Latents encoded together: more costs memory and gains little, since one frame already fills the cores."""
DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
REPORT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What `pipeline encode` was asked for."""

    video: Path
    out: Path
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: the video's own."""
    excerpt: Excerpt = field(default_factory=Excerpt)
    device: str = "auto"
    dtype: str | None = None
    """None: float16 on a GPU, float32 on a CPU."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeResult:
    """What came of it."""

    num_latents: int
    height: int
    width: int
    fps: Fraction
    elapsed_s: float


def encode(options: EncodeOptions) -> EncodeResult:
    """Encode a video into a latent file, which gets its name only when it is whole.

    Raises:
        InvalidInput: an option, the video or the target can't be used.
        OSError: the latent file can't be written.
    """
    _check_target(options)
    device, dtype = _placement(options)
    started = time.monotonic()
    group = TINY_SPEC.temporal_factor
    with VideoInput(options.video, options.size, options.excerpt) as video:
        encoder = load_tiny_encoder(device, dtype)
        state = encoder.open(video.height, video.width)
        shape = (TINY_SPEC.channels, video.height // TINY_SPEC.spatial_factor, video.width // TINY_SPEC.spatial_factor)
        metadata = {
            "framehaul.model": TINY_SPEC.name,
            "framehaul.fps": f"{video.fps.numerator}/{video.fps.denominator}",
            "framehaul.normalized": "false",
        }
        with LatentFileWriter(options.out, shape, metadata) as writer, _Progress(video.num_frames_hint) as progress:
            for chunk in video.chunks(CHUNK_LATENTS * group, group):
                frames = torch.from_numpy(chunk).to(device).permute(0, 3, 1, 2)
                latents, state = encoder.step(frames.float() / 127.5 - 1, state)
                writer.write(_wire(latents))
                progress.add(len(chunk))
            writer.finish()
            count = writer.num_latents
    elapsed_s = time.monotonic() - started
    return EncodeResult(num_latents=count, height=video.height, width=video.width, fps=video.fps, elapsed_s=elapsed_s)


def _wire(latents: Tensor) -> bytes:
    """Little-endian float16 bytes of `[T, C, h, w]`."""
    return latents.half().cpu().contiguous().numpy().astype("<f2", copy=False).tobytes()


def _check_target(options: EncodeOptions) -> None:
    if not options.out.parent.is_dir():
        raise InvalidInput("out", options.out, "in a folder that exists")
    if options.out.is_dir():
        raise InvalidInput("out", options.out, "a file, not a folder")
    if options.out.exists() and not options.overwrite:
        raise InvalidInput("out", options.out, "a new file, or use --overwrite")


def _placement(options: EncodeOptions) -> tuple[torch.device, torch.dtype]:
    has_cuda = torch.cuda.is_available()
    if options.device == "cuda" and not has_cuda:
        raise InvalidInput("device", "cuda", "cpu or auto: torch sees no CUDA device")
    on_cuda = options.device == "cuda" or (options.device == "auto" and has_cuda)
    dtype = options.dtype or ("float16" if on_cuda else "float32")
    return torch.device("cuda" if on_cuda else "cpu"), DTYPES[dtype]


class _Progress:
    """A bar on a terminal; elsewhere a line of log now and then."""

    def __init__(self, num_frames: int | None) -> None:
        self._total, self._done = num_frames, 0
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_frames, unit="frame", file=sys.stderr)
        self._reported = time.monotonic()

    def add(self, num_frames: int) -> None:
        """Count frames encoded."""
        self._done += num_frames
        if self._bar is not None:
            self._bar.update(num_frames)
        elif time.monotonic() - self._reported > REPORT_S:
            self._reported = time.monotonic()
            log.info("%d of %s frames encoded", self._done, self._total or "an unknown number of")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
