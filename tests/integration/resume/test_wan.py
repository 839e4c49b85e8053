"""A Wan model in a real server goes on from as many latents back as its frames depend on, not from the clip's start."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb
from framehaul_client import FrameClient
from framehaul_pipeline.models import Model, describe_model
from framehaul_pipeline.spec import Geometry, LatentDtype, PixelFormat
from framehaul_server.journal import Journal
from framehaul_server.worker_link import WorkerHandle
from tests.faults.running_app import CHANNEL_OPTIONS, RunningApp, running_app
from tests.integration.pipeline.test_supervisor import Recorder
from tests.wan_models import SHALLOW, wan

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {**SHALLOW, "dim_mult": [1, 2, 2], "temperal_downsample": [True, True]}
CHUNK_LATENTS = 3
GEOMETRY = Geometry(channels=2, height=4, width=4)
NUM_LATENTS = 75
NUM_BEFORE = 62
"""Latents whose frames came before the worker is killed."""
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("wan")
    wan(CONFIG, seed=5).save_pretrained(folder)
    return describe_model(f"wan={folder}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(model: Model) -> AsyncIterator[RunningApp]:
    worker = {"models": (model, describe_model("tiny")), "chunk_latents": CHUNK_LATENTS, "max_restarts": 1000}
    async with running_app(worker=worker) as running:
        yield running


@pytest.fixture(scope="module")
def clip() -> npt.NDArray[np.float16]:
    shape = (NUM_LATENTS, GEOMETRY.channels, GEOMETRY.height, GEOMETRY.width)
    return np.random.default_rng(8).standard_normal(shape, dtype=np.float32).astype(np.float16)


class Notes:
    """What happened between the server and its workers."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, tuple[int, ...]]] = []
        """First latent and planned chunks of each worker session."""
        self.published: list[tuple[int, int]] = []
        """First latent and length of each chunk, as often as it was decoded."""

    @property
    def chunks(self) -> dict[int, int]:
        """Lengths of all chunks by their first latent."""
        assert len(dict(self.published)) == len(set(self.published)), "decoded again in the same chunks"
        return dict(sorted(self.published))


@pytest.fixture
def notes(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    noted = Notes()
    open_session, publish = app.supervisor.open, Journal.publish

    def opening(**given: Any) -> WorkerHandle:
        noted.opened.append((given["first_latent"], given["chunks"]))
        return open_session(**given)

    def publishing(
        journal: Journal, first_latent: int, chunks: tuple[int, ...], first_frame: int, crc32c: tuple[int, ...]
    ) -> None:
        noted.published.append((first_latent, sum(chunks)))
        publish(journal, first_latent, chunks, first_frame, crc32c)

    monkeypatch.setattr(app.supervisor, "open", opening)
    monkeypatch.setattr(Journal, "publish", publishing)
    yield noted
    monkeypatch.undo()


async def decode(app: RunningApp, latents: npt.NDArray[np.float16], chunks: tuple[int, ...]) -> Frames:
    """All frames, by one worker from the clip's start on, in these chunks."""
    recorder = Recorder()
    session = app.supervisor.open(
        model="wan",
        geometry=GEOMETRY,
        num_latents=len(latents),
        dtype=LatentDtype.FLOAT16,
        normalized=False,
        pixel_format=PixelFormat.RGB24,
        priority=0,
        first_latent=0,
        chunks=chunks,
        events=recorder,
    )
    for latent in latents:
        session.push(memoryview(latent.tobytes()))
    session.allow(len(latents))
    session.end()
    await asyncio.wait_for(recorder.ended(), 60)
    return np.frombuffer(recorder.frames, np.uint8).reshape(-1, 16, 16, 3)


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
    (_, (first, planned)) = notes.opened
    chunks = notes.chunks
    boundaries = list(chunks)
    known = first + sum(planned)
    assert known >= NUM_BEFORE
    last = max(boundary for boundary in boundaries if boundary < known)
    # The last chunk at whose start the decode can begin for the last published one to come out as before.
    assert first == max(boundary for boundary in boundaries if boundary <= last - history)
    assert first >= NUM_BEFORE - history - 3 * CHUNK_LATENTS > 0
    assert np.array_equal(np.stack(frames), await decode(app, clip, tuple(chunks.values())))


@pytest.mark.parametrize("start_frame", [150, 251])
async def test_a_session_starts_as_many_latents_back_as_a_frame_depends_on(
    app: RunningApp, model: Model, clip: npt.NDArray[np.float16], notes: Notes, start_frame: int
) -> None:
    """Its frames are, bit for bit, those of a decode of the whole clip that had the same chunks from there on."""
    spec, history = model.spec, model.spec.history_latents
    assert history is not None
    first = next(latent for latent in range(NUM_LATENTS) if spec.num_frames(latent + 1) > start_frame) - history
    assert first > 0
    request = pb.StreamRequest(
        open=pb.Open(
            model="wan",
            geometry=pb.LatentGeometry(channels=GEOMETRY.channels, height=GEOMETRY.height, width=GEOMETRY.width),
            dtype=pb.DATA_TYPE_FLOAT16,
            start_frame=start_frame,
            num_latents=NUM_LATENTS,
        ),
        index=first,
        end_of_latents=True,
    )
    next_frame, payload = start_frame, b""
    async with grpc.aio.insecure_channel(app.target, options=CHANNEL_OPTIONS) as channel:
        method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        async for raw in method(iter([wire.join(request, (clip[first:].tobytes(),))])):
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
    whole = await decode(app, clip, (*[1] * first, *notes.chunks.values()))
    assert np.array_equal(np.frombuffer(payload, np.uint8).reshape(-1, 16, 16, 3), whole[start_frame:])
