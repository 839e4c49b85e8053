"""How a running server's sessions are cut into chunks, and a decode in given chunks to compare bytes with."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pytest

from framehaul.formats import LatentDtype
from framehaul_pipeline.link.messages import Opening, Published
from framehaul_pipeline.spec import DecoderSpec, Geometry
from framehaul_pipeline.supervision.epoch import SessionEvents, WorkerSession
from framehaul_server.core.journal import Journal
from tests.support.fake_decoder import fake_opening
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
    open_session, note_published = app.supervisor.open_session, Journal.note_published

    def opening(opening: Opening, events: SessionEvents) -> WorkerSession:
        notes.opened.append((opening.first_latent, opening.chunks))
        return open_session(opening, events)

    def publishing(journal: Journal, published: Published) -> None:
        boundaries = accumulate(published.chunks, initial=published.first_latent)
        notes.published += [
            (boundary, size) for boundary, size in zip(boundaries, published.chunks, strict=False) if size
        ]
        note_published(journal, published)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.supervisor, "open_session", opening)
        patch.setattr(Journal, "note_published", publishing)
        yield notes


async def decode_in(
    app: RunningApp, spec: DecoderSpec, clip: npt.NDArray[np.float16], chunks: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """All frames of latents `[T, C, h, w]`, `[F, H, W, 3]`: by one worker from the clip's start on, in these chunks."""
    geometry = Geometry(channels=clip.shape[1], height=clip.shape[2], width=clip.shape[3])
    recorder = Recorder()
    opening = fake_opening(
        model=spec.name, geometry=geometry, num_latents=len(clip), dtype=LatentDtype.FLOAT16, chunks=chunks
    )
    session = app.supervisor.open_session(opening, recorder)
    for latent in clip:
        session.send_latent(memoryview(latent.tobytes()))
    session.allow(len(clip))
    session.end_latents()
    await asyncio.wait_for(recorder.ended(), 60)
    return np.frombuffer(recorder.frames, np.uint8).reshape(-1, *geometry.frame_size(spec), 3)
