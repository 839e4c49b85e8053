"""The library's decoders by our engine, beside diffusers: seconds, arithmetic, error, memory; random weights.

`python -m bench.gpu_decoders [--decoders hunyuan-video autoencoder-kl] [--seconds 240] [--device cuda] [--toy]` writes
OUT/decoders.json and .md. Ours decodes as a warmed-up server does, and frames are thrown away on the device. What is
compiled comes last and is left out when the time is up.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers.utils import logging
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.budget import Budget, gpu_name
from bench.harness import Results, table
from bench.wan_contender import difference, matrix_flop_per_s
from framehaul_pipeline.decoders.base import Decoder, Preparing
from framehaul_pipeline.decoders.engine.convolution import open_plans
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry

Decode = Callable[[Tensor], Tensor]
"""Latents `[T, C, h, w]` to frames `[F, 3, H, W]`, both on the device."""

WAYS: Final = ("ours", "shipped", "compiled")
_BLOCKS: Final = 4
_ROUNDS: Final = 3
_ERROR_LATENTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A decoder at its published shape."""

    class_name: str
    config: dict[str, Any]
    latents: int
    """Of the clip that is timed."""


SUBJECTS: Final = {
    "hunyuan-video": Subject(class_name="AutoencoderKLHunyuanVideo", config={}, latents=21),
    "autoencoder-kl": Subject(
        class_name="AutoencoderKL",
        config={
            "latent_channels": 16,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "down_block_types": ("DownEncoderBlock2D",) * _BLOCKS,
            "up_block_types": ("UpDecoderBlock2D",) * _BLOCKS,
        },
        latents=16,
    ),
}
_HEADS: Final = ("", "seconds", "frames/s", "TFLOP/s", "of the matrix rate", "error", "peak, GB", "to be ready, s")
_TOY: Final = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}


