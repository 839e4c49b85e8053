import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from framehaul_client.errors import InvalidLatents
from framehaul_client.source.iterators import open_source

pytestmark = pytest.mark.asyncio
LATENT = np.zeros((1, 1, 1), np.float16)


async def test_an_iterator_without_close_is_fine() -> None:
    """Any iterable will do; what can't be closed isn't."""

    class Endless:
        def __aiter__(self) -> "Endless":
            return self

        async def __anext__(self) -> Any:
            return LATENT

    for latents in ([LATENT], Endless()):
        source = open_source(latents)
        assert await source.next() is LATENT
        await source.aclose()
        await source.aclose()


async def test_the_end_is_none() -> None:
    """After the last latents there is nothing, again and again."""

    async def produce() -> AsyncIterator[Any]:
        yield LATENT

    for latents in (iter([LATENT]), produce()):
        source = open_source(latents)
        assert await source.next() is LATENT
        assert await source.next() is None
        assert await source.next() is None
        await source.aclose()


async def test_yielding_none_is_an_error_not_an_end() -> None:
    """A generator that forgot its value must not shorten the clip in silence."""

    async def produce() -> AsyncIterator[Any]:
        yield None

    for latents in (iter([None]), produce()):
        source = open_source(latents)  # type: ignore[arg-type]
        with pytest.raises(InvalidLatents, match="yielded None"):
            await source.next()
        await source.aclose()


async def test_what_cannot_be_iterated_over_is_refused() -> None:
    """At once, before any thread is started."""
    with pytest.raises(TypeError):
        open_source(5)  # type: ignore[arg-type]


async def test_a_source_that_was_never_asked_closes() -> None:
    """No thread was started, and none is needed."""
    await open_source(iter([LATENT])).aclose()


async def test_closing_does_not_wait_for_a_blocked_iterator() -> None:
    """The event loop goes on; the generator is closed when it comes back."""
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def produce() -> Iterator[Any]:
        try:
            entered.set()
            release.wait()
            yield LATENT
        finally:
            closed.set()

    source = open_source(produce())
    pull = asyncio.create_task(source.next())
    await asyncio.to_thread(entered.wait)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await asyncio.wait_for(source.aclose(), 60)
    assert not closed.is_set()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("framehaul-latents")]
    release.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert closed.is_set()
