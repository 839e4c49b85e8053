"""Programs that `test_convert_kernels.py` runs in processes of their own.

`interpret` needs TRITON_INTERPRET=1, which must be set before Triton is imported; `compile` needs it unset.
"""

import itertools
import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from framehaul.formats import PixelFormat
from framehaul_pipeline.device import convert_kernels
from framehaul_pipeline.device.convert import convert_by_torch

NUM_FRAMES, HEIGHT, WIDTH = 2, 6, 1034  # columns beyond one block, and a part of the last one


def layouts(frames: Tensor) -> dict[str, Tensor]:
    """The same frames in memory orders that decoders leave."""
    return {
        "contiguous": frames,
        "channels_last": frames.contiguous(memory_format=torch.channels_last),
        "frames innermost": frames.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "cropped": torch.nn.functional.pad(frames, (3, 5, 1, 2))[:, :, 1:-2, 3:-5],
        "grey": frames[:, :1].expand(-1, 3, -1, -1),
    }


def interpret() -> None:
    """Compare the kernels with torch's operations; prints what differs."""
    values = torch.rand(NUM_FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    for dtype, pixel_format in itertools.product((torch.float32, torch.float16, torch.bfloat16), PixelFormat):
        for name, frames in layouts(values.to(dtype)).items():
            expected = torch.full((NUM_FRAMES, pixel_format.frame_bytes(HEIGHT, WIDTH)), 77, dtype=torch.uint8)
            found = torch.full_like(expected, 78)
            convert_by_torch(frames, pixel_format, expected)
            convert_kernels.convert_by_triton(frames, pixel_format, found)
            if num_different := int((expected != found).sum()):
                sys.stdout.write(f"{dtype} {pixel_format.value} {name}: {num_different} bytes\n")
            sys.stdout.write("compared\n")


def compile_for_hopper() -> None:
    """Compile every kernel, as far as the machine code, and print instructions that it must not have."""
    for kernel, out in (
        (convert_kernels._rgb24, "*u8"),
        (convert_kernels._gbrpf16, "*fp16"),
        (convert_kernels._yuv420p, "*u8"),
        (convert_kernels._yuv420p, "*i16"),
    ):
        constants: dict[str, Any] = {
            name: 1024 if name == "BLOCK" else 3.7 for name in kernel.arg_names if name.isupper()
        }
        types = {"frames": "*fp16", "out": out} | dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            kernel,
            {name: types.get(name, "i32") for name in kernel.arg_names},
            {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        )
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert len(built.asm["cubin"]) > 1000
        sys.stdout.writelines(f"{line}\n" for line in built.asm["ptx"].splitlines() if "fma." in line)
        sys.stdout.write("compiled\n")


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_for_hopper}[sys.argv[1]]()
