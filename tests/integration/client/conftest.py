"""Servers to talk to, and a check that the client leaves nothing behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.fake_server import Behaviour, fake_server


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """No thread of the client outlives its test."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("framehaul")]
    assert not left


@pytest.fixture
def behaviour() -> Behaviour:
    """How the fake server behaves; a test may change it before it connects."""
    return Behaviour()


@pytest_asyncio.fixture
async def target(behaviour: Behaviour) -> AsyncIterator[str]:
    """A fake server's address; checks that no task of the client outlives the test."""
    async with fake_server(behaviour) as address:
        yield address
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("framehaul")]
        assert not left
