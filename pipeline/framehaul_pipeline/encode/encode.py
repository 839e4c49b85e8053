"""`pipeline encode`: a video in, a latent file out, chunk by chunk. Imports torch."""

from __future__ import annotations

import logging
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from framehaul_pipeline.encode.latent_file import LatentFileWriter, resolve_link
from framehaul_pipeline.encode.tiny_encoder import load_tiny_encoder
from framehaul_pipeline.encode.video_input import Excerpt, VideoInput
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY_SPEC

log = logging.getLogger(__name__)

CHUNK_LATENTS: Final = 2
"""Latents encoded together: more costs memory and gains little, since one frame already fills the cores."""
DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
REPORT_S: Final = 5.0


def encode(
    video: str,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    excerpt: Excerpt | None = None,
    device: str = "auto",
    dtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Encode a video into a latent file, which gets its name only when it is whole.

    Args:
        video: a file of any kind that FFmpeg reads; `-` for standard input.
        out: the latent file.
        size: width and height in pixels; None keeps the video's own.
        excerpt: the part to read; None for all of it.
        device: `auto`, `cpu` or `cuda`.
        dtype: of the arithmetic; None for float16 on a GPU and float32 on a CPU.
        overwrite: `out` may exist.

    Raises:
        InvalidInput: an option, the video or the target can't be used.
        OSError: the latent file can't be written.
    """
    _check_target(out, overwrite=overwrite)
    torch_device, torch_dtype = _placement(device, dtype)
    started = time.monotonic()
    group = TINY_SPEC.temporal_factor
    with ExitStack() as reading:
        reading.enter_context(_sigint_kills())
        source = reading.enter_context(VideoInput(video, size, excerpt or Excerpt()))
        encoder = load_tiny_encoder(torch_device, torch_dtype)
        state = encoder.open(source.height, source.width)
        shape = (
            TINY_SPEC.channels,
            source.height // TINY_SPEC.spatial_factor,
            source.width // TINY_SPEC.spatial_factor,
        )
        with LatentFileWriter(out, shape) as writer, _Progress(source.num_frames_hint) as progress:
            for chunk in source.chunks(CHUNK_LATENTS * group, group):
                frames = torch.from_numpy(chunk).to(torch_device).permute(0, 3, 1, 2)
                latents, state = encoder.step(frames.float() / 127.5 - 1, state)
                writer.write(_wire(latents))
                progress.add(len(chunk))
            reading.close()
            writer.finish(_notes(source))
    log.info(
        "%s: %d latents of %d frames, %dx%d at %s fps, %.1f MB, in %.1f s",
        out,
        writer.num_latents,
        source.num_frames,
        source.width,
        source.height,
        source.fps,
        out.stat().st_size / 1e6,
        time.monotonic() - started,
    )


def _notes(source: VideoInput) -> dict[str, str]:
    return {
        "framehaul.model": TINY_SPEC.name,
        "framehaul.layout": "TCHW",
        "framehaul.fps": f"{source.fps.numerator}/{source.fps.denominator}",
        "framehaul.frames": str(source.num_frames),
        "framehaul.normalized": "false",
    }


def _wire(latents: Tensor) -> bytes:
    """Little-endian float16 bytes of `[T, C, h, w]`."""
    return latents.half().cpu().contiguous().numpy().astype("<f2", copy=False).tobytes()


def _check_target(out: Path, *, overwrite: bool) -> None:
    try:
        if not resolve_link(out).parent.is_dir():
            raise InvalidInput("out", out, "in a folder that exists")
        kind = out.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidInput("out", out, f"a name that the file system takes ({error.strerror})") from error
    if not stat.S_ISREG(kind):
        raise InvalidInput("out", out, "a regular file, not a folder, a pipe or a device")
    if not overwrite:
        raise InvalidInput("out", out, "a new file, or use --overwrite")


@contextmanager
def _sigint_kills() -> Iterator[None]:
    """Let SIGINT end the process at once, unless somebody handles it: what isn't finished has no name yet.

    PyAV drops a `KeyboardInterrupt` that comes while it reads, and takes it for the end of the video.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _placement(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InvalidInput("device", "cuda", "cpu or auto: torch sees no CUDA device")
    on_cuda = device == "cuda" or (device == "auto" and has_cuda)
    return torch.device("cuda" if on_cuda else "cpu"), DTYPES[dtype or ("float16" if on_cuda else "float32")]


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
        if self._total:  # without those that fill the last latent
            num_frames = min(num_frames, self._total - self._done)
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
