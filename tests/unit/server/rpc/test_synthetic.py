import asyncio

import numpy as np
import pytest

from framehaul.formats import LatentDtype
from framehaul_pipeline.errors import Overloaded
from framehaul_pipeline.spec import Geometry
from framehaul_server.core.latents import check_finite
from framehaul_server.rpc.synthetic import SyntheticFeed, SyntheticLatents

GEOMETRY = Geometry(channels=16, height=30, width=52)


@pytest.mark.parametrize("dtype", list(LatentDtype))
def test_the_same_seed_and_index_give_the_same_latent_and_others_give_others(dtype: LatentDtype) -> None:
    first = SyntheticLatents(7, GEOMETRY, dtype)
    again = SyntheticLatents(7, GEOMETRY, dtype)
    assert bytes(first.latent(3)) == bytes(again.latent(3))
    assert bytes(first.latent(3)) != bytes(first.latent(4))
    assert bytes(first.latent(3)) != bytes(SyntheticLatents(8, GEOMETRY, dtype).latent(3))
    assert len(first.latent(0)) == GEOMETRY.latent_bytes(dtype)
    check_finite(first.latent(5), dtype, 5)


def test_latents_look_like_normalised_ones_in_every_dtype() -> None:
    wide = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.FLOAT32).latent(0), np.float32)
    half = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.FLOAT16).latent(0), np.float16)
    brain = np.frombuffer(SyntheticLatents(1, GEOMETRY, LatentDtype.BFLOAT16).latent(0), np.uint16)
    assert abs(float(wide.mean())) < 0.05
    assert abs(float(wide.std()) - 1) < 0.05
    assert np.allclose(half, wide, rtol=1e-3, atol=1e-3)
    assert np.allclose((brain.astype(np.uint32) << 16).view(np.float32), wide, rtol=1e-2)


@pytest.mark.asyncio
async def test_a_feed_makes_latents_one_at_a_time_when_there_is_room() -> None:
    feed = SyntheticFeed(GEOMETRY, LatentDtype.FLOAT16)
    made: list[bytes] = []
    room = asyncio.Semaphore(0)

    async def wait_for_room() -> None:
        await room.acquire()

    running = asyncio.ensure_future(feed.run(lambda latent: made.append(bytes(latent)), wait_for_room))
    feed.add(5, 2)
    feed.add(6, 1)
    room.release()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(made) == 1
    feed.end()
    room.release()
    room.release()
    await running
    of_5, of_6 = (SyntheticLatents(seed, GEOMETRY, LatentDtype.FLOAT16) for seed in (5, 6))
    assert made == [bytes(of_5.latent(0)), bytes(of_5.latent(1)), bytes(of_6.latent(2))]


@pytest.mark.asyncio
async def test_a_feed_waits_for_clips_and_ends_without_any() -> None:
    feed = SyntheticFeed(GEOMETRY, LatentDtype.FLOAT16)

    async def at_once() -> None:
        pass

    running = asyncio.ensure_future(feed.run(lambda latent: None, at_once))
    await asyncio.sleep(0)
    assert not running.done()
    feed.end()
    await running


@pytest.mark.asyncio
async def test_waiting_clips_are_bounded() -> None:
    feed = SyntheticFeed(GEOMETRY, LatentDtype.FLOAT16)
    for _ in range(1024):
        feed.add(0, 1)
    with pytest.raises(Overloaded, match="1024 clips"):
        feed.add(0, 1)
