"""What every test of the client's parts gets."""

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """No thread of the client outlives its test."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("framehaul")]
    assert not left
