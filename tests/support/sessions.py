"""Latents, and a session that is read to its end."""

from typing import Any

import numpy as np

from framehaul_client import FrameClient
from tests.support.fake_server import CHANNELS

RGB_SHAPE = (16, 32, 3)
YUV_SHAPE = (24, 32)


def make_latents(num_latents: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal((num_latents, CHANNELS, 2, 4)).astype(np.float16)


async def collect(client: FrameClient, latents: Any, **options: Any) -> np.ndarray[Any, Any]:
    async with client.session(latents, **({"retry_for_s": 0.0} | options)) as session:
        return np.stack([frame async for frame in session])
