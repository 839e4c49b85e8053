"""What the server is told to serve: refused in one line when it can't be, and warm before the first client comes."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from framehaul.v1 import frames_pb2 as pb
from tests.integration.server.conftest import StartServer
from tests.support.server_process import COMMON_OPTIONS, Client, eventually, latents, opening


def start(*options: str) -> "subprocess.CompletedProcess[str]":
    """Start a server that is to end by itself."""
    command = [sys.executable, "-m", "framehaul_server.cli", *COMMON_OPTIONS, *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEHAUL_")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("config", "weights", "text"),
    [
        (b"{", b"", "config.json=no JSON: must be a JSON object"),
        (
            b'{"_class_name": "AutoencoderOobleck"}',
            b"",
            "_class_name=AutoencoderOobleck: must be one of AutoencoderKLWan",
        ),
        (b'{"_class_name": "AutoencoderKLWan", "z_dim": 0}', b"", "z_dim=0: must be a whole number in 1..256"),
        (b'{"_class_name": "AutoencoderKLWan"}', b"", "=none: must be a folder with diffusion_pytorch_model"),
        (b'{"_class_name": "AutoencoderKLWan"}', pickle.dumps({}), "diffusion_pytorch_model.safetensors="),
    ],
    ids=["json", "class", "field", "no weights", "pickle"],
)
def test_a_model_that_cannot_be_served_ends_the_start_with_code_2(
    tmp_path: Path, config: bytes, weights: bytes, text: str
) -> None:
    """In one line that names the model and the place, before any worker is started."""
    (tmp_path / "config.json").write_bytes(config)
    if weights:
        (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    ended = start("--model", "tiny", "--model", f"wan={tmp_path}")
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if "error:" in line)
    assert line.startswith("server: error: model wan: ")
    assert line.endswith(f"(in {tmp_path})")
    assert text in line
    assert "Traceback" not in ended.stderr


def test_a_restarted_worker_is_as_warm_as_the_first(start_server: StartServer) -> None:
    """Each decodes the named sizes before it is ready, and then serves."""
    server = start_server("--warm-up", "64x64,128x64", "--chunk-latents", "2")

    def num_warm_ups() -> int:
        lines = [line for line in server.log.splitlines() if "warm-up model=tiny" in line]
        assert all("size=64x64 chunks=1,1,2 " in line or "size=128x64 chunks=1,1,2 " in line for line in lines)
        return len(lines)

    assert num_warm_ups() == 2
    server.worker().kill()
    eventually(lambda: server.log.count("worker ready") == 2, "a second worker")
    assert num_warm_ups() == 4
    with server.channel() as channel, Client(channel) as client:
        client.send(latents(2), open=opening(), end_of_latents=True)
        assert len(client.read_to_end()) == 8


def test_the_answer_names_the_state_of_a_session(start_server: StartServer) -> None:
    """As `client models` shows it."""
    with start_server().stub() as stub:
        (tiny,) = stub.GetServerInfo(pb.GetServerInfoRequest()).models
    assert (tiny.state_bytes_per_pixel, tiny.normalization) == (138.0, False)
