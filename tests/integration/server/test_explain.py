"""`server --explain` as a process, and what real servers then say."""

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.integration.conftest import StartServer
from tests.support.call import Call
from tests.support.clips import LATENT_BYTES, opening
from tests.support.server_process import ended_server, environment

STARTS_NOTHING = """
import sys
STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "socket.bind")
sys.addaudithook(lambda event, arguments: event in STARTS and sys.exit(f"{event} was called"))
from framehaul_server.__main__ import main
assert main() == 0
assert "torch" not in sys.modules
"""
MARBLES = """
from framehaul_pipeline.models.model import DecoderKind
from framehaul_pipeline.spec import DecoderSpec, Exactness

SPEC = DecoderSpec(
    name="marbles", channels=16, spatial_factor=8, temporal_factor=1, first_frames=1,
    lookahead_latents=0, exactness=Exactness.FULL, receptive_latents=1, state_bytes_per_pixel=512.0,
)
DECODER = DecoderKind(kind="marbles", loader="marbles_decoder:Marbles", models=(SPEC,))
"""
MARBLES_DECODER = """
import torch

class Marbles:
    dtype = torch.float32

    def __init__(self, model, device, plans):
        self.spec = model.spec

    def open(self, geometry, num_latents, *, first_latent=0):
        return [torch.zeros(self.state_bytes(geometry) // 4)]

    def next_chunk(self, index, available, wanted, *, ended):
        return min(1, available)

    def step(self, latents, state):
        return latents.new_zeros(1, 3, 8 * latents.shape[2], 8 * latents.shape[3]), state

    def flush(self, state):
        return None

    def state_bytes(self, geometry):
        return geometry.height * geometry.width * 64 * 512 * 2

    def workspace_bytes(self, geometry, num_latents):
        return 1
"""


def test_explaining_starts_nothing() -> None:
    """No process, no socket and no torch."""
    command = [sys.executable, "-c", STARTS_NOTHING, "--explain", "--model", "tiny", "--max-size", "1280x720"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Sessions of tiny" in done.stdout


@pytest.mark.parametrize("options", [(), ("--explain",)])
def test_a_host_that_is_too_small_ends_the_start(options: tuple[str, ...]) -> None:
    """Before a worker is started, and whether or not it was asked what is needed."""
    ended = ended_server("--park-gib", "1000000", *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "server: error: --park-gib 1000000: must be at most " in ended.stderr
    assert "worker" not in ended.stderr


def test_as_many_sessions_fit_as_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """Of a decoder that takes nothing beside states; rings and states are as large as was said, too."""
    (tmp_path / "marbles.py").write_text(MARBLES)
    (tmp_path / "marbles_decoder.py").write_text(MARBLES_DECODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ("--plugin", "marbles", "--model", "marbles", "--warm-up", "64x64", "--device-memory-gib", "0.017")
    told = ended_server(*options, "--explain").stdout
    (shared_mib,) = re.findall(r"^  both +(\S+) MiB$", told, re.MULTILINE)
    ((state_mib, num_sessions),) = re.findall(r"^  64x64 .* (\S+) MiB +(\d+) +-$", told, re.MULTILINE)
    server = start_server(*options)
    assert f" {float(shared_mib) * (1 << 20) / 1e6:.0f} MB shared memory" in server.ready_line
    assert num_sessions == "4"
    used_bytes = []
    with ExitStack() as stack:

        def begin() -> Call:
            client = stack.enter_context(Call(stack.enter_context(server.channel())))
            client.send(bytes(LATENT_BYTES), open=opening(model="marbles"))
            return client

        for _ in range(4):
            begin().read_frames(1)
            used_bytes.append(server.load().session_memory_used_bytes)
        with pytest.raises(grpc.RpcError) as refused:
            begin().read_to_end()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert used_bytes[1] - used_bytes[0] == float(state_mib) * (1 << 20)
