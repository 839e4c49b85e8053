"""One `Highlight` call: a film goes up in pieces, progress, scores and frames come down. Runs on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final, Self

from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul_client.core.frames import FrameBatch
from framehaul_client.core.highlights import (
    ExcerptFrames,
    Progress,
    Query,
    Scores,
    read_excerpt_frames,
    read_progress,
    read_scores,
)
from framehaul_client.core.reassembly import Reassembly
from framehaul_client.core.window import Acknowledgement, FrameWindow
from framehaul_client.errors import DataLoss, FramehaulError, InvalidOption, ProtocolError
from framehaul_client.transport.rpc import MessageRpc, RpcEnded

METHOD: Final = "/framehaul.v1.HighlightService/Highlight"
ON_SERVER: Final = "server:"
"""Before the name of a film that the server has."""
_PIECE_BYTES: Final = 1 << 20
_WINDOW_FRAMES: Final = 24
_MAX_MESSAGE_BYTES: Final = 64 << 20
_LEAVE_TIMEOUT_S: Final = 1.0

HighlightRpc = MessageRpc[highlights_pb2.HighlightResponse]
Event = Progress | Scores | ExcerptFrames | FrameBatch


def local_path(film: str) -> Path | None:
    """The film's file here; None: the server has it."""
    return None if film.startswith(ON_SERVER) else Path(film)


