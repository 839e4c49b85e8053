"""Configuration of a worker, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from framehaul_pipeline.spec import SLOT_BYTES_PER_PIXEL, DecoderSpec, LatentDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What the supervisor starts a worker with.

    Slots are sized by the largest frame (`max_pixels`): a frame slot holds at least the frames of one latent at 3
    bytes a pixel, an inlet slot one latent in the widest dtype. Smaller frames fit several latents to a slot; frames of
    a wider pixel format must be smaller.
    """

    device: str = "auto"
    models: tuple[str, ...] = ("tiny",)
    max_pixels: int = 1088 * 1920
    num_slots: int = 8
    num_inlet_slots: int = 32
    chunk_latents: int = 4
    startup_timeout_s: float = 120.0
    max_restarts: int = 3
    restart_window_s: float = 300.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: names the field, its value and the range.
        """
        if self.device not in ("auto", "cpu", "cuda") and not (
            self.device.startswith("cuda:") and self.device[5:].isdecimal()
        ):
            raise ValueError(f"device={self.device}: must be auto, cpu, cuda or cuda:N")
        if not self.models:
            raise ValueError("models=(): must name at least one model")
        for name, value, low, high in (
            ("max_pixels", self.max_pixels, 64, 1 << 26),
            ("num_slots", self.num_slots, 2, 1024),
            ("chunk_latents", self.chunk_latents, 1, 64),
            ("num_inlet_slots", self.num_inlet_slots, 4 * self.chunk_latents, 1 << 16),
            ("max_restarts", self.max_restarts, 0, 1000),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}={value}: must be {low}..{high}")

    def slot_bytes(self, specs: tuple[DecoderSpec, ...]) -> int:
        """Payload bytes of a frame slot: one latent's frames and those lookahead held back, at `max_pixels`."""
        frames = max(max(spec.first_frames, spec.temporal_factor) * (1 + spec.lookahead_latents) for spec in specs)
        return frames * self.max_pixels * SLOT_BYTES_PER_PIXEL

    def inlet_slot_bytes(self, specs: tuple[DecoderSpec, ...]) -> int:
        """Payload bytes of an inlet slot: one float32 latent at `max_pixels`."""
        return max(
            spec.channels * (self.max_pixels // spec.spatial_factor**2) * LatentDtype.FLOAT32.itemsize_bytes
            for spec in specs
        )
