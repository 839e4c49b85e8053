"""One stream of latents for several sessions: each gets all of them, at its own pace. Runs on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator

from framehaul_client.core.latents import LatentArray


def tee(latents: AsyncIterable[LatentArray], count: int) -> list[AsyncIterator[LatentArray]]:
    """Make `count` iterators of an iterable that can be read once.

    Latents that the slower ones haven't taken wait in memory.
    """
    source, turn = aiter(latents), asyncio.Lock()
    queues: list[deque[LatentArray]] = [deque() for _ in range(count)]

    async def take(own: deque[LatentArray]) -> AsyncIterator[LatentArray]:
        while True:
            async with turn:
                if not own:
                    try:
                        latent = await anext(source)
                    except StopAsyncIteration:
                        return
                    for queue in queues:
                        queue.append(latent)
            yield own.popleft()

    return [take(own) for own in queues]
