"""What every test of the client's parts gets."""

import threading
from collections.abc import Iterator

import pytest

_ENDING_S = 60.0
"""For a thread that has been told to end, as an aborted video's encoders are, and does so on a busy machine."""


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """No thread of the client outlives its test."""
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith("framehaul")]
    for thread in left:
        thread.join(_ENDING_S)
    assert not [thread.name for thread in left if thread.is_alive()]
