import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from framehaul.formats import PixelFormat
from framehaul_client.core.frames import FrameBatch, FrameLayout
from framehaul_client.errors import OutputError
from framehaul_client.sinks.encoder import Encoder

pytestmark = pytest.mark.asyncio
LAYOUT = FrameLayout(pixel_format=PixelFormat.RGB24, height=2, width=2)


def batch(first_frame: int) -> FrameBatch:
    return FrameBatch(first_frame, np.zeros((1, 2, 2, 3), np.uint8))


class RecordingSink:
    """Takes frames, each when it is allowed to."""

    pixel_format = PixelFormat.RGB24
    fps = None
    num_bytes = 0
    faster = ""

    def __init__(self, *, allowed: int = 1000, fail_at: int | None = None, fail_with: Exception | None = None) -> None:
        self.allowed = threading.Semaphore(allowed)
        self.fail_at = fail_at
        self.fail_with = fail_with or OutputError("disk full")
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.writing = threading.Event()

    def prepare(self) -> None:
        """Nothing to do."""

    def start(self, layout: FrameLayout, num_frames: int | None = None) -> None:
        self._note("start")

    def write(self, batch: FrameBatch) -> None:
        self.writing.set()
        self.allowed.acquire()
        if batch.first_frame == self.fail_at:
            raise self.fail_with
        self._note(str(batch.first_frame))

    def finish(self) -> None:
        if self.fail_at == -1:
            raise self.fail_with
        self._note("finish")

    def abort(self) -> Path | None:
        self._note("abort")
        return Path("kept")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)


async def test_everything_runs_in_order_on_one_thread() -> None:
    """The sink needs no locks."""
    sink = RecordingSink()
    encoder = Encoder(sink, LAYOUT)
    for index in range(5):
        await encoder.put(batch(index))
    await encoder.finish()
    await encoder.aclose()
    await encoder.aclose()
    assert sink.calls == ["start", "0", "1", "2", "3", "4", "finish"]
    assert sink.threads == {"framehaul-encoder"}
    assert encoder.kept is None
    assert encoder.busy_s > 0


async def test_a_slow_sink_holds_the_caller_back() -> None:
    """No more than `max_pending` batches wait: memory is bounded whatever the encoder's speed."""
    sink = RecordingSink(allowed=0)
    encoder = Encoder(sink, LAYOUT, max_pending=2)
    await encoder.put(batch(0))
    await encoder.put(batch(1))
    third = asyncio.create_task(encoder.put(batch(2)))
    done, _ = await asyncio.wait({third}, timeout=0.1)
    assert not done
    sink.allowed.release()
    await third
    sink.allowed.release(2)
    await encoder.finish()
    await encoder.aclose()
    assert sink.calls[1:-1] == ["0", "1", "2"]


async def test_a_failure_reaches_the_next_put_and_the_finish() -> None:
    """Whoever comes next hears why, and the unfinished output is known."""
    sink = RecordingSink(fail_at=1)
    encoder = Encoder(sink, LAYOUT, max_pending=1)
    with pytest.raises(OutputError, match="disk full"):  # noqa: PT012
        for index in range(10):
            await encoder.put(batch(index))
    with pytest.raises(OutputError, match="disk full"):
        await encoder.finish()
    await encoder.aclose()
    assert sink.calls == ["start", "0", "abort"]
    assert encoder.kept == Path("kept")


async def test_a_failure_at_the_end_is_a_failure() -> None:
    """A file that can't be closed isn't whole."""
    sink = RecordingSink(fail_at=-1)
    encoder = Encoder(sink, LAYOUT)
    await encoder.put(batch(0))
    with pytest.raises(OutputError, match="disk full"):
        await encoder.finish()
    await encoder.aclose()
    assert sink.calls == ["start", "0", "abort"]


async def test_an_unforeseen_failure_is_told_as_one_of_ours() -> None:
    """The cause is kept for --debug."""
    sink = RecordingSink(fail_at=0, fail_with=ZeroDivisionError("oops"))
    encoder = Encoder(sink, LAYOUT)
    await encoder.put(batch(0))
    with pytest.raises(OutputError, match="the encoder failed: oops") as caught:
        await encoder.finish()
    await encoder.aclose()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_closing_early_aborts_after_what_was_given() -> None:
    """Frames that were handed over are written: they were acknowledged, and nobody else has them."""
    sink = RecordingSink(allowed=0)
    encoder = Encoder(sink, LAYOUT, max_pending=3)
    for index in range(3):
        await encoder.put(batch(index))
    closing = asyncio.create_task(encoder.aclose())
    await asyncio.sleep(0)
    sink.allowed.release(3)
    await closing
    assert sink.calls == ["start", "0", "1", "2", "abort"]
    with pytest.raises(OutputError, match="closed"):
        await encoder.put(batch(3))


async def test_a_sink_that_blocks_for_ever_does_not_hold_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe that nobody reads: the thread is left behind, with a word."""
    monkeypatch.setattr("framehaul_client.sinks.encoder._ABORT_TIMEOUT_S", 0.05)
    sink = RecordingSink(allowed=0)
    encoder = Encoder(sink, LAYOUT)
    await encoder.put(batch(0))
    await asyncio.to_thread(sink.writing.wait)
    await encoder.aclose()
    assert "still blocks" in caplog.text
    sink.allowed.release()
    await encoder.aclose()
