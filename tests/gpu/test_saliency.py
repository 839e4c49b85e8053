"""TASED-Net on a GPU: folded, with pools of our own and as a graph, it gives the published network's maps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framehaul_pipeline.models.saliency import MOST_FRAMES, MOST_WINDOWS, WINDOW_FRAMES, SaliencyModel
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.mapper import Mapper
from framehaul_pipeline.saliency.network import Published
from tests.support.networks import random_tased

pytestmark = pytest.mark.needs_cuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def frames(count: int) -> Tensor:
    """What moves, and is alike to what is next to it."""
    coarse = torch.randint(0, 256, (1, 3, 8, 7, 12), generator=torch.Generator().manual_seed(1)).float()
    smooth = torch.nn.functional.interpolate(coarse, (count, 224, 384), mode="trilinear")
    return smooth[0].permute(1, 2, 3, 0).to(torch.uint8).contiguous()


@torch.inference_mode()
def test_in_float32_it_gives_what_the_published_network_does() -> None:
    """On the CPU, where unpooling isn't left to chance, and as near to it as it is to itself with more digits.

    A graph gives what single kernels do, bit for bit.
    """
    windows = frames(WINDOW_FRAMES)[None]
    exact = Published(random_tased(), CPU, torch.float64)(windows)
    published = Published(random_tased(), CPU, torch.float32)(windows).double()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        folded = FoldedTased(random_tased(), CUDA, torch.float32)
        maps = folded(windows.to(CUDA)).clone()
        assert torch.equal(maps, folded._maps([windows.to(CUDA)])[0])
        assert torch.equal(maps, folded(windows.to(CUDA)))
    errors = [float((each.cpu() - exact).abs().max()) for each in (published, maps)]
    print(f"from float64: published {errors[0]:.1e}, folded {errors[1]:.1e}")  # noqa: T201
    assert exact.std() > 0.01
    assert errors[1] < 3 * errors[0] + 1e-4


def test_half_precision_shows_the_same_places(tmp_path: Path) -> None:
    """Of windows one after the other, in one batch or alone, forwards and backwards, as on the CPU."""
    save_file(dict(random_tased().state_dict()), tmp_path / "tased.safetensors")
    model = SaliencyModel(path=str(tmp_path / "tased.safetensors"))
    some = frames(MOST_FRAMES)
    on_cpu, on_gpu = Mapper(model, CPU), Mapper(model, CUDA)
    on_gpu.warm_up(some.to(CUDA))
    assert isinstance(on_gpu._maps, FoldedTased)
    for every, backwards in ((1, False), (7, True)):
        maps = on_gpu.maps(some.to(CUDA), every=every, backwards=backwards).cpu()
        assert len(maps) == (MOST_WINDOWS if every == 1 else 2)
        last = on_cpu.maps(some[-WINDOW_FRAMES:], every=1, backwards=backwards)[0]
        print(f"every {every}: {(maps[-1] - last).abs().max():.4f} of {last.std():.4f}")  # noqa: T201
        assert (maps[-1] - last).abs().max() < 0.1
        assert torch.corrcoef(torch.stack([maps[-1].flatten(), last.flatten()]))[0, 1] > 0.95
