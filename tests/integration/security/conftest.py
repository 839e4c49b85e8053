"""An authority, and a server that wants tokens."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from framehaul.v1 import frames_pb2 as pb
from tests.support.certificates import Authority
from tests.support.server_process import ServerProcess, running_server
from tests.support.waiting import wait_until


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class TokenServer:
    """A server that wants tokens, and the file of them, which it reads whenever that has changed."""

    def __init__(self, process: ServerProcess, file: Path) -> None:
        self.process = process
        self.target = process.target
        self._file = file

    def let_in(self, **tenants: str) -> None:
        """Only these from now on: each with one token, called `TENANT-token`, and with these lines in the file."""
        write_tokens(self._file, **tenants)

    def expect_idle(self) -> None:
        self.let_in(observer="")
        with self.process.stub() as stub:
            info = partial(stub.GetServerInfo, pb.GetServerInfoRequest(), metadata=credentials("observer"))
            wait_until(lambda: not info().load.sessions, "nothing held any more")


def write_tokens(path: Path, **tenants: str) -> None:
    tables = [
        f'[tenants.{name}]\ntoken_sha256 = ["{hashlib.sha256(f"{name}-token".encode()).hexdigest()}"]\n{more}\n'
        for name, more in tenants.items()
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(tables))


def credentials(tenant: str) -> tuple[tuple[str, str], ...]:
    """Metadata with the tenant's token."""
    return (("authorization", f"Bearer {tenant}-token"),)


@pytest.fixture(scope="package")
def shared_token_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    folder = tmp_path_factory.mktemp("server")
    tokens = folder / "tokens.toml"
    write_tokens(tokens, observer="")
    options = ("--tokens", str(tokens), "--reflection", "--allow-synthetic", "--session-window-mib", "2")
    with running_server(folder / "log", *options) as running:
        yield TokenServer(running, tokens)


@pytest.fixture
def token_server(shared_token_server: TokenServer) -> TokenServer:
    """One for all tests, with no session left of the test before."""
    shared_token_server.expect_idle()
    return shared_token_server
