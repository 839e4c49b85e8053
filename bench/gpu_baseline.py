"""The baseline of the field, like for like: one process with a thread for each session, serial or overlapped.

A process of its own, asked by lines of JSON: `mode` (`serial`, `overlapped`), `decoder`, `sessions`, `latents`,
`chunk`, `height`, `width`, `sink`, and `profile`, whether to record kernels. Both modes use the very decoder and
conversion that the product's worker runs; `diffusers=FOLDER` is diffusers' own.
"""

from __future__ import annotations

import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from bench.baseline_parts import Encoder, Stream
from bench.plugin import DECODER
from bench.profiling import DeviceProfiler
from bench.stream_client import SUFFIXES, picture_latents
from framehaul.formats import PixelFormat
from framehaul_pipeline.decoders.base import Decoder
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.device.convert import convert
from framehaul_pipeline.models.model import BUILT_IN, describe_model
from framehaul_pipeline.spec import Geometry

_NUM_BUFFERS: Final = 3
_DIFFUSERS: Final = "diffusers"
"""The name under which a model is decoded by diffusers."""


class Job:
    """One session's work."""

    def __init__(self, request: dict[str, Any], decoder: Decoder, device: torch.device) -> None:
        """Prepare its latents on the host."""
        self.decoder, self.device, self.dtype = decoder, device, decoder.dtype
        self.height, self.width = request["height"], request["width"]
        self.num_latents, self.chunk = request["latents"], request["chunk"]
        clip = picture_latents(self.height, self.width, decoder.spec.channels, decoder.spec.spatial_factor)
        self.geometry = Geometry(channels=clip.shape[1], height=clip.shape[2], width=clip.shape[3])
        self._clip = torch.from_numpy(clip)
        self.first_frame_s = self.ended_s = 0.0

    def chunks(self) -> Iterator[Tensor]:
        """Latents, the first chunk as short as the product's."""
        taken = 0
        while taken < self.num_latents:
            count = min(self.chunk if taken else 1, self.num_latents - taken)
            yield self._clip[[index % len(self._clip) for index in range(taken, taken + count)]]
            taken += count

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Decode both sizes of chunk on this thread: cuDNN keeps the algorithms it chose for each thread apart."""
        state = self.decoder.open(self.geometry, self.num_latents)
        for count in (1, self.chunk):
            latents = self._clip[[0] * count].to(self.device, self.dtype)
            frames, state = self.decoder.step(latents, state)
            frames.cpu()

    def handed_over(self) -> None:
        """Note the first frame's time."""
        self.first_frame_s = self.first_frame_s or time.monotonic()

    @torch.inference_mode()
    def serial(self, encoder: Encoder) -> None:
        """Decode, floats to the host, quantise, encode; then the next chunk."""
        state = self.decoder.open(self.geometry, self.num_latents)
        for latents in self.chunks():
            frames, state = self.decoder.step(latents.to(self.device, self.dtype), state)
            floats = frames.float().cpu().numpy()
            levels = np.clip((floats + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            for frame in levels:
                self.handed_over()
                encoder.write(np.ascontiguousarray(frame), "rgb24")

    @torch.inference_mode()
    def overlapped(self, encoder: Encoder) -> None:
        """Two streams, pinned buffers, events, conversion on the device, the encoder on a thread of its own."""
        compute, copy = Stream(self.device), Stream(self.device)
        frame_bytes = PixelFormat.YUV420P.frame_bytes(self.height, self.width)
        most = self.chunk * self.decoder.spec.temporal_factor
        pinned = self.device.type == "cuda"
        free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        ready: queue.SimpleQueue[tuple[Tensor, int, Any] | None] = queue.SimpleQueue()
        for _ in range(_NUM_BUFFERS):
            free.put(torch.empty(most, frame_bytes, dtype=torch.uint8, pin_memory=pinned))
        thread = threading.Thread(target=self._encode, args=(encoder, free, ready))
        thread.start()
        with compute.use():
            state = self.decoder.open(self.geometry, self.num_latents)
        for latents in self.chunks():
            host = free.get()
            with compute.use():
                given = (latents.pin_memory() if pinned else latents).to(self.device, self.dtype, non_blocking=True)
                frames, state = self.decoder.step(given, state)
                wire = torch.empty(len(frames), frame_bytes, dtype=torch.uint8, device=self.device)
                convert(frames, PixelFormat.YUV420P, wire)
            copy.wait(compute.record())
            with copy.use():
                host[: len(wire)].copy_(wire, non_blocking=True)
                copy.keep(wire)
            ready.put((host, len(wire), copy.record()))
        ready.put(None)
        thread.join()

    def _encode(self, encoder: Encoder, free: Any, ready: Any) -> None:
        while (item := ready.get()) is not None:
            host, count, copied = item
            if copied is not None:
                copied.synchronize()
            for frame in host[:count].numpy():
                self.handed_over()
                encoder.write(frame.reshape(self.height * 3 // 2, self.width), "yuv420p")
            free.put(host)


def _run(request: dict[str, Any], decoder: Decoder, device: torch.device) -> dict[str, Any]:
    jobs = [Job(request, decoder, device) for _ in range(request["sessions"])]
    profiler = DeviceProfiler() if request["profile"] else None
    suffix = SUFFIXES.get(request["sink"])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        warm, go = threading.Barrier(len(jobs) + 1), threading.Barrier(len(jobs) + 1)

        def work(job: Job, out: Path | None) -> None:
            job.warm_up()
            warm.wait()
            go.wait()
            encoder = Encoder(out, job.height, job.width)
            getattr(job, request["mode"])(encoder)
            encoder.close()
            job.ended_s = time.monotonic()

        threads = [
            threading.Thread(target=work, args=(job, Path(folder) / f"{index}{suffix}" if suffix else None))
            for index, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        warm.wait()
        if profiler is not None:
            profiler.start()
        started_s = time.monotonic()
        go.wait()
        for thread in threads:
            thread.join()
        wall_s = time.monotonic() - started_s
        profile = {} if profiler is None else profiler.stop()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the others need the memory
    return {
        "wall_s": wall_s,
        "sessions_s": [job.ended_s - started_s for job in jobs],
        "first_frames_s": [job.first_frame_s - started_s for job in jobs],
        "num_frames": sum(decoder.spec.num_frames(job.num_latents) for job in jobs),
        "profile": profile,
    }


def _load(text: str, device: torch.device) -> Decoder:
    model = describe_model(text, (*BUILT_IN, DECODER))
    if model.spec.name == _DIFFUSERS:
        from bench.wan_decoders import DiffusersDecoder  # needs a package that only this one does

        return DiffusersDecoder(model, device)
    return load_decoder(model, device)


def main() -> None:
    """Answer requests until the input ends: `python -m bench.gpu_baseline DEVICE`."""
    device = torch.device(sys.argv[1])
    torch.backends.cudnn.benchmark = True
    decoders: dict[str, Decoder] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["decoder"]
        if name not in decoders:
            decoders[name] = _load(name, device)
        print(json.dumps(_run(request, decoders[name], device)), flush=True)


if __name__ == "__main__":
    main()
