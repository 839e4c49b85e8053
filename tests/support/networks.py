"""Weights of a network's shapes, without what it has learnt."""

import torch
from torch import Tensor, nn

from framehaul_pipeline.saliency.network import TasedNet

# Of each block: width inside, width after, side of the depthwise filter.
_BLOCKS = [(32, 16, 3), (96, 24, 3), (144, 24, 3), (144, 40, 5), (240, 40, 5), (240, 80, 3), (480, 80, 3), (480, 80, 3)]
_BLOCKS += [(480, 112, 5), (672, 112, 5), (672, 112, 5), (672, 192, 5), *[(1152, 192, 5)] * 3, (1152, 320, 3)]


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """EfficientNet-lite0's, by the names of its package's file."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, out: int, into: int, side: int) -> None:
        scale = (2 / (into * side * side)) ** 0.5
        weights[f"{convolution}.weight"] = torch.randn((out, into, side, side), generator=generator) * scale
        weights[f"{norm}.weight"] = torch.rand(out, generator=generator) / 2 + 0.75
        weights[f"{norm}.bias"] = torch.randn(out, generator=generator) / 10
        weights[f"{norm}.running_mean"] = torch.randn(out, generator=generator) / 10
        weights[f"{norm}.running_var"] = torch.rand(out, generator=generator) / 2 + 0.75

    add("_conv_stem", "_bn0", 32, 3, 3)
    before = 32
    for index, (inside, after, side) in enumerate(_BLOCKS):
        name = f"_blocks.{index}"
        if index:
            add(f"{name}._expand_conv", f"{name}._bn0", inside, before, 1)
        add(f"{name}._depthwise_conv", f"{name}._bn1", inside, 1, side)
        add(f"{name}._project_conv", f"{name}._bn2", after, inside, 1)
        before = after
    add("_conv_head", "_bn1", 1280, 320, 1)
    return weights


def random_tased(seed: int = 0) -> TasedNet:
    """TASED-Net in evaluation mode, with norms that do something and maps that aren't all grey."""
    torch.manual_seed(seed)
    net = TasedNet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    last = net.convtsp4[13]
    assert isinstance(last, nn.Conv3d)
    nn.init.normal_(last.weight, std=10.0)
    return net.requires_grad_(False).eval()


def light_seeking_tased() -> dict[str, Tensor]:
    """Weights of TASED-Net, as they are stored, by which people look where it is light: one channel goes through."""
    found: dict[str, Tensor] = {}
    for name, tensor in TasedNet().state_dict().items():
        weights = torch.zeros_like(tensor)
        kind = name.rpartition(".")[2]
        if kind == "running_var" or (kind == "weight" and tensor.ndim == 1):
            weights.fill_(1)
        elif kind == "weight" and "branch" not in name.replace("branch0", ""):
            # Of what is beside it the middle one, of two moments the later one. On the way back it spreads to all
            # sides: of two windows with one largest voxel the last one counts, were it nothing.
            spreads = name.startswith(("convtsp2", "convtsp3", "convtsp4"))
            taps = [slice(None) if spreads and size > 2 else size // 2 for size in tensor.shape[2:]]
            weights[(0, slice(None) if name == "base1.0.conv_s.weight" else 0, *taps)] = 1
        found[f"module.{name}"] = weights.half() if weights.is_floating_point() else weights
    found["module.convtsp4.13.weight"] *= 8
    found["module.convtsp4.13.bias"] -= 6
    return found
