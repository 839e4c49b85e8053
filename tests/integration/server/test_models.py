"""What the server is told to serve, and can't."""

import pickle
from pathlib import Path

import pytest

from tests.support.server_process import ended_server


@pytest.mark.parametrize(
    ("config", "weights", "text"),
    [
        (b'{"_class_name": "AutoencoderKLWan", "z_dim": 0}', b"", "z_dim=0: must be a whole number in 1..256"),
        (b'{"_class_name": "AutoencoderKLWan"}', pickle.dumps({}), "diffusion_pytorch_model.safetensors="),
    ],
    ids=["field", "pickle"],
)
def test_a_model_that_cannot_be_served_ends_the_start_with_code_2(
    tmp_path: Path, config: bytes, weights: bytes, text: str
) -> None:
    """In one line that names the model and the place, before any worker is started."""
    (tmp_path / "config.json").write_bytes(config)
    if weights:
        (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    ended = ended_server("--model", "tiny", "--model", f"wan={tmp_path}")
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if "error:" in line)
    assert line.startswith("server: error: model wan: ")
    assert line.endswith(f"(in {tmp_path}); --help says more")
    assert text in line
    assert "Traceback" not in ended.stderr
