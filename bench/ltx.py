"""LTX's decode alone, with random weights at the published sizes, beside the library's own: `python -m bench.ltx`.

Seconds of a clip that is decoded and thrown away, its first frame, the memory that it takes beyond the weights, and the
error against the library in float32; by the latents of a chunk.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import diffusers
import torch
from torch import Tensor

from bench.harness import Results, table
from framehaul_pipeline.decoders.ltx import LtxDecoder
from framehaul_pipeline.models.ltx import LTX_2, LTX_VIDEO, ltx_spec, parse_ltx_config
from framehaul_pipeline.spec import Geometry

_HALVING: Final[dict[str, Any]] = {
    "decoder_block_out_channels": [256, 512, 1024],
    "decoder_layers_per_block": [5, 5, 5, 5],
    "decoder_spatio_temporal_scaling": [True] * 3,
    "decoder_inject_noise": [False] * 4,
    "upsample_residual": [True] * 3,
    "upsample_factor": [2, 2, 2],
}
_MODELS: Final[dict[str, dict[str, Any]]] = {
    "LTX-Video 0.9.0": {"_class_name": LTX_VIDEO},
    "LTX-2": {"_class_name": LTX_2, "decoder_causal": False, **_HALVING},
}
_CHUNKS: Final = (1, 2, 4, 8)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all models and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="768x512")
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--narrow", type=int, default=1, help="divide all widths by this, for a try without a GPU")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(options.device)
    results = Results(name="ltx", title="LTX: the decode alone", device=options.device)
    rows = []
    for name, config in _MODELS.items():
        for how, figures in _measure(config, device, options).items():
            results.figures[f"{name}, {how}"] = figures
            rows.append((name, how, *(f"{value:.4g}" for value in figures.values())))
    results.say(f"{8 * options.latents - 7} frames of {options.size}, decoded and thrown away on the device.")
    results.say(table(("model", "decode", "seconds", "first frame, s", "GiB beyond weights", "error"), rows))
    results.write(options.out)


@torch.inference_mode()
def _measure(fields: dict[str, Any], device: torch.device, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    if options.narrow > 1:
        widths = fields.get("decoder_block_out_channels", [128, 256, 512, 512])
        fields = fields | {"decoder_block_out_channels": [width // options.narrow for width in widths]}
    config = parse_ltx_config(fields)
    torch.manual_seed(0)
    with device:
        vae = getattr(diffusers, config.class_name).from_config(config.library).eval()
    vae.encoder = None
    width, height = map(int, options.size.split("x"))
    latents = torch.randn(options.latents, config.latent_channels, height // 32, width // 32, device=device)
    expected = vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    decoder = LtxDecoder(ltx_spec("ltx", config), vae, config, device)
    vae.to(decoder.dtype)
    latents = latents.to(decoder.dtype)
    library = {
        "library": _timed(lambda: [vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)], expected)
    }
    return library | {
        f"{count} a chunk": _timed(lambda count=count: _chunks(decoder, latents, count), expected)  # type: ignore[misc]
        for count in _CHUNKS
    }


def _chunks(decoder: LtxDecoder, latents: Tensor, count: int) -> Any:
    geometry = Geometry(channels=latents.shape[1], height=latents.shape[2], width=latents.shape[3])
    state = decoder.open(geometry, None)
    for part in latents.split(count):
        frames, state = decoder.step(part, state)
        yield frames
    for first in range(0, decoder.spec.num_blanks, count):
        frames, state = decoder.drain(min(count, decoder.spec.num_blanks - first), state)
        yield frames


def _timed(decode: Callable[[], Any], expected: Tensor) -> dict[str, float]:
    """Of the third time; the first two choose kernels and fill the allocator."""
    on_gpu = expected.is_cuda
    error = float((torch.cat(list(decode())).float() - expected).norm() / expected.norm())
    for _ in decode():
        pass
    before_bytes = 0
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before_bytes = torch.cuda.memory_allocated()
    started_s, first_s = perf_counter(), 0.0
    for frames in decode():
        if len(frames) and not first_s:
            frames[0, 0, 0, 0].item()
            first_s = perf_counter() - started_s
    frames[-1, 0, 0, 0].item()
    seconds = perf_counter() - started_s
    peak_bytes = torch.cuda.max_memory_allocated() - before_bytes if on_gpu else 0
    return {"seconds": seconds, "first_frame_s": first_s, "gib": peak_bytes / 2**30, "error": error}


if __name__ == "__main__":
    main()
