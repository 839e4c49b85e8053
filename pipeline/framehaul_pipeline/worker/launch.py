"""Puts one chunk's whole way onto the device: upload, decode, convert, copy to a frame slot.

Runs on the worker's launch thread, which never waits here. Three streams overlap consecutive chunks; two turns of
staging memory alternate, each guarded by the events of the chunk that used it last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from framehaul.formats import LatentDtype
from framehaul_pipeline.decoders.base import Draining
from framehaul_pipeline.device.convert import convert
from framehaul_pipeline.device.streams import Device, Event
from framehaul_pipeline.link.messages import ChunkTimes
from framehaul_pipeline.rings.ring import Ring
from framehaul_pipeline.scheduling.chunks import Chunk
from framehaul_pipeline.worker.jobs import ChunkJob
from framehaul_pipeline.worker.parking import Parking, Place

_NUM_TURNS = 2
_TORCH_DTYPES = {
    LatentDtype.FLOAT16: torch.float16,
    LatentDtype.BFLOAT16: torch.bfloat16,
    LatentDtype.FLOAT32: torch.float32,
}


@dataclass(slots=True, eq=False)
class InFlight:
    """A chunk on its way through the device."""

    chunk: Chunk
    slot: int
    generation: int
    frame_bytes: int
    begun: Event
    """All that its decoding had to wait for on the device is done."""
    decoded: Event
    copied: Event
    """The frames lie in the slot."""
    launched_ns: int
    slot_wait_ns: int
    """Before the launch, for which no slot was free."""
    times: ChunkTimes | None = None
    """Once it is complete."""


@dataclass(slots=True, eq=False)
class _Turn:
    """Staging memory on the device, and what must happen before it may be written again."""

    latents: Tensor
    frames: Tensor
    decoded: Event | None = None
    copied: Event | None = None


class Launcher:
    """The device side of one worker."""

    def __init__(self, device: Device, ring: Ring, inlet: Ring, *, chunk_latents: int) -> None:
        """Allocate staging memory and make both rings reachable for asynchronous copies."""
        self._device = device
        self._ring, self._inlet = ring, inlet
        self._ring_memory, self._inlet_memory = device.attach(ring), device.attach(inlet)
        self._upload, self._compute, self._copy = device.stream(), device.stream(), device.stream()
        self.parking = Parking(device, self._compute)
        """Moves sessions' state to the host and back."""

        def empty(num_bytes: int) -> Tensor:
            return torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device)

        self._turns = [
            _Turn(latents=empty(inlet.slot_bytes * chunk_latents), frames=empty(ring.slot_bytes))
            for _ in range(_NUM_TURNS)
        ]
        self._next_turn = 0

    def run_on_compute_stream(self, work: Callable[[], None]) -> None:
        """Run `work` where chunks are decoded."""
        self._compute.run(work)

    def open(self, place: Place) -> None:
        """Make a session's state.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        opening, spec = place.opening, place.decoder.spec
        first, total = opening.first_latent, opening.num_latents

        @torch.inference_mode()
        def make_state() -> None:
            if opening.normalized and spec.latent_std:
                scale = torch.tensor((spec.latent_std, spec.latent_mean), device=self._device.torch_device)
                place.scale = (scale[0].view(1, -1, 1, 1), scale[1].view(1, -1, 1, 1))
            num_to_come = None if total is None else total - first
            place.state = place.decoder.open(opening.geometry, num_to_come, first_latent=first)

        self._compute.run(make_state)

    def launch(self, job: ChunkJob) -> InFlight:
        """Put a chunk on the streams; its frames fit the slot.

        Raises:
            torch.OutOfMemoryError: no room for the decoder's intermediate values.
            Exception: whatever else the decoder raises.
        """
        launched_ns = time.monotonic_ns()
        chunk, place, slot = job.chunk, job.place, job.slot
        turn = self._turns[self._next_turn]
        self._next_turn = (self._next_turn + 1) % _NUM_TURNS
        num_latents, latent_bytes = len(chunk.latents), place.opening.geometry.latent_bytes(place.opening.dtype)
        filled = [latent for latent in chunk.latents if not latent.blank]
        frame_bytes = place.frame_bytes
        num_bytes = chunk.num_frames * frame_bytes
        raw_latents = turn.latents[: len(filled) * latent_bytes]
        raw_frames = turn.frames[:num_bytes]
        slot_memory = self._ring_memory[self._ring.payload_offset(slot) :][:num_bytes]

        def upload() -> None:
            for latent, target in zip(filled, raw_latents.split(latent_bytes), strict=True):
                start = self._inlet.payload_offset(latent.slot)
                target.copy_(self._inlet_memory[start : start + latent_bytes], non_blocking=True)

        def decode() -> None:
            frames = self._decode(raw_latents, place, num_blanks=num_latents - len(filled), last=chunk.last)
            if frames.shape[0] != chunk.num_frames:
                raise RuntimeError(
                    f"decoder {place.decoder.spec.name!r} gave {frames.shape[0]} frames for latents "
                    f"{chunk.first_latent}..{chunk.first_latent + num_latents - 1}: must be {chunk.num_frames}"
                )
            if chunk.num_frames:
                convert(frames, place.opening.pixel_format, raw_frames.view(chunk.num_frames, frame_bytes))

        if turn.decoded is not None:
            self._upload.wait(turn.decoded)
        if filled:
            self._upload.run(upload)
        self._compute.wait(self._upload.record())
        if turn.copied is not None:
            self._compute.wait(turn.copied)
        begun = self._compute.record(timed=True)
        if num_latents or chunk.num_frames:  # latents change the state even when they give no frame yet
            self._compute.run(decode)
        turn.decoded = self._compute.record(timed=True)
        self._copy.wait(turn.decoded)
        if chunk.num_frames:
            self._copy.run(lambda: _copy(slot_memory, raw_frames))
        turn.copied = self._copy.record(timed=True)
        return InFlight(
            chunk=chunk,
            slot=slot,
            generation=job.generation,
            frame_bytes=frame_bytes,
            begun=begun,
            decoded=turn.decoded,
            copied=turn.copied,
            launched_ns=launched_ns,
            slot_wait_ns=job.slot_wait_ns,
        )

    def settle(self) -> None:
        """Wait until the device is done with all that was launched; after a failed launch, before slots are reused."""
        for stream in (self._upload, self._compute, self._copy):
            stream.record().synchronize()
        self.parking.settle()

    def close(self) -> None:
        """Let go of the rings, once nothing is in flight."""
        self.settle()
        self._device.detach(self._ring)
        self._device.detach(self._inlet)
        del self._ring_memory, self._inlet_memory

    @torch.inference_mode()
    def _decode(self, raw_latents: Tensor, place: Place, *, num_blanks: int, last: bool) -> Tensor:
        geometry, decoder = place.opening.geometry, place.decoder
        parts = []
        if raw_latents.numel():
            latents = raw_latents.view(_TORCH_DTYPES[place.opening.dtype])
            latents = latents.view(-1, geometry.channels, geometry.height, geometry.width)
            if place.scale is not None:
                std, mean = place.scale
                latents = latents.float() * std + mean
            frames, place.state = decoder.step(latents.to(decoder.dtype), place.state)
            parts.append(frames)
        if num_blanks:
            assert isinstance(decoder, Draining), "its spec says that it drains"
            frames, place.state = decoder.drain(num_blanks, place.state)
            parts.append(frames)
        if last:
            held_back = decoder.flush(place.state)
            if held_back is not None:
                parts.append(held_back)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)
