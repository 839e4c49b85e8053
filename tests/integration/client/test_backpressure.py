"""Memory stays bounded when the consumer is slower than the server."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from framehaul_client import FrameBatch, FrameClient, FrameLayout, PixelFormat
from framehaul_client.sinks.encoder import Encoder
from tests.support.fake_server import CHANNELS, Behaviour

pytestmark = pytest.mark.asyncio


class SlowSink:
    """Takes one message each time it is allowed to, and counts frames."""

    pixel_format = PixelFormat.RGB24
    fps = None
    num_bytes = 0

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.num_frames = 0

    def prepare(self) -> None:
        """Nothing to do."""

    def start(self, layout: FrameLayout, num_frames: int | None = None) -> None:
        """Nothing to do."""

    def write(self, batch: FrameBatch) -> None:
        self.allowed.acquire()
        self.num_frames += len(batch)

    def finish(self) -> None:
        """Nothing to do."""

    def abort(self) -> Path | None:
        return None


async def test_an_encoder_slower_than_the_server_holds_it_back(target: str, behaviour: Behaviour) -> None:
    """The server sends one window and what the encoder's queue holds, then waits; nothing is lost."""
    window_frames, max_pending = 8, 2
    num_latents = 30
    latents = np.zeros((num_latents, CHANNELS, 2, 4), np.float16)
    sink = SlowSink()
    async with FrameClient(target) as client, client.session(latents, window_frames=window_frames) as session:
        encoder = Encoder(sink, session.opened.layout, max_pending=max_pending)

        async def encode() -> None:
            async for batch in session.batches():
                await encoder.put(batch)
            await encoder.finish()

        encoding = asyncio.create_task(encode())
        done, _ = await asyncio.wait({encoding}, timeout=0.3)
        assert not done
        # The queue's messages and the one that waits for a place in it, and the window behind them.
        most = (max_pending + 1) * behaviour.frames_to_a_message + window_frames
        assert behaviour.num_sent <= most
        sink.allowed.release(1000)
        await encoding
        await encoder.aclose()
    assert sink.num_frames == 1 + (num_latents - 1) * 4
    assert behaviour.min_room >= 0
