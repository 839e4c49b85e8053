"""A `Stream` call that the test drives by hand, with our codec: blocking, or on the event loop."""

import queue
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
from crc32c import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2 as pb

CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
"""A connection of its own, and messages of any size."""


def request(payload: bytes = b"", **fields: object) -> bytes:
    """A message as our codec joins it."""
    return wire.join(pb.StreamRequest(**fields), (payload,))  # type: ignore[arg-type]


def stream(channel: grpc.Channel, requests: Iterable[bytes], **settings: Any) -> Any:
    """Start a call of raw messages."""
    method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
    return method(iter(requests), **settings)


def async_stream(channel: grpc.aio.Channel, **settings: Any) -> Any:
    """The same on the event loop; messages are written to it."""
    method: Any = channel.stream_stream(f"/{wire.SERVICE}/Stream")
    return method(**settings)


def details(error: grpc.RpcError) -> str:
    """What a status says."""
    return error.details() or ""


class Answers:
    """What has come so far, checked when it came."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        """In the server's queue, as they were told."""
        self.opened = pb.Opened()
        self.latents_until = 0
        self.frames: list[int] = []
        """Checksum of each frame, in order."""
        self.drain: pb.Drain | None = None
        self.done: pb.Done | None = None

    @property
    def is_open(self) -> bool:
        return self.opened.frame_bytes > 0

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def take(self, raw: bytes) -> pb.StreamResponse:
        envelope = wire.split_response(raw)
        header = envelope.header
        if header.HasField("queued"):
            assert not self.is_open
            self.positions.append(header.queued.position)
        if header.HasField("opened"):
            self.opened = header.opened
        if header.latents_until:
            assert header.latents_until > self.latents_until
            self.latents_until = header.latents_until
        if header.HasField("drain"):
            self.drain = header.drain
        if header.HasField("frames"):
            self._take_frames(header.frames, envelope.payload)
        if header.HasField("done"):
            self.done = pb.Done(num_frames=header.done.num_frames, num_latents=header.done.num_latents)
            assert self.done.num_frames == self.num_frames
        return header

    def _take_frames(self, frames: pb.Frames, payload: memoryview) -> None:
        size = self.opened.frame_bytes
        assert frames.first_frame == self.num_frames
        assert len(payload) == frames.num_frames * size
        self.frames += [crc32c(payload[start : start + size]) for start in range(0, len(payload), size)]
        assert self.frames[frames.first_frame :] == list(frames.crc32c)


class Call(Answers):
    """Blocking; a context manager that cancels what still runs."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call = stream(channel, iter(self._requests.get, None))

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self.half_close()

    def send(self, payload: bytes = b"", **fields: object) -> None:
        self._requests.put(request(payload, **fields))

    def half_close(self) -> None:
        self._requests.put(None)

    def read(self) -> pb.StreamResponse:
        """Take the next response; raises `StopIteration` after the last, or the call's error."""
        header = self.take(next(self.call))
        if self.done is not None:
            self.half_close()
        return header

    def read_frames(self, count: int) -> None:
        """Read until `count` frames are here."""
        while self.num_frames < count:
            self.read()

    def read_to_end(self) -> list[int]:
        """Read until the call ends well; gives all frames' checksums."""
        with suppress(StopIteration):
            while True:
                self.read()
        assert self.done is not None
        return self.frames


class AsyncCall(Answers):
    """On the event loop."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float | None = None) -> None:
        super().__init__()
        self.call = async_stream(channel, timeout=timeout_s)

    async def send(self, payload: bytes = b"", **fields: object) -> None:
        await self.call.write(request(payload, **fields))

    async def read(self) -> bool:
        """Take a response; False after the last. Raises the call's error."""
        raw = await self.call.read()
        if raw is grpc.aio.EOF:
            return False
        self.take(raw)
        if self.done is not None:
            await self.call.done_writing()
        return True

    async def read_frames(self, count: int) -> None:
        """Read until `count` frames are here."""
        while self.num_frames < count:
            assert await self.read()

    async def read_to_end(self) -> int:
        """Read until the call ends well; gives the number of frames."""
        while await self.read():
            pass
        code = await self.call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, None, None, details=await self.call.details())
        assert self.done is not None
        return self.num_frames

    async def finish(self) -> int:
        """End the input of an EXPLICIT session and acknowledge all frames that come; gives their number."""
        await self.send(end_of_latents=True)
        while self.done is None:
            await self.send(ack=pb.Ack(next_frame=self.num_frames, window_frames=100))
            assert await self.read()
        return await self.read_to_end()

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the call ended, once everything that came before was read."""
        with suppress(grpc.aio.AioRpcError):
            while await self.read():
                pass
        return await self.call.code(), await self.call.details()
