"""How a running server's sessions are cut into chunks, and a decode in given chunks to compare bytes with."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from framehaul_pipeline.spec import DecoderSpec, Geometry, LatentDtype, PixelFormat
from framehaul_server.core.journal import Journal
from framehaul_server.session.worker_link import WorkerHandle
from tests.support.running_app import RunningApp
from tests.support.supervised import Recorder


class Notes:
    """What happened between the server and its workers; of one session."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, tuple[int, ...]]] = []
        """First latent and planned chunks of each worker session."""
        self.published: list[tuple[int, int]] = []
        """First latent and length of each chunk, as often as it was decoded."""

    @property
    def chunks(self) -> dict[int, int]:
        """Lengths of all chunks by their first latent, in order."""
        assert len(dict(self.published)) == len(set(self.published)), "decoded again in other chunks"
        return dict(sorted(self.published))

    def check_replay(self, spec: DecoderSpec) -> tuple[int, int]:
        """The second worker began as late as its frames could still be compared with the last published chunk's.

        Returns:
            First latent that it was given, and the first whose frames were new.
        """
        _, (first, planned) = self.opened
        boundaries, known = list(self.chunks), first + sum(planned)
        last = max(boundary for boundary in boundaries if boundary < known)
        earliest = 0 if spec.history_latents is None else max(0, last - spec.history_latents)
        assert first == max(boundary for boundary in boundaries if boundary <= earliest)
        assert planned == tuple(size for boundary, size in self.chunks.items() if first <= boundary < known)
        return first, known


@contextmanager
def noted(app: RunningApp) -> Iterator[Notes]:
    """Note what happens meanwhile."""
    notes = Notes()
    open_session, publish = app.supervisor.open, Journal.publish

    def opening(**given: Any) -> WorkerHandle:
        notes.opened.append((given["first_latent"], given["chunks"]))
        return open_session(**given)

    def publishing(
        journal: Journal, first_latent: int, chunks: tuple[int, ...], first_frame: int, crc32c: tuple[int, ...]
    ) -> None:
        boundaries = accumulate(chunks, initial=first_latent)
        notes.published += [(boundary, size) for boundary, size in zip(boundaries, chunks, strict=False) if size]
        publish(journal, first_latent, chunks, first_frame, crc32c)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.supervisor, "open", opening)
        patch.setattr(Journal, "publish", publishing)
        yield notes


async def decode_in(
    app: RunningApp, spec: DecoderSpec, clip: npt.NDArray[np.float16], chunks: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """All frames of latents `[T, C, h, w]`, `[F, H, W, 3]`: by one worker from the clip's start on, in these chunks."""
    geometry = Geometry(channels=clip.shape[1], height=clip.shape[2], width=clip.shape[3])
    recorder = Recorder()
    session = app.supervisor.open(
        model=spec.name,
        geometry=geometry,
        num_latents=len(clip),
        dtype=LatentDtype.FLOAT16,
        normalized=False,
        pixel_format=PixelFormat.RGB24,
        priority=0,
        first_latent=0,
        chunks=chunks,
        events=recorder,
    )
    for latent in clip:
        session.push(memoryview(latent.tobytes()))
    session.allow(len(clip))
    session.end()
    await asyncio.wait_for(recorder.ended(), 60)
    return np.frombuffer(recorder.frames, np.uint8).reshape(-1, *geometry.frame_size(spec), 3)
