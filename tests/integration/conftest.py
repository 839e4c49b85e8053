"""Servers as processes: one that tests share, and a way to start others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.server_process import SAME_CHUNKS, ServerProcess, running_server

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all tests that neither need other options nor end it, with small limits so that they can be met.

    Its worker may be killed: another one is there for the next test.
    """
    log = tmp_path_factory.mktemp("server") / "log"
    options = ("--allow-synthetic", "--reflection", "--max-request-mib", "1", "--session-window-mib", "1")
    with running_server(log, *options, "--resume-window", "5", *SAME_CHUNKS) as running:
        yield running


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of the test's own: `start_server("--grace", "1")`."""
    with ExitStack() as stack:

        def start(*options: str) -> ServerProcess:
            return stack.enter_context(running_server(tmp_path / "log", *options))

        yield start
