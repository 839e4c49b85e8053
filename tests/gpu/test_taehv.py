"""The TAEHV family on a CUDA device: its kernels and graphs show what plain torch shows on the CPU."""

from pathlib import Path

import pytest
import torch

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.decoders.taehv import TaehvDecoder
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import decode
from tests.support.taehv_models import PUBLISHED, save

pytestmark = pytest.mark.needs_cuda


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_device_shows_what_the_cpu_shows(name: str, tmp_path: Path) -> None:
    """In chunks, kernel by kernel and as graphs; a graph's frames are an eager step's, bit for bit."""
    save(name, tmp_path / f"{name}.safetensors")
    model = describe_model(f"draft={tmp_path / name}.safetensors")
    on_cpu, on_device = (load_decoder(model, torch.device(device)) for device in ("cpu", "cuda"))
    assert isinstance(on_device, TaehvDecoder)
    channels = model.spec.channels
    latents = torch.randn(6, channels, 6, 10, generator=torch.Generator().manual_seed(1))
    expected = decode(on_cpu, latents, 6)
    on_gpu = latents.to("cuda", on_device.dtype)
    eager = decode(on_device, on_gpu, 2)
    error = (eager.float().cpu() - expected).norm() / expected.norm()
    assert error < 5e-3
    geometry = Geometry(channels=channels, height=6, width=10)
    with on_device.preparing():
        on_device.step(on_gpu[:2], on_device.open(geometry, None))
    assert torch.equal(decode(on_device, on_gpu, 2), eager)