class Bench:
    """One decoder, each way to run it."""

    def __init__(self, subject: Subject, folder: Path, given: argparse.Namespace) -> None:
        """Draw weights that are exact in bfloat16, and write them to `folder`."""
        self._folder = folder
        self._device = torch.device(given.device)
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._library: Any = getattr(diffusers, subject.class_name)
        self._config = subject.config | (_TOY if given.toy else {})
        self._rounds = 1 if given.toy else _ROUNDS
        self._num_latents = min(subject.latents, _ERROR_LATENTS) if given.toy else subject.latents
        torch.manual_seed(0)
        self._library(**self._config).to(torch.bfloat16).save_pretrained(folder)
        self._model = describe_model(f"{folder.name}={folder}")
        width, height = given.size
        factor = self._model.spec.spatial_factor
        shape = (self._num_latents, self._model.spec.channels, height // factor, width // factor)
        self._latents = torch.randn(shape, generator=torch.Generator().manual_seed(7)).bfloat16().to(self._device)

    def flop(self) -> float:
        """Arithmetic of the clip as the library does it, counted without doing it."""
        with torch.device("meta"):
            vae = self._library(**self._config).eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            library_frames(vae, self._latents.to("meta", torch.float32))
        return float(counter.get_total_flops())

    @contextmanager
    def reference(self) -> Iterator[Tensor]:
        """The first frames by the library in float32, without TF32."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.inference_mode():
            vae = self._load(torch.float32)
            frames = library_frames(vae, self._latents[:_ERROR_LATENTS].float())
        del vae
        _collect()
        yield frames

    def shipped(self) -> Decode:
        """Diffusers as a user loads it."""
        return partial(library_frames, self._load(self._dtype))

    def compiled(self) -> Decode:
        """Diffusers with channels last and `torch.compile`."""
        vae = self._load(self._dtype)
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in vae.parameters():
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
        vae.decoder.compile(dynamic=False)
        return partial(library_frames, vae)

    def ours(self) -> Decode:
        """Ours as a server has it when it has warmed up."""
        plans = open_plans(self._device, Heirloom.create())
        decoder = load_decoder(self._model, self._device, plans)
        if isinstance(decoder, Preparing):
            with decoder.preparing():
                decode_whole(decoder, self._latents[:_ERROR_LATENTS])
        return partial(decode_whole, decoder)

    def measure(self, load: Callable[[], Decode], reference: Tensor) -> dict[str, float]:
        """Seconds of the clip, memory beyond the weights, and the error of its beginning."""
        on_cuda = self._device.type == "cuda"
        with torch.inference_mode():
            started_s = time.perf_counter()
            decode = load()
            error = difference(decode(self._latents[:_ERROR_LATENTS].to(self._dtype)).float(), reference)
            self._run(decode)
            first_s = time.perf_counter() - started_s
            before = torch.cuda.memory_allocated() if on_cuda else 0
            if on_cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds = [self._run(decode) for _ in range(self._rounds)]
            peak = torch.cuda.max_memory_allocated() if on_cuda else 0
            reserved = torch.cuda.memory_reserved() if on_cuda else 0
        del decode
        _collect()
        return {
            "seconds": statistics.median(seconds),
            "spread": max(seconds) / min(seconds),
            "relative_error": error["relative"],
            "peak_bytes": float(peak - before),
            "reserved_bytes": float(reserved),
            "first_s": first_s,
        }

    def num_frames(self) -> int:
        """Of the clip."""
        return self._model.spec.num_frames(self._num_latents)

    def _run(self, decode: Decode) -> float:
        started_s = time.perf_counter()
        decode(self._latents.to(self._dtype))[-1, 0, 0, 0].item()
        return time.perf_counter() - started_s

    def _load(self, dtype: torch.dtype) -> Any:
        return self._library.from_pretrained(self._folder, torch_dtype=dtype).to(self._device).eval()


def library_frames(vae: Any, latents: Tensor) -> Tensor:
    """What the library decodes: a clip as one, pictures one by one."""
    if isinstance(vae, diffusers.AutoencoderKL):
        return torch.cat([vae.decode(latent, return_dict=False)[0] for latent in latents.split(1)])
    frames: Tensor = vae.decode(latents.transpose(0, 1)[None], return_dict=False)[0]
    return frames[0].transpose(0, 1)


def decode_whole(decoder: Decoder, latents: Tensor) -> Tensor:
    """Decode `[T, C, h, w]` in chunks as long as the decoder takes."""
    latents = latents.to(decoder.dtype)
    count, channels, height, width = latents.shape
    state, frames = decoder.open(Geometry(channels=channels, height=height, width=width), count), []
    taken = 0
    while taken < count:
        size = decoder.next_chunk(taken, count - taken, count - taken, ended=True)
        decoded, state = decoder.step(latents[taken : taken + size], state)
        frames.append(decoded.clone())
        taken += size
    rest = decoder.flush(state)
    return torch.cat(frames if rest is None else [*frames, rest])


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run(name: str, folder: Path, given: argparse.Namespace, results: Results) -> None:
    """Measure one decoder; each way that is done is in the results."""
    bench = Bench(SUBJECTS[name], folder, given)
    flop = bench.flop()
    rate = matrix_flop_per_s(bench._device) if given.device == "cuda" else math.nan
    figures = results.figures[name] = {"flop": flop, "matrix_flop_per_s": rate, "ways": {}}
    ways: dict[str, tuple[str, Callable[[], Decode]]] = {
        "ours": ("**Framehaul**", bench.ours),
        "shipped": ("diffusers as shipped", bench.shipped),
        "compiled": ("diffusers, channels last, `torch.compile`", bench.compiled),
    }
    num_frames, rows, said = bench.num_frames(), [], len(results.paragraphs)
    size = "x".join(map(str, given.size))
    intro = f"`{name}`, {num_frames} frames of {size}, {flop / 1e12:.3g} TFLOP as the library computes it:"
    with bench.reference() as reference:
        for way in given.ways:
            title, load = ways[way]
            each = figures["ways"][way] = bench.measure(load, reference)
            seconds = each["seconds"]
            print(f"{name}, {way}: {each}", flush=True)
            rows.append(
                (
                    title,
                    seconds,
                    num_frames / seconds,
                    flop / seconds / 1e12,
                    "-" if math.isnan(rate) else f"{flop / seconds / rate:.0%}",
                    f"{each['relative_error']:.1e}",
                    each["peak_bytes"] / 1e9,
                    each["first_s"],
                )
            )
            # Whole after each way: the next one may take more than the time that is left.
            results.paragraphs[said:] = [intro, table(_HEADS, rows)]
    print("\n\n".join(results.paragraphs[said:]) + "\n", flush=True)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> None:
    """Measure all that fits the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--decoders", nargs="+", default=tuple(SUBJECTS), choices=tuple(SUBJECTS))
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--size", type=_size, default=(832, 480), help="WIDTHxHEIGHT of frames")
    parser.add_argument("--seconds", type=float, default=240.0, help="for all; what doesn't fit is left out")
    parser.add_argument("--toy", action="store_true", help="narrow models and short clips, for a try on a CPU")
    given = parser.parse_args()
    logging.set_verbosity_error()
    budget = Budget(given.seconds, given.out)
    budget.watch()
    results = Results(name="decoders", title="The library's decoders: the decode alone", device=gpu_name(given.device))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        parts = [(name, partial(run, name, Path(folder) / name, given, results)) for name in given.decoders]
        budget.run(results, parts)


if __name__ == "__main__":
    main()
