"""The example in `docs/examples`: from a Wan pipeline's latents to frames, with random weights."""

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from tests.support.clips import decode
from tests.support.server_process import running_server

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "wan_to_framehaul.py"
NUM_FRAMES, HEIGHT, WIDTH, TEXT_DIM = 9, 32, 48, 16


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wan_to_framehaul", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline() -> WanPipeline:
    """A whole pipeline but for the text encoder, small enough for seconds on the CPU."""
    torch.manual_seed(7)
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=transformer.eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request() -> dict[str, Any]:
    """The same video each time."""
    torch.manual_seed(8)
    return {
        "prompt_embeds": torch.randn(1, 4, TEXT_DIM),
        "negative_prompt_embeds": torch.randn(1, 4, TEXT_DIM),
        "generator": torch.Generator().manual_seed(9),
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": NUM_FRAMES,
        "num_inference_steps": 2,
    }


def test_frames_are_those_of_the_pipeline(example: ModuleType, pipeline: WanPipeline, tmp_path: Path) -> None:
    """Within one level of what the pipeline itself decodes of the same noise; and the file holds as many."""
    pipeline.vae.save_pretrained(tmp_path / "vae")
    (expected,) = pipeline(**request(), output_type="np").frames  # [F, H, W, 3] in 0..1
    without_vae = WanPipeline(**{**pipeline.components, "vae": None})
    without_vae.set_progress_bar_config(disable=True)
    latents = example.sample(without_vae, **request())
    assert latents.shape == (3, 16, HEIGHT // 8, WIDTH // 8)
    video = tmp_path / "video.mp4"
    with running_server(tmp_path / "server.log", "--model", f"wan={tmp_path / 'vae'}") as server:
        frames = asyncio.run(decode(server.target, latents, model="wan", normalized=True))
        asyncio.run(example.save(latents, str(video), target=server.target, model="wan"))
    assert frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    assert np.abs(frames.astype(int) - np.round(expected * 255).astype(int)).max() <= 1
    assert frames.std() > 1, "not a blank"
    with av.open(str(video)) as file:
        sizes = [(frame.height, frame.width) for frame in file.decode(video=0)]
    assert sizes == [(HEIGHT, WIDTH)] * NUM_FRAMES
