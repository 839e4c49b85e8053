"""Decode speed and streaming exactness on a GPU: `python -m training.speed --weights FILE`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from framehaul_pipeline.decoders.tiny import TinyDecoder
from framehaul_pipeline.spec import Geometry
from training.evaluate import load

log = logging.getLogger("training")

SIZES: Final = ((480, 832), (720, 1280))
CHUNKS: Final = (1, 2, 4)


def time_ms(run: Callable[[], object], count: int) -> float:
    """Median of three timings, of `count` calls each, in milliseconds a call."""
    for _ in range(3):
        run()
    timings: list[float] = []
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        timings.append(begin.elapsed_time(end) / count)
    return sorted(timings)[1]


def record(run: Callable[[], object]) -> Callable[[], object]:
    """The same work as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measure(decoder: TinyDecoder, height: int, width: int, chunk: int, dtype: torch.dtype) -> None:
    """Log the speed of one size and chunk, eager and as a graph."""
    geometry = Geometry(channels=16, height=height // 8, width=width // 8)
    latents = torch.randn(chunk, 16, geometry.height, geometry.width, device="cuda", dtype=dtype)
    state = decoder.open(geometry, None)

    def run() -> None:
        _, new = decoder.step(latents, state)
        for mine, last in zip(state, new, strict=True):
            mine.copy_(last)

    frames = chunk * decoder.spec.temporal_factor
    eager_ms, graph_ms = time_ms(run, 40), time_ms(record(run), 60)
    log.info(
        "%dx%d, %d latents a step: eager %.0f, graph %.0f frames/s",
        height, width, chunk, frames * 1e3 / eager_ms, frames * 1e3 / graph_ms,
    )  # fmt: skip


def check_streaming(decoder: TinyDecoder, dtype: torch.dtype) -> None:
    """Log how far frames decoded in chunks are from the whole clip's."""
    geometry = Geometry(channels=16, height=30, width=52)
    latents = torch.randn(12, 16, 30, 52, device="cuda", dtype=dtype)
    whole, _ = decoder.step(latents, decoder.open(geometry, None))
    for chunks in ((1,) * 12, (1, 2, 3, 6)):
        state, parts = decoder.open(geometry, None), []
        for part in latents.split(chunks):
            frames, state = decoder.step(part, state)
            parts.append(frames)
        worst = float((torch.cat(parts) - whole).abs().max())
        log.info("%s, chunks %s: at most %.2e from the whole decode", dtype, chunks, worst)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="training.speed", description="Decode speed of `tiny` on a GPU.")
    parser.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        check_streaming(load(arguments.weights, device, dtype)[1], dtype)
    log.info("%s, torch %s, float16", torch.cuda.get_device_name(), torch.__version__)
    decoder = load(arguments.weights, device, torch.float16)[1]
    for height, width in SIZES:
        for chunk in CHUNKS:
            measure(decoder, height, width, chunk, torch.float16)


if __name__ == "__main__":
    main()
