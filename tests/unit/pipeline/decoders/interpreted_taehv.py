"""Run by tests with TRITON_INTERPRET=1: the TAEHV family's kernels on the CPU, against its plain torch."""

import sys

import torch

from framehaul_pipeline.decoders import taehv, taehv_kernels

torch.manual_seed(0)


def tell(*pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    same = all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in pairs)
    sys.stdout.write("equal\n" if same else "differs\n")


x, last = torch.randn(3, 2, 3, 7), torch.randn(1, 2, 3, 7)
(pairs, kept), (torch_pairs, torch_kept) = (
    taehv_kernels.pair(x, last),
    taehv._pair(x.permute(0, 3, 1, 2), last.permute(0, 3, 1, 2)),
)
tell((pairs, torch_pairs.permute(0, 2, 3, 1)), (kept, torch_kept.permute(0, 2, 3, 1)))
for shared, patch_size in ((0, 1), (1, 2)):
    corners = torch.randn(1, 3, 4, 4, 2, 5)
    spread = taehv_kernels.spread(corners, shared)
    tell((spread, taehv._spread(corners, shared).permute(0, 2, 3, 1)))
    weight, bias = torch.randn(3 * patch_size**2, 5, 3, 3), torch.randn(3 * patch_size**2)
    products = corners @ taehv._by_taps(weight)
    frames = taehv_kernels.sum_taps(products, bias, patch_size, shared)
    whole = torch.nn.functional.conv2d(spread.permute(0, 3, 1, 2), weight, bias, padding=1)
    whole = torch.nn.functional.pixel_shuffle(whole, patch_size)
    close = torch.allclose(frames, whole, rtol=0, atol=1e-4)
    tell((frames, taehv._sum_taps(products, bias, patch_size, shared)), (torch.tensor(close), torch.tensor(True)))
