"""A worker that dies in mid-chunk on the GPU: the standby replays the same bytes.

`tiny` and Wan run through CUDA graphs there, Wan by cuDNN plans that the dead worker has found by trial and that no
file keeps here; the library's by those that round as the first one of its heuristics.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo, AutoencoderKLWan

from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import DecoderSpec
from tests.faults.harm import Harm
from tests.faults.worker_loss import HARM_AT, fragile_app, lose_worker
from tests.support.running_app import RunningApp

pytestmark = [pytest.mark.needs_cuda, pytest.mark.asyncio(loop_scope="module")]

WIDTHS = (64, 128, 256, 256)
BLOCKS = {
    "block_out_channels": WIDTHS,
    "down_block_types": ("DownEncoderBlock2D",) * len(WIDTHS),
    "up_block_types": ("UpDecoderBlock2D",) * len(WIDTHS),
    "latent_channels": 16,
}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "wan": (AutoencoderKLWan, {}),
    "pictures": (AutoencoderKL, BLOCKS),
    "hunyuan": (AutoencoderKLHunyuanVideo, {"block_out_channels": WIDTHS}),
}
"""With random weights; Wan at its published size."""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harm") / "once"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(once: Path) -> AsyncIterator[RunningApp]:
    async with fragile_app("cuda", once) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODELS)
async def served(
    request: pytest.FixtureRequest, once: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[RunningApp, DecoderSpec]]:
    """A server of `tiny` and another model."""
    kind, config = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(5)
    kind(**config).to(torch.bfloat16).save_pretrained(folder)
    model = describe_model(f"{request.param}={folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "/dev/null")
        async with fragile_app("cuda", once, model) as running:
            yield running, model.spec


@pytest.mark.parametrize("harm", [Harm.KILL_DECODING, Harm.KILL_COPYING, Harm.KILL_STAMPING], ids=lambda h: h.name)
async def test_a_session_goes_on_with_the_standby(
    app: RunningApp, once: Path, harm: Harm, recovered: Callable[[str, float], None]
) -> None:
    """Every frame once, bit for bit: before the chunk is launched, while it is copied, before it is published."""
    recovered(f"tiny, {harm.name.lower()} -> next frame", await lose_worker(app, harm, once))


@pytest.mark.parametrize("harm_at", [HARM_AT, 52])
async def test_every_decoder_replays_the_same_bytes(
    served: tuple[RunningApp, DecoderSpec], once: Path, harm_at: int, recovered: Callable[[str, float], None]
) -> None:
    """From the clip's start on, and, where a decoder's memory is finite, from the middle."""
    app, spec = served
    took_s = await lose_worker(app, Harm.KILL_COPYING, once, spec, harm_at)
    recovered(f"{spec.name}, worker killed at latent {harm_at} -> next frame", took_s)
