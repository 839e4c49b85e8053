"""Run by tests with TRITON_INTERPRET=1: tiny's engine on the CPU against its network; prints the largest difference."""

import torch
import torch.nn.functional as F
from torch import Tensor

from framehaul_pipeline.decoders.tiny import LATENT_LIMIT, PATCH, read_tiny
from framehaul_pipeline.decoders.tiny_engine import TinyEngine
from framehaul_pipeline.spec import Geometry


def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.conv3d(x, weight, bias, padding=(0, 1, 1)))


torch.manual_seed(0)
tiny = read_tiny(torch.device("cpu"), torch.float32)
engine = TinyEngine(tiny._net, PATCH, convolve_relu=by_torch)
worst = 0.0
for count in (1, 3):
    latents = 2 * torch.randn(count, 16, 3, 5)
    state = [torch.randn_like(each) for each in tiny.open(Geometry(channels=16, height=3, width=5), None)]
    with torch.inference_mode():
        expected = tiny._decode([latents, *state])
        found = engine.decode(latents.clamp(-LATENT_LIMIT, LATENT_LIMIT), state)
    assert [each.shape for each in found] == [each.shape for each in expected]
    worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)))
print(worst)  # noqa: T201
