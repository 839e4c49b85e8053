from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.server_process import ServerProcess, running_server

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of the test's own: `start_server("--grace", "1")`."""
    with ExitStack() as stack:

        def start(*options: str) -> ServerProcess:
            return stack.enter_context(running_server(tmp_path / "log", *options))

        yield start
