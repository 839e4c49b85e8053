"""One way to decode Wan latents, in a process of its own: `python -m bench.wan_contender KIND DEVICE FOLDER`.

KIND as in `wan_decoders.load_decode`. Answers lines of JSON whose `do` names a method of `Contender`; a failure there
is an answer with `error`. A process each, so that peak memory is its own and one that hangs or faults can be ended.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from typing import Any, Final

import torch
from torch import Tensor

from bench.wan_decoders import count_flop, load_decode
from framehaul_pipeline.models.model import describe_model

_SEED: Final = 7
_MATRIX_SIZE: Final = 8192
_MATRIX_REPEATS: Final = 20
_MATRIX_ROUNDS: Final = 5
_ERROR_CHARACTERS: Final = 300


class Contender:
    """Measures one decode."""

    def __init__(self, kind: str, device: str, folder: str) -> None:
        """Load the weights."""
        self._device, self._folder = torch.device(device), folder
        self._decode = load_decode(kind, folder, device)

    def measure(self, *, latents: int, height: int, width: int, untimed: int) -> dict[str, float]:
        """Seconds of one decode after `untimed` ones, and the most device memory that it held."""
        given = self._latents(latents, height, width)
        on_cuda = self._device.type == "cuda"
        started_s = time.perf_counter()
        for _ in range(untimed):
            self._run(given)
        warm_up_s = time.perf_counter() - started_s
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        started_s = time.perf_counter()
        self._run(given)
        seconds = time.perf_counter() - started_s
        peak_bytes = torch.cuda.max_memory_allocated() if on_cuda else 0
        if on_cuda:
            torch.cuda.empty_cache()  # the others need the memory
        return {"seconds": seconds, "peak_bytes": float(peak_bytes), "warm_up_s": warm_up_s}

    def save(self, *, latents: int, height: int, width: int, path: str) -> dict[str, float]:
        """Write the frames for `compare` in other processes."""
        frames = self._frames(latents, height, width)
        torch.save(frames, path)
        return {"std": float(frames.std()), "clamped": float((frames.abs() == 1).float().mean())}

    def compare(self, *, latents: int, height: int, width: int, path: str) -> dict[str, float]:
        """Difference to the frames that `save` wrote."""
        return difference(self._frames(latents, height, width), torch.load(path, weights_only=True))

    def flop(self, *, latents: int, height: int, width: int) -> dict[str, float]:
        """Arithmetic of the clip."""
        return {"flop": count_flop(self._folder, latents, height, width)}

    def matrix_rate(self) -> dict[str, float]:
        """The table's yardstick."""
        return {"flop_per_s": matrix_flop_per_s(self._device)}

    def _frames(self, latents: int, height: int, width: int) -> Tensor:
        return self._run(self._latents(latents, height, width)).float().clamp(-1, 1).cpu()

    def _run(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            frames = self._decode(latents)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return frames

    def _latents(self, count: int, height: int, width: int) -> Tensor:
        """The same in every process, and exact in bfloat16."""
        spec = describe_model(f"wan={self._folder}").spec
        size = (1, spec.channels, count, height // spec.spatial_factor, width // spec.spatial_factor)
        return torch.randn(size, generator=torch.Generator().manual_seed(_SEED)).bfloat16().float().to(self._device)


def matrix_flop_per_s(device: torch.device) -> float:
    """The best rate of a large bfloat16 matrix product, in FLOP/s."""
    square = torch.randn(_MATRIX_SIZE, _MATRIX_SIZE, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(_MATRIX_ROUNDS):
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        for _ in range(_MATRIX_REPEATS):
            square @ square
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_s)
    return 2.0 * _MATRIX_SIZE**3 * _MATRIX_REPEATS / min(seconds)


def difference(frames: Tensor, reference: Tensor) -> dict[str, float]:
    """Relative error, of Euclidean norms, and PSNR over the range -1 to 1."""
    squared = float((frames - reference).square().mean())
    psnr_db = 10 * math.log10(4.0 / squared) if squared else math.inf
    return {"relative": math.sqrt(squared / float(reference.square().mean())), "psnr_db": psnr_db}


def main() -> None:
    """Answer requests until the input ends."""
    kind, device, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print
    contender: Contender | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            contender = contender or Contender(kind, device, folder)
            answer = getattr(contender, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
