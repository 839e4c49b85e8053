"""TASED-Net alone, with random weights at its published shape: `python -m bench.saliency`.

Milliseconds, kernels and device memory a window: as it was published, folded, with pooling and unpooling by kernels of
our own, and as a graph; and how far the folded form is from the published one in float32.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from unittest import mock

import torch
from tests.support.networks import random_tased
from torch import Tensor

from bench.harness import Results, table
from bench.profiling import DeviceProfiler
from framehaul_pipeline.models.saliency import HEIGHT, MOST_WINDOWS, WIDTH, WINDOW_FRAMES
from framehaul_pipeline.saliency import folded
from framehaul_pipeline.saliency.folded import FoldedTased
from framehaul_pipeline.saliency.network import Published

_ROUNDS: Final = 5
_MIB: Final = 1 << 20

Run = Callable[[Tensor], Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Run all forms with all batches and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default=f"{WIDTH}x{HEIGHT}")
    parser.add_argument("--batches", nargs="+", type=int, default=(1, MOST_WINDOWS, 8))
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    width, height = map(int, options.size.split("x"))
    bench = _Bench(torch.device(options.device), height, width, options.seconds)
    results = Results(name="saliency", title="TASED-Net alone", device=options.device)
    results.say(
        f"A window is {WINDOW_FRAMES} frames of {options.size}, already on the device; a map comes of each. In float16 "
        "on GPUs. Memory is what the form takes beside its weights."
    )
    rows = []
    for form in bench.forms():
        for batch in options.batches:
            found = bench.measure(form, batch)
            results.figures[f"{form}, {batch}"] = found
            rows.append(
                (form, batch, f"{found['ms']:.2f}", f"{found['kernels']:.0f}", f"{found['memory_bytes'] / _MIB:,.0f}")
            )
    results.say(table(("form", "windows together", "ms a window", "kernels a window", "MiB"), rows))
    between, published, last = bench.differences()
    results.figures["differences"] = {"between": between, "published": published, "last form": last}
    results.say(
        f"In float32, the last form's maps differ by {between:.1e} at most, of 0 to 1, from those of the published "
        f"network on the CPU. In float64 they would be the same; from that the published ones are {published:.1e} "
        f"away, the last form's {last:.1e}: rounding chooses between voxels that are almost equal."
    )
    results.write(options.out)


class _Bench:
    def __init__(self, device: torch.device, height: int, width: int, seconds: float) -> None:
        self._device, self._shape, self._seconds = device, (WINDOW_FRAMES, height, width, 3), seconds
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._net = random_tased()

    def forms(self) -> tuple[str, ...]:
        """From the slowest to what the worker runs."""
        own = ("folded, gathering", "graph") if self._device.type == "cuda" else ()
        return ("published", "folded", *own)

    def measure(self, form: str, batch: int) -> dict[str, Any]:
        """Medians of a form, for each window."""
        windows = self._windows(batch)
        with self._form(form, self._dtype, self._device) as run:
            free = self._free_bytes()
            for _ in range(3):
                run(windows)
            self._settle()
            memory = free - self._free_bytes()
            profiler = DeviceProfiler()
            profiler.start()
            run(windows)
            self._settle()
            kernels = profiler.stop()["num_kernels"]
            times = [self._time(run, windows) for _ in range(_ROUNDS)]
        return {"ms": 1e3 * statistics.median(times) / batch, "kernels": kernels / batch, "memory_bytes": memory}

    def differences(self) -> tuple[float, float, float]:
        """The most that the last form differs from the first in float32, and either of them from that in float64."""
        windows = self._windows(1)
        maps = []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.inference_mode():
            first, last = self.forms()[0], self.forms()[-1]
            for form, dtype in ((first, torch.float64), (first, torch.float32), (last, torch.float32)):
                # On a GPU the published network's unpooling is left to chance.
                device = torch.device("cpu") if form == first else self._device
                with self._form(form, dtype, device) as run:
                    maps.append(run(windows.to(device)).double().cpu())
        exact, published, folded_one = maps
        pairs = ((published, folded_one), (published, exact), (folded_one, exact))
        between, one, other = (float((a - b).abs().max()) for a, b in pairs)
        return between, one, other

    @contextmanager
    def _form(self, form: str, dtype: torch.dtype, device: torch.device) -> Iterator[Run]:
        net = copy.deepcopy(self._net)
        if form == "published":
            yield Published(net, device, dtype)
        else:
            whole = FoldedTased(net, device, dtype)
            pool, unpool = folded.pool_by_torch, folded.unpool_by_torch
            if form != "folded":
                pool, unpool = folded._pool, folded._unpool
            with mock.patch.multiple(folded, _pool=pool, _unpool=unpool):
                yield whole if form == "graph" else lambda windows: whole._maps([windows])[0]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _time(self, run: Run, windows: Tensor) -> float:
        began, count = perf_counter(), 0
        while not count or perf_counter() - began < self._seconds / _ROUNDS:
            run(windows)
            self._settle()
            count += 1
        return (perf_counter() - began) / count

    def _windows(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        # Not noise: what is next to each other is alike, as in films.
        coarse = torch.randint(0, 256, (batch, 3, WINDOW_FRAMES // 4, 7, 12), generator=generator).float()
        smooth = torch.nn.functional.interpolate(coarse, self._shape[:3], mode="trilinear")
        return smooth.permute(0, 2, 3, 4, 1).to(torch.uint8).contiguous().to(self._device)

    def _free_bytes(self) -> int:
        if self._device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


if __name__ == "__main__":
    main()
