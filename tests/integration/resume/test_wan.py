"""A Wan model in a real server goes on from as many latents back as its frames depend on, not from the clip's start."""

from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from framehaul_pipeline.models.model import Model, describe_model
from tests.faults.chunks import Notes, decode_in, noted
from tests.support.call import CHANNEL_OPTIONS, async_stream, request
from tests.support.clips import make_clip
from tests.support.running_app import RunningApp, running_app
from tests.support.wan_models import SHALLOW, wan

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {**SHALLOW, "dim_mult": [1, 2, 2], "temperal_downsample": [True, True]}
CHUNK_LATENTS = 3
NUM_LATENTS = 75
NUM_BEFORE = 62
"""Latents whose frames came before the worker is killed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("wan")
    wan(CONFIG, seed=5).save_pretrained(folder)
    return describe_model(f"wan={folder}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(model: Model) -> AsyncIterator[RunningApp]:
    models = ("--model", f"wan={model.path}", "--model", "tiny")
    async with running_app(*models, "--chunk-latents", str(CHUNK_LATENTS), "--max-restarts", "1000") as running:
        yield running


@pytest.fixture(scope="module")
def clip() -> npt.NDArray[np.float16]:
    return make_clip(NUM_LATENTS, channels=2, height=4, width=4, seed=8)


@pytest.fixture
def notes(app: RunningApp) -> Iterator[Notes]:
    with noted(app) as notes:
        yield notes


async def test_a_killed_worker_costs_no_more_latents_than_a_frame_depends_on(
    app: RunningApp, model: Model, clip: npt.NDArray[np.float16], notes: Notes
) -> None:
    """Late in a long clip; all frames are, bit for bit, those of a decode that nothing interrupted."""
    spec, history = model.spec, model.spec.history_latents
    assert history is not None
    num_before = spec.num_frames(NUM_BEFORE)
    async with FrameClient(app.target) as client, client.session(clip, model="wan", window_frames=16) as session:
        frames = [await anext(session) for _ in range(num_before)]
        app.worker.kill()
        frames += [frame async for frame in session]
    first, known = notes.check_replay(spec)
    assert known >= NUM_BEFORE
    assert first >= NUM_BEFORE - history - 3 * CHUNK_LATENTS > 0
    assert np.array_equal(np.stack(frames), await decode_in(app, spec, clip, tuple(notes.chunks.values())))


@pytest.mark.parametrize("start_frame", [150, 251])
async def test_a_session_starts_as_many_latents_back_as_a_frame_depends_on(
    app: RunningApp, model: Model, clip: npt.NDArray[np.float16], notes: Notes, start_frame: int
) -> None:
    """Its frames are, bit for bit, those of a decode of the whole clip that had the same chunks from there on."""
    spec, history = model.spec, model.spec.history_latents
    assert history is not None
    first = next(latent for latent in range(NUM_LATENTS) if spec.num_frames(latent + 1) > start_frame) - history
    assert first > 0
    opened = pb.Open(
        model="wan",
        geometry=pb.LatentGeometry(channels=2, height=4, width=4),
        dtype=pb.DATA_TYPE_FLOAT16,
        start_frame=start_frame,
        num_latents=NUM_LATENTS,
    )
    next_frame, payload = start_frame, b""
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        call = async_stream(channel)
        await call.write(request(clip[first:].tobytes(), open=opened, index=first, end_of_latents=True))
        async for raw in call:
            response = wire.split_response(raw)
            if response.header.HasField("opened"):
                assert response.header.opened.next_latent == first
                assert response.header.opened.history_latents == history
            if response.header.HasField("frames"):
                assert response.header.frames.first_frame == next_frame
                next_frame += response.header.frames.num_frames
                payload += bytes(response.payload)
    assert next_frame == spec.num_frames(NUM_LATENTS)
    assert notes.opened == [(first, ())]
    whole = await decode_in(app, spec, clip, (*[1] * first, *notes.chunks.values()))
    assert np.array_equal(np.frombuffer(payload, np.uint8).reshape(-1, 16, 16, 3), whole[start_frame:])
