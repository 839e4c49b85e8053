"""What tests have decoded: latents of noise, and their frames by the reference client."""

from typing import Any

import numpy as np
import numpy.typing as npt

from framehaul.v1 import frames_pb2 as pb
from framehaul_client import Access, FrameClient

CHANNELS = 16
SIZE = 8  # latents of 8x8: frames of 64x64 pixels
LATENT_BYTES = CHANNELS * SIZE * SIZE * 2
FRAME_BYTES = 64 * 64 * 3
FRAMES_OF_A_LATENT = 4
Clip = npt.NDArray[np.float16]
Frames = npt.NDArray[np.uint8]


def make_clip(
    num_latents: int, *, height: int = SIZE, width: int = SIZE, channels: int = CHANNELS, seed: int = 0
) -> Clip:
    """Noise `[T, C, h, w]`, of the built-in model's geometry unless told otherwise."""
    noise = np.random.default_rng(seed).standard_normal((num_latents, channels, height, width), dtype=np.float32)
    return noise.astype(np.float16)


def latents(num_latents: int, seed: int = 0) -> bytes:
    """The same as a message has it."""
    return make_clip(num_latents, seed=seed).tobytes()


def opening(**changes: object) -> pb.Open:
    """A correct `Open` of the built-in model for such clips, with some fields changed."""
    fields: dict[str, object] = {
        "model": "tiny",
        "geometry": pb.LatentGeometry(channels=CHANNELS, height=SIZE, width=SIZE),
        "dtype": pb.DATA_TYPE_FLOAT16,
        "normalized": True,
    }
    return pb.Open(**{**fields, **changes})  # type: ignore[arg-type]


EXPLICIT = opening(mode=pb.MODE_EXPLICIT, window_frames=8)


async def decode(target: str, clip: Any, *, access: Access | None = None, **options: Any) -> Frames:
    """All frames, `[F, H, W, 3]` if not in another format."""
    async with FrameClient(target, access=access) as client, client.session(clip, **options) as session:
        return np.stack([frame async for frame in session])


async def collect(client: FrameClient, clip: Any, **options: Any) -> Frames:
    """The same of a connection's next session, which isn't tried again unless told so."""
    async with client.session(clip, **({"retry_for_s": 0.0} | options)) as session:
        return np.stack([frame async for frame in session])
