import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save

from framehaul_client.errors import LatentsFileError
from framehaul_client.source import latents_pipe
from framehaul_client.source.history import LatentHistory
from framehaul_client.source.latents_file import LatentsFile
from framehaul_client.source.latents_pipe import LatentsPipe, open_latents

pytestmark = pytest.mark.asyncio
LATENTS = np.random.default_rng(1).standard_normal((40, 4, 16, 32)).astype(np.float16)  # more than a pipe holds
HEADER = json.dumps(
    {
        "__metadata__": {"framehaul.model": "tiny"},
        "a mask": {"dtype": "U8", "shape": [1 << 20], "data_offsets": [0, 1 << 20]},
        "latents": {
            "dtype": "F16",
            "shape": LATENTS.shape,
            "data_offsets": [1 << 20, (1 << 20) + LATENTS.nbytes],
        },
    }
).encode()
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(1 << 20) + LATENTS.tobytes()


def write_in_pieces(path: Path, content: bytes) -> threading.Thread:
    """Write as a program at the other end does."""

    def write() -> None:
        with path.open("wb", buffering=0) as out:
            for start in range(0, len(content), 40_000):
                out.write(content[start : start + 40_000])

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO that nobody has opened."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def test_latents_come_in_order_and_can_be_sent_again_while_they_are_kept(fifo: Path) -> None:
    """As from any iterator; tensors before them are passed over."""
    writer = write_in_pieces(fifo, WHOLE)
    with await open_latents(fifo) as latents:
        assert isinstance(latents, LatentsPipe)
        assert (len(latents), latents.model, latents.latents.shape) == (40, "tiny", (4, 16, 32))
        history = LatentHistory(latents, latents.latents.dtype)
        blocks = [await history.next(), await history.next()]
        await history.rewind(1)
        while (block := await history.next()) is not None:
            blocks.append(block)
        await history.aclose()
    writer.join()
    assert np.array_equal(np.concatenate([block for block in blocks if block is not None][2:]), LATENTS[1:])
    latents.close()


async def test_a_pipe_that_nobody_writes_to_can_be_left(fifo: Path) -> None:
    """Before its header came, and in the middle; nothing stays open."""
    opened = psutil.Process().num_fds()
    opening = asyncio.create_task(open_latents(fifo))
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert psutil.Process().num_fds() == opened


async def test_standard_input_is_a_pipe_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the name `-`; a file is read as one."""
    ours, theirs = socket.socketpair()
    theirs.sendall(save({"latents": LATENTS[:1]}))
    status, descriptor = os.fstat(ours.fileno()), ours.detach()
    monkeypatch.setattr(os, "fstat", lambda _: status)
    monkeypatch.setattr(os, "dup", lambda _: descriptor)
    with await open_latents("-") as latents:
        assert isinstance(latents, LatentsPipe)
        assert np.array_equal([latent async for latent in latents], LATENTS[:1])
    theirs.close()
    path = tmp_path / "a.safetensors"
    path.write_bytes(WHOLE)
    status = path.stat()
    monkeypatch.setattr(latents_pipe, "_STDIN_PATH", str(path))
    with await open_latents("-") as latents:
        assert isinstance(latents, LatentsFile)


async def test_a_file_is_a_file(tmp_path: Path) -> None:
    """And says itself why it can't be one."""
    with pytest.raises(LatentsFileError, match="No such file"):
        await open_latents(tmp_path / "none")
    with pytest.raises(LatentsFileError, match="No such file"):
        LatentsPipe(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off: it ended at byte 0"),
        (WHOLE[:20], "cut off: it ended at byte 20"),
        (b"\x93NUMPY\x01\x00" * 9, "a NumPy file"),
        (save({"z": np.zeros(3)}), "tensor 'latents' is missing: it holds 'z'"),
        (save({"latents": np.ascontiguousarray(LATENTS.transpose(1, 0, 2, 3))[None]}), "must come one after the other"),
    ],
)
async def test_what_is_wrong_is_told_before_anything_else_is_read(fifo: Path, content: bytes, message: str) -> None:
    """With the pipe's name; nothing stays open."""
    writer = write_in_pieces(fifo, content[:60_000])
    opened = psutil.Process().num_fds() - 1
    with pytest.raises(LatentsFileError, match=message) as caught:
        await open_latents(fifo)
    writer.join()
    assert str(caught.value).startswith(f"{fifo}: ")
    assert psutil.Process().num_fds() <= opened + 1


def close_its_file(latents: LatentsPipe) -> None:
    os.close(latents._file)


@pytest.mark.parametrize(
    ("spoil", "message"), [(lambda _: None, "cut off: it ended at byte"), (close_its_file, "Bad file descriptor")]
)
async def test_a_clip_that_breaks_off_is_an_error(fifo: Path, spoil: Callable[[Any], None], message: str) -> None:
    """Not a shorter clip."""
    writer = write_in_pieces(fifo, save({"latents": LATENTS[:3]})[:-1])
    latents = await open_latents(fifo)
    writer.join()
    assert isinstance(latents, LatentsPipe)
    spoil(latents)
    with pytest.raises(LatentsFileError, match=rf"fifo: {message}"):
        _ = [latent async for latent in latents]
    if spoil is not close_its_file:
        latents.close()
