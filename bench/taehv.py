"""The TAEHV family's decode alone, with random weights at the published sizes: `python -m bench.taehv`.

Frames a second by the latents of a chunk, as a warmed-up server decodes them, and the error against float32 on the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.harness import Results, table
from framehaul_pipeline.decoders.taehv import TaehvDecoder, load_taehv, tensor_shapes
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.models.taehv import TaehvConfig
from framehaul_pipeline.spec import Geometry

_WIDTHS: Final = (256, 128, 64, 64)
_FILES: Final = {
    "taew2_1": (16, _WIDTHS, (1, 2, 2), 1),
    "taew2_2": (48, _WIDTHS, (1, 2, 2), 2),
    "taeltx2_3": (128, _WIDTHS, (2, 2, 2), 4),
    "taew2_2_super": (48, (512, 256, 128, 64), (1, 2, 2), 2),
}
_CHUNKS: Final = (1, 2, 4, 8)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all files and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--files", nargs="+", default=list(_FILES), choices=list(_FILES))
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    width, height = map(int, options.size.split("x"))
    results = Results(name="taehv", title="TAEHV: the decode alone", device=options.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.files:
            path = _weights(name, Path(folder))
            rates, error = _measure(path, device, height, width, options.seconds)
            results.figures[name] = {"frames_per_s": dict(zip(_CHUNKS, rates, strict=True)), "relative": error}
            rows.append((f"`{name}`", *(f"{rate:,.0f}" for rate in rates), f"{error:.1e}"))
    heads = ("file", *(f"{count} latent{'s' * (count > 1)}" for count in _CHUNKS), "error")
    results.say(f"Frames a second of {options.size}, decoded and thrown away on the device, by latents a chunk.")
    results.say(table(heads, rows))
    results.write(options.out)


def _weights(name: str, folder: Path) -> Path:
    channels, widths, time_factors, patch_size = _FILES[name]
    config = TaehvConfig(
        latent_channels=channels,
        widths=widths,
        time_factors=time_factors,
        patch_size=patch_size,
        is_super=name.endswith("_super"),
        latents_mean=(),
        latents_std=(),
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for tensor, shape in tensor_shapes(config).items():
        fan_in = shape[1] * shape[2] * shape[3] if len(shape) > 1 else 100
        tensors[tensor] = torch.randn(shape, generator=generator) * fan_in**-0.5
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def _measure(path: Path, device: torch.device, height: int, width: int, seconds: float) -> tuple[list[float], float]:
    """Frames a second for each chunk length, and the relative error of a small clip."""
    model = describe_model(f"draft={path}")
    decoder, reference = load_taehv(model, device, None), load_taehv(model, torch.device("cpu"), None)
    spec = model.spec
    small = torch.randn(3, spec.channels, 4, 6, generator=torch.Generator().manual_seed(1))
    expected, found = _decode(reference, small), _decode(decoder, small.to(device, decoder.dtype))
    error = float((found.float().cpu() - expected).norm() / expected.norm())
    geometry = Geometry(
        channels=spec.channels, height=height // spec.spatial_factor, width=width // spec.spatial_factor
    )
    rates = []
    for count in _CHUNKS:
        shape = (count, geometry.channels, geometry.height, geometry.width)
        latents = torch.randn(shape, device=device, dtype=decoder.dtype)
        state = decoder.open(geometry, None, first_latent=1)
        with decoder.preparing():
            decoder.step(latents, state)
        rates.append(count * spec.temporal_factor / _seconds(decoder, latents, state, seconds))
        decoder.forget()
    return rates, error


def _decode(decoder: TaehvDecoder, latents: Tensor) -> Tensor:
    geometry = Geometry(channels=latents.shape[1], height=latents.shape[2], width=latents.shape[3])
    frames, _ = decoder.step(latents, decoder.open(geometry, None))
    return frames


def _seconds(decoder: TaehvDecoder, latents: Tensor, state: list[Tensor], at_least: float) -> float:
    """Of one step, over as many as take so long."""
    decoder.step(latents, state)[0][-1, 0, 0, 0].item()
    started_s, count = perf_counter(), 0
    while count == 0 or perf_counter() - started_s < at_least:
        for _ in range(8):
            frames, _ = decoder.step(latents, state)
        frames[-1, 0, 0, 0].item()
        count += 8
    return (perf_counter() - started_s) / count


if __name__ == "__main__":
    main()
