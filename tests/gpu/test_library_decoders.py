"""The library's decoders by our engine on a CUDA device, beside the library there and in float32 on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo
from torch import Tensor

from framehaul_pipeline.decoders.base import Preparing
from framehaul_pipeline.decoders.engine.convolution import open_plans
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.link.heirloom import Heirloom
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import decode

pytestmark = pytest.mark.needs_cuda

WIDTHS = (32, 64, 64, 96)
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pictures": (AutoencoderKL, {"layers_per_block": 2, **BLOCKS}),
    "clips": (AutoencoderKLHunyuanVideo, {}),
}


def relative(frames: Tensor, expected: Tensor) -> float:
    error: Tensor = (frames.float().cpu() - expected).norm() / expected.norm()
    return error.item()


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_error_is_no_worse_than_the_librarys(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own half precision; prepared or not and in chunks of 1 and 4 the bytes are the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kind, config = KINDS[name]
    torch.manual_seed(5)
    vae = kind(block_out_channels=WIDTHS, latent_channels=16, **config).to(torch.bfloat16).eval()
    vae.save_pretrained(tmp_path / name)
    model = describe_model(f"{name}={tmp_path / name}")
    expected_of, heirloom = load_decoder(model, torch.device("cpu")), Heirloom.create()
    latents = torch.randn(9, 16, 12, 20, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = decode(expected_of, latents.float(), 1)
    device = torch.device("cuda")
    decoder = load_decoder(model, device, open_plans(device, heirloom))
    assert isinstance(decoder, Preparing)
    on_device, geometry = latents.to(device), Geometry(channels=16, height=12, width=20)
    frames = decode(decoder, on_device, 1)
    library = vae.to(device)
    if name == "clips":
        theirs = library.decode(on_device.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    else:
        theirs = torch.cat([library.decode(latent).sample for latent in on_device.split(1)])
    assert relative(frames, expected) < relative(theirs, expected)
    with decoder.preparing():
        state = decoder.open(geometry, None)
        for latent in on_device[:5].split(1):
            _, state = decoder.step(latent, state)
    prepared = decode(decoder, on_device, 1)
    assert torch.equal(prepared, decode(decoder, on_device, [1] * 4 + [1, 3, 1] if name == "clips" else 4))
    assert torch.equal(prepared, frames)
    heirloom.close()
