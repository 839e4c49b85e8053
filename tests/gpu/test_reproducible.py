"""Reproducible sessions on the GPU: the same bytes from servers that know nothing of each other."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from framehaul_pipeline.models.model import TINY, Model, describe_model
from tests.support.clips import make_clip
from tests.support.reproducing import digest, digest_beside_others, digest_one_by_one
from tests.support.running_app import running_app

pytestmark = [pytest.mark.needs_cuda, pytest.mark.asyncio]

CLIP = make_clip(12, height=24, width=32, seed=4)


def wan(folder: Path) -> Model:
    """At its published size, with random weights."""
    torch.manual_seed(5)
    AutoencoderKLWan().to(torch.bfloat16).save_pretrained(folder)
    return describe_model(f"wan={folder}")


@pytest.mark.parametrize("name", ["tiny", "wan"])
async def test_servers_with_other_chunks_kernels_and_loads_give_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One times plans and replays graphs, one times them again; one has seen neither size nor plans."""
    others = (wan(tmp_path / "wan"),) if name == "wan" else ()
    spec = (TINY, *others)[-1].spec
    found: dict[str, str] = {}
    for server, options in {
        "warm": ("--chunk-latents", "4", "--warm-up", "256x192"),
        "warm again": ("--chunk-latents", "2", "--warm-up", "256x192,64x64"),
        "cold": ("--chunk-latents", "3", "--max-size", "1280x720"),
    }.items():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / server))
        async with running_app("--device", "cuda", *options, models=(TINY, *others)) as app:
            found[f"{server}, alone"] = await digest(app.target, CLIP, spec=spec)
            found[f"{server}, one by one"] = await digest_one_by_one(app.target, CLIP, spec)
            found[f"{server}, beside others"] = await digest_beside_others(app.target, CLIP, spec)
    assert len(set(found.values())) == 1, found