class Highlights:
    """A request for a film's best excerpts; an async context manager, and an iterator of what comes of it.

    async with client.highlight("long.mp4", Query(images=[Path("can.jpg").read_bytes()])) as found:
        async for event in found:
            ...

    Progress comes, then Scores; with `Query.frames` for each excerpt its ExcerptFrames, and then its FrameBatches; with
    `Query.saliency` the same for its maps.
    A batch of frames counts as consumed, and makes room for others, when the next event is asked for.
    """

    def __init__(self, start_rpc: Callable[[], HighlightRpc], film: str, query: Query) -> None:
        """Prepare; nothing is sent before it is entered.

        Args:
            start_rpc: starts the call.
            film: a file here, or `server:PATH` for one that the server has.
            query: what is looked for.
        """
        self._start_rpc = start_rpc
        self._film = film
        self._query = query
        self._rpc: HighlightRpc | None = None
        self._file: BinaryIO | None = None
        self._upload: asyncio.Task[None] | None = None
        self._window = FrameWindow(_WINDOW_FRAMES)
        self._found: Scores | None = None
        self._reassembly: Reassembly | None = None
        self._until = 0  # the present excerpt's frames
        self._handed = 0  # frames the caller works on
        self._done = False

    async def __aenter__(self) -> Self:
        """Open the request, and begin to send the film.

        Raises:
            InvalidOption: the film can't be read.

        Cancellation: cancels the call.
        """
        path, size = local_path(self._film), 0
        if path is not None:
            try:
                self._file = await asyncio.to_thread(open, path, "rb")
                size = self._file.seek(0, 2)
                self._file.seek(0)
            except OSError as error:
                raise InvalidOption(f"film={path}: {error.strerror or error}") from error
            if size == 0:
                self._file.close()
                raise InvalidOption(f"film={path}: is empty")
        self._rpc = self._start_rpc()
        opening = self._query.message(
            path="" if path is not None else self._film.removeprefix(ON_SERVER),
            upload_bytes=size,
            max_message_bytes=_MAX_MESSAGE_BYTES,
            window_frames=_WINDOW_FRAMES,
        )
        with contextlib.suppress(RpcEnded):  # the status says why, to whoever asks for an event
            await self._rpc.send(highlights_pb2.HighlightRequest(open=opening))
        if self._file is not None:
            self._upload = asyncio.create_task(self._send_film(self._file), name="framehaul upload")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the request; see `aclose`."""
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over what comes."""
        return self

    async def __anext__(self) -> Event:
        """Return what comes next.

        Raises:
            FramehaulError: the request failed; the class tells how.

        Cancellation: cancels the call.
        """
        assert self._rpc is not None, "entering it comes first"
        await self._consume()
        while not self._done:
            envelope = await self._rpc.receive()
            if envelope is None:
                raise ProtocolError("the server ended the request before it was done")
            event = self._event(envelope.header, envelope.payload)
            if event is not None:
                return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what isn't finished; closing twice is fine.

        Cancellation: the call is cancelled all the same.
        """
        rpc, self._rpc = self._rpc, None
        upload, self._upload = self._upload, None
        try:
            if upload is not None:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
            if rpc is not None:
                if self._done:
                    await rpc.finish()
                    with contextlib.suppress(TimeoutError, FramehaulError):
                        await asyncio.wait_for(rpc.receive(), _LEAVE_TIMEOUT_S)
                await rpc.aclose()
        finally:
            if self._file is not None:
                self._file.close()

    async def _send_film(self, file: BinaryIO) -> None:
        """Send it, as fast as the connection and the server take it."""
        rpc = self._rpc
        assert rpc is not None, "runs while the request is open"
        with contextlib.suppress(RpcEnded):  # `__anext__` hears why
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                await rpc.send(highlights_pb2.HighlightRequest(), (piece,))
            await rpc.send(highlights_pb2.HighlightRequest(end_of_upload=True))

    async def _consume(self) -> None:
        handed, self._handed = self._handed, 0
        self._window.consume(handed)
        acknowledgement = self._window.acknowledge(idle=True)
        if acknowledgement is not None:
            await self._acknowledge(acknowledgement)

    async def _acknowledge(self, it: Acknowledgement) -> None:
        assert self._rpc is not None, "runs while the request is open"
        ack = frames_pb2.Ack(next_frame=it.next_frame, window_frames=it.window_frames)
        with contextlib.suppress(RpcEnded):
            await self._rpc.send(highlights_pb2.HighlightRequest(ack=ack))

    def _event(self, header: highlights_pb2.HighlightResponse, payload: memoryview) -> Event | None:
        if header.HasField("progress"):
            return read_progress(header.progress)
        if header.HasField("scores"):
            if self._found is not None:
                raise ProtocolError("scores came twice")
            self._found = read_scores(header.scores, self._query)
            return self._found
        if header.HasField("excerpt"):
            return self._next_excerpt(header.excerpt)
        if header.HasField("frames"):
            return self._frames(header.frames, payload)
        if header.HasField("done"):
            self._finish(header.done.num_frames)
        return None

    def _next_excerpt(self, message: highlights_pb2.ExcerptFrames) -> ExcerptFrames:
        if self._found is None:
            raise ProtocolError("frames were announced before the scores")
        next_frame = 0 if self._reassembly is None else self._reassembly.next_frame
        if next_frame != self._until:
            raise DataLoss(f"an excerpt began at frame {next_frame}: the one before it lasts until {self._until}")
        coming = read_excerpt_frames(message, self._query, next_frame)
        self._reassembly = Reassembly(coming.layout)
        self._reassembly.next_frame = next_frame
        self._until = next_frame + coming.num_frames
        return coming

    def _frames(self, message: frames_pb2.Frames, payload: memoryview) -> FrameBatch:
        if self._reassembly is None:
            raise ProtocolError("frames came before their excerpt")
        batch = self._reassembly.accept(message.first_frame, message.num_frames, message.crc32c, payload)
        if self._reassembly.next_frame > self._until:
            raise DataLoss(f"frames up to {self._reassembly.next_frame} came: the excerpt lasts until {self._until}")
        self._window.receive(len(batch))
        self._handed = len(batch)
        return batch

    def _finish(self, num_frames: int) -> None:
        if self._found is None:
            raise ProtocolError("the server was done without scores")
        next_frame = 0 if self._reassembly is None else self._reassembly.next_frame
        if not num_frames == next_frame == self._until:
            raise DataLoss(f"the server sent {num_frames} frames of {self._until}: {next_frame} arrived")
        self._done = True
