"""Configuration of a worker: the supervisor reads it, and the worker gets it whole. Checked wherever it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from framehaul.formats import SLOT_BYTES_PER_PIXEL, LatentDtype
from framehaul_pipeline.models.embedding import EmbeddingModel
from framehaul_pipeline.models.model import TINY, Model
from framehaul_pipeline.models.saliency import MOST_FRAMES, SaliencyModel
from framehaul_pipeline.spec import DecoderSpec

PAGE_BYTES: Final = 16 << 20
"""What session memory is counted in. Copies of this size run at full speed."""
MAX_BATCH_FRAMES: Final = 32
"""Frames of a film that are embedded together."""
MAX_PICTURES: Final = 16
"""Of a query: in all their sizes, they fit a sample slot."""
HISTOGRAM_BYTES: Final = 512 * 4
"""Of each sampled frame, behind all of them in their slot."""
MAX_MODELS_BYTES: Final = 60 << 10
"""Of all descriptions of models: they travel to the worker in one message, and their specs come back in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What the supervisor starts a worker with.

    Slots are sized by the largest frame (`max_pixels`): a frame slot holds what a chunk of one latent can give (a whole
    tile's frames for decoders with tiles) at 3 bytes a pixel, an inlet slot one latent in the widest dtype. Smaller
    frames fit several latents to a slot; frames of a wider pixel format must be smaller.
    """

    device: str = "auto"
    models: tuple[Model, ...] = (TINY,)
    """The first is the default."""
    max_pixels: int = 1088 * 1920
    num_slots: int = 8
    chunk_latents: int = 4
    num_inlet_chunks: int = 10
    """Room for latents on their way to the worker. Half of it is a session's at most: three chunks, so that one lies
    ready while two are on the device; more, because the server's answer takes its time."""
    device_memory_bytes: int | None = None
    """Device memory for sessions; None: what the device offers, which is half of what its host has left for a CPU."""
    park_bytes: int | None = None
    """Host memory for the state of sessions that stand still; 0: it stays on the device; None: a quarter of the host's
    or its container's, at most 16 GiB, and nothing for a CPU."""
    warm_up: tuple[tuple[int, int], ...] = ()
    """Widths and heights in pixels to decode once, with each model, before the worker is ready."""
    startup_timeout_s: float = 600.0
    """For loading weights and warming up: gigabytes, and a choice of kernels for each shape."""
    max_restarts: int = 10
    restart_window_s: float = 300.0
    standby: bool = True
    """Keep a second process with torch imported, so that a restart needn't."""
    chunk_timeout_s: float = 10.0
    """A worker that doesn't answer for so long is killed; no chunk's limit is lower."""
    embedding: EmbeddingModel | None = None
    """What films are searched by; None: none are."""
    saliency: SaliencyModel | None = None
    """Says where people look in films; None: nothing does."""
    num_sample_slots: int = 16
    """Batches of films' frames in shared memory."""

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
        names = [spec.name for spec in self.specs]
        if len(set(names)) < len(names):
            raise ValueError(f"models={','.join(names)}: must each have a name of its own")
        if sum(len(msgspec.msgpack.encode(model)) for model in self.models) > MAX_MODELS_BYTES:
            raise ValueError(
                f"models={','.join(names)}: descriptions must be at most {MAX_MODELS_BYTES} bytes together"
            )
        for name, low, high in (
            ("max_pixels", 64, 1 << 26),
            ("num_slots", 2, 1024),
            ("chunk_latents", 1, 64),
            ("num_inlet_chunks", 6, 1024),
            ("device_memory_bytes", PAGE_BYTES, 1 << 50),
            ("park_bytes", 0, 1 << 50),
            ("max_restarts", 0, 1000),
            ("chunk_timeout_s", 0.1, 3600.0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value}: must be {low}..{high}")
        for spec in self.specs:
            if spec.spatial_factor**2 > self.max_pixels:
                allowed = f"at least {spec.spatial_factor**2}, which one cell of model {spec.name!r} makes"
                raise ValueError(f"max_pixels={self.max_pixels}: must be {allowed}")
        for width, height in self.warm_up:
            self._check_warm_up(width, height)

    @property
    def specs(self) -> tuple[DecoderSpec, ...]:
        """Of the models, in their order."""
        return tuple(model.spec for model in self.models)

    @property
    def reads_films(self) -> bool:
        """They are searched, or mapped."""
        return self.embedding is not None or self.saliency is not None

    @property
    def num_inlet_slots(self) -> int:
        """One for each latent."""
        return self.num_inlet_chunks * self.chunk_latents

    @property
    def slot_bytes(self) -> int:
        """Payload bytes of a frame slot: the most frames that a chunk of one latent can give, at `max_pixels`."""
        frames = max(spec.most_frames(1) for spec in self.specs)
        return frames * self.max_pixels * SLOT_BYTES_PER_PIXEL

    @property
    def inlet_slot_bytes(self) -> int:
        """Payload bytes of an inlet slot: one float32 latent at `max_pixels`."""
        return max(
            spec.channels * (self.max_pixels // spec.spatial_factor**2) * LatentDtype.FLOAT32.itemsize_bytes
            for spec in self.specs
        )

    @property
    def sample_slot_bytes(self) -> int:
        """Payload bytes of a sample slot: a batch of a film's frames, a run of them, or one frame of an excerpt."""
        side = self.embedding.side if self.embedding else 0
        return max(
            MAX_BATCH_FRAMES * (side * side * 3 + HISTOGRAM_BYTES),
            MOST_FRAMES * self.saliency.frame_bytes if self.saliency else 0,
            self.max_pixels * SLOT_BYTES_PER_PIXEL,
        )

    def _check_warm_up(self, width: int, height: int) -> None:
        field = f"warm_up={width}x{height}"
        if not 0 < width * height <= self.max_pixels:
            raise ValueError(f"{field}: must be a size of up to {self.max_pixels} pixels, as max_pixels says")
        for spec in self.specs:
            if width % spec.spatial_factor or height % spec.spatial_factor:
                raise ValueError(f"{field}: must be multiples of {spec.spatial_factor} for model {spec.name!r}")
