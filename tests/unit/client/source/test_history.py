import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_client.core.latents import Layout
from framehaul_client.errors import InvalidLatents
from framehaul_client.source.history import LatentHistory
from framehaul_client.source.latents_file import LatentsFile

pytestmark = pytest.mark.asyncio
CLIP = np.arange(6 * 2, dtype=np.float16).reshape(6, 2, 1, 1)


async def rest(history: LatentHistory) -> np.ndarray[Any, Any]:
    """All latents from where it stands."""
    blocks = []
    while (block := await history.next()) is not None:
        blocks.append(block)
    return np.concatenate(blocks)


def one_by_one() -> Iterator[np.ndarray[Any, Any]]:
    yield from CLIP


def in_blocks() -> Iterator[np.ndarray[Any, Any]]:
    yield CLIP[:1]
    yield CLIP[1:4]
    yield CLIP[4:]


async def async_latents() -> AsyncIterator[np.ndarray[Any, Any]]:
    for latent in CLIP:
        yield latent


def reusing_memory() -> Iterator[np.ndarray[Any, Any]]:
    latent = np.empty_like(CLIP[0])
    for each in CLIP:
        latent[:] = each
        yield latent


def from_file(path: Path) -> LatentsFile:
    save_file({"latents": CLIP}, path / "a.safetensors")
    return LatentsFile(path / "a.safetensors")


@pytest.mark.parametrize("kind", ["array", "list", "file", one_by_one, in_blocks, async_latents, reusing_memory])
async def test_any_source_can_be_sent_again_from_any_latent(kind: Any, tmp_path: Path) -> None:
    """Back and forth, as servers come and go; at the end as well."""
    file = from_file(tmp_path) if kind == "file" else None
    latents: Any = {"array": CLIP, "list": list(CLIP), "file": file}[kind] if isinstance(kind, str) else kind()
    history = LatentHistory(latents, None)
    assert (await history.next()) is not None
    for index in (0, 3, 2, 6, 5):
        await history.rewind(0)
        while history.position < index:
            await history.next()
        await history.rewind(index)
        assert history.position == index
        if index < len(CLIP):
            assert np.array_equal(await rest(history), CLIP[index:])
        assert await history.next() is None
    assert history.latents.shape == (2, 1, 1)
    await history.aclose()
    await history.aclose()
    if file is not None:
        file.close()


@pytest.mark.parametrize("layout", [Layout.CTHW, None])
async def test_blocks_of_an_iterator_have_the_clips_layout(layout: Layout | None) -> None:
    """Each is a clip's part, single latents too; a batch of one is one."""
    blocks = [CLIP[0], CLIP[1:].swapaxes(0, 1)[None]] if layout is None else [CLIP[:2].swapaxes(0, 1), *CLIP[2:]]
    history = LatentHistory(iter(blocks), None, layout)
    assert np.array_equal(await rest(history), CLIP)
    await history.aclose()


async def test_what_is_no_longer_needed_is_let_go_and_can_not_come_back() -> None:
    """Memory of an iterator's latents is bounded by what the decoder reaches back to."""
    history = LatentHistory(in_blocks(), None)
    await rest(history)
    history.forget(3)
    await history.rewind(1)
    assert np.array_equal(await rest(history), CLIP[1:])
    history.forget(4)
    with pytest.raises(InvalidLatents, match=r"latent 3: only 4\.\.6 can be sent again"):
        await history.rewind(3)
    history.forget(100)
    await history.aclose()


async def test_a_wait_that_is_cancelled_loses_no_latent() -> None:
    """The iterator goes on: a generator that is cancelled would have ended."""
    ready = asyncio.Event()

    async def slow() -> AsyncIterator[np.ndarray[Any, Any]]:
        yield CLIP[0]
        await ready.wait()
        yield CLIP[1]

    history = LatentHistory(slow(), None)
    await history.next()
    for _ in range(2):
        waiting = asyncio.create_task(history.next())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    ready.set()
    assert np.array_equal(await rest(history), CLIP[1:2])
    await history.aclose()


async def test_closing_ends_an_iterator_that_is_waited_for() -> None:
    """And closes it."""
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[np.ndarray[Any, Any]]:
        try:
            await asyncio.Event().wait()
            yield CLIP[0]
        finally:
            closed.set()

    history = LatentHistory(endless(), None)
    waiting = asyncio.create_task(history.next())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await history.aclose()
    assert closed.is_set()


async def test_latents_of_another_kind_are_refused() -> None:
    """Their place is named; without a first one there is no kind at all."""
    history = LatentHistory([CLIP[0], np.zeros((3, 1, 1), np.float16)], None)
    with pytest.raises(InvalidLatents, match="no latents"):
        _ = history.latents
    await history.next()
    with pytest.raises(InvalidLatents, match="latent 1 is float16"):
        await history.next()
    await history.aclose()


@pytest.mark.parametrize("kind", [one_by_one, in_blocks, async_latents])
async def test_a_part_of_a_clip_begins_at_its_first_latent(kind: Any) -> None:
    """Of what can be read but once, those before it are read and dropped."""
    history = LatentHistory(kind(), None)
    assert (await history.next()) is not None
    await history.rewind(4)
    assert np.array_equal(await rest(history), CLIP[4:])
    with pytest.raises(InvalidLatents, match="latent 7"):
        await history.rewind(7)
    await history.aclose()
