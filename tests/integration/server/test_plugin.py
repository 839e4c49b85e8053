"""The decoder that docs/models.md has as an example, installed and named, in a real server."""

import asyncio
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_client import FrameClient
from tests.support.server_process import ServerProcess, running_server

PAGE = Path(__file__).parents[3] / "docs/models.md"
CHANNELS = 5
TO_RGB = np.random.default_rng(1).uniform(-0.3, 0.3, (3, CHANNELS)).astype(np.float32)
CLIP = np.random.default_rng(2).standard_normal((9, CHANNELS, 4, 6), np.float32).astype(np.float16)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's modules."""
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "LinearPreview", "channels": CHANNELS}))
    save_file({"to_rgb": TO_RGB}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def install(site: Path) -> None:
    """What an installer makes of the example's pyproject.toml."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    entries = tomllib.loads(text)["project"]["entry-points"]["framehaul.decoders"]
    information = site / "preview-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: preview\nVersion: 1\n")
    lines = ["[framehaul.decoders]", *(f"{name} = {value}" for name, value in entries.items())]
    (information / "entry_points.txt").write_text("\n".join(lines))


async def stream(server: ServerProcess) -> np.ndarray:
    async with FrameClient(server.target) as client, client.session(CLIP, model="shots") as session:
        return np.stack([frame.copy() async for frame in session])


@pytest.mark.parametrize("installed", [True, False])
def test_the_example_is_served(tmp_path: Path, site: Path, weights: Path, *, installed: bool) -> None:
    """As an installed package, and as a module that is named; beside a model of ours, and ready to be replaced."""
    if installed:
        install(site)
    plugin = () if installed else ("--plugin", "preview")
    models = ("--model", "tiny", "--model", f"shots={weights}")
    with running_server(tmp_path / "log", *plugin, *models, "--standby") as server:
        frames = asyncio.run(stream(server))
        server.standby()
        assert "standby can't import" not in server.log
    values = np.einsum("tchw,rc->thwr", CLIP.astype(np.float32), TO_RGB).repeat(8, axis=1).repeat(8, axis=2)
    assert frames.shape == values.shape
    assert np.abs(frames - (values.clip(-1, 1) + 1) * 127.5).max() < 1


def test_the_example_is_about_fifty_lines() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert 40 < sum(bool(line.strip()) for block in blocks for line in block.splitlines()) < 60
