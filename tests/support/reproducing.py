"""A clip decoded in reproducible sessions that have it easy and hard: the digests of their frames."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from framehaul_client import FrameClient
from framehaul_pipeline.models.model import TINY_SPEC
from framehaul_pipeline.spec import DecoderSpec
from tests.support.clips import Clip, collect, make_clip


async def digest(
    target: str,
    clip: Clip,
    *,
    spec: DecoderSpec = TINY_SPEC,
    latents: AsyncIterator[Clip] | None = None,
    reproducible: bool | None = True,
    taken: Callable[[int], object] = lambda _: None,
    **options: Any,
) -> str:
    """SHA-256 of all frames, in half floats, which show more of how values were rounded than 256 levels do.

    Args:
        target: of the server.
        clip: what is decoded.
        spec: of the model.
        latents: the same, where they come in a way of their own.
        reproducible: None where the server is asked to know.
        taken: called with the number of frames so far.
        options: of the session.
    """
    found = hashlib.sha256()
    num_frames = 0
    options |= {"model": spec.name, "pixel_format": "gbrpf16le", "reproducible": reproducible}
    async with FrameClient(target) as client, client.session(latents or clip, **options) as session:
        assert session.opened.reproducible
        async for frame in session:
            found.update(frame.tobytes())
            num_frames += 1
            taken(num_frames)
    assert num_frames == spec.num_frames(len(clip))
    return found.hexdigest()


async def digest_one_by_one(target: str, clip: Clip, spec: DecoderSpec = TINY_SPEC) -> str:
    """A latent comes when the frames of the one before are there."""
    wanted = asyncio.Semaphore()
    ends = {spec.num_frames(num_latents) for num_latents in range(len(clip))}

    async def live() -> AsyncIterator[Clip]:
        for latent in clip:
            await wanted.acquire()
            yield latent

    def taken(num_frames: int) -> None:
        if num_frames in ends:
            wanted.release()

    return await digest(target, clip, spec=spec, latents=live(), taken=taken)


async def digest_beside_others(target: str, clip: Clip, spec: DecoderSpec = TINY_SPEC) -> str:
    """Other sessions, which aren't reproducible, have the same size and others."""
    num_latents, channels, height, width = clip.shape
    clips = [
        make_clip(num_latents, channels=channels, height=height, width=width + more, seed=more) for more in range(3)
    ]
    async with FrameClient(target) as client:
        others = [asyncio.create_task(collect(client, each, model=spec.name)) for each in clips]
        found = await digest(target, clip, spec=spec)
        await asyncio.gather(*others)
    return found
