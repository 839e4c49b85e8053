"""A request's life: its film comes, is sampled and ranked; scores go out, then the frames of the best excerpts.

When the worker dies, the film is sampled again for the next one, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Protocol

import crc32c

from framehaul import wire
from framehaul.v1 import frames_pb2, highlights_pb2
from framehaul_pipeline.config import WorkerConfig
from framehaul_pipeline.errors import InvalidInput, WorkerLost
from framehaul_pipeline.highlight import rank
from framehaul_pipeline.highlight.messages import FilmInfo, ReaderSetup, ReadFrames, ReadPictures, Scan
from framehaul_pipeline.models.saliency import NAME as SALIENCY_NAME
from framehaul_pipeline.supervision.epoch import QueryEvents, WorkerQuery
from framehaul_server.core.highlight_request import HighlightAsked, HighlightRules
from framehaul_server.core.highlight_totals import HighlightTotals
from framehaul_server.core.packing import frames_per_message
from framehaul_server.core.window import check_ack
from framehaul_server.errors import ClientLeft, ClientSilent, ClientStalled
from framehaul_server.highlight.crop import cropped
from framehaul_server.highlight.maps import FilmMaps
from framehaul_server.highlight.readers import ReaderPlaces, Readers
from framehaul_server.highlight.scan import FilmSamples, batch_frames
from framehaul_server.highlight.segments import key_frames_suffice, spans_worth_reading, split
from framehaul_server.highlight.source import Upload, UploadSpace, open_below

_MAX_FILM_PIXELS: Final = 8192 * 4352
_MAX_FILM_S: Final = 4 * 3600.0
_READER_PROCESSOR_S: Final = 3600
_READER_MEMORY_BYTES: Final = 4 << 30
"""What a reader may use, whatever a film says."""
_PROGRESS_S: Final = 0.25
_DENSE_PER_SECOND: Final = 8.0
_MARGIN_S: Final = 1.0
_LEAST_LOOKED_AT: Final = 3
"""Excerpts that are looked at more closely."""

Request = wire.Envelope[highlights_pb2.HighlightRequest]


class Connection(Protocol):
    """A client's requests, one at a time, and the way of the responses; as a session's."""

    async def read(self) -> Request | None:
        """See `session.connection.Connection`."""

    async def write(self, message: bytes) -> None:
        """See `session.connection.Connection`."""


class QueryOpener(Protocol):
    """The supervisor, as a request sees it."""

    device: str

    def open_query(self, events: QueryEvents) -> WorkerQuery:
        """Begin to search a film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all requests of a server share."""

    worker: QueryOpener
    worker_ready: asyncio.Event
    config: WorkerConfig
    rules: HighlightRules
    root: Path | None
    space: UploadSpace
    readers: ReaderPlaces
    totals: HighlightTotals
    stall_timeout_s: float


class HighlightWork:
    """One request; `run` once."""

    def __init__(self, asked: HighlightAsked, around: Surroundings, connection: Connection, name: str) -> None:
        """Serve `asked`; `name` is the request's in the log."""
        self._asked, self._around, self._connection, self._name = asked, around, connection, name
        self._upload: Upload | None = None
        self._film_fd = self._pictures_fd = -1
        self._has_scores = False
        self._num_sent = self._num_acked = 0
        self._window_until = asked.window_frames
        self._ack_came = asyncio.Event()

    async def run(self) -> None:
        """Serve it to its end.

        Cancellation: all that it holds is given back.

        Raises:
            PipelineError: whatever is wrong with the film, the client or the worker.
        """
        try:
            self._pictures_fd = os.memfd_create("framehaul-pictures", os.MFD_CLOEXEC)
            for image in self._asked.images:
                os.write(self._pictures_fd, image)
            await self._take_film()
            try:
                await self._search()
            except WorkerLost:
                if self._has_scores:
                    raise
                await self._search()
        finally:
            self._close()

    def _close(self) -> None:
        if self._upload is not None:
            self._upload.close()
        elif self._film_fd >= 0:
            os.close(self._film_fd)
        if self._pictures_fd >= 0:
            os.close(self._pictures_fd)

    # The film

    async def _take_film(self) -> None:
        if self._asked.path:
            assert self._around.root is not None, "checked"
            self._film_fd = open_below(self._around.root, self._asked.path)
            return
        self._upload = self._around.space.upload(self._asked.upload_bytes)
        self._film_fd = self._upload.fd
        told = 0.0
        while True:
            request = await self._read()
            if request is None:
                raise ClientLeft("the request stream ended before the upload did")
            if request.header.HasField("open"):
                raise InvalidInput("open", "again", "in the first request alone")
            self._upload.write(request.payload)
            ends = request.header.end_of_upload
            del request  # before the next one comes
            now = asyncio.get_running_loop().time()
            if ends or now - told > _PROGRESS_S:
                told = now
                await self._write(
                    highlights_pb2.HighlightResponse(
                        progress=highlights_pb2.HighlightProgress(uploaded_bytes=self._upload.num_received)
                    )
                )
            if ends:
                self._upload.check_whole()
                return

    async def _read(self) -> Request | None:
        try:
            async with asyncio.timeout(self._around.stall_timeout_s):
                return await self._connection.read()
        except TimeoutError:
            raise ClientSilent(f"nothing of the video came for {self._around.stall_timeout_s:g} s") from None

    # The search

    async def _search(self) -> None:
        await self._around.worker_ready.wait()
        model = self._around.config.embedding
        frames, side = (1, 0) if model is None else (batch_frames(self._around.worker.device, model), model.side)
        found = FilmSamples(self._asked.kinds, frames, side, on_batch=self._around.totals.had_device)
        query = self._around.worker.open_query(found)
        try:
            setup = self._setup(query, frames, side)
            with Readers(setup, query, self._around.readers, self._name) as readers:
                await found.guarded(self._with_readers(readers, query, found))
        finally:
            query.drop()

    def _setup(self, query: WorkerQuery, frames: int, side: int) -> ReaderSetup:
        ring = query.samples.ring
        return ReaderSetup(
            connection_fd=-1,
            ring_fd=ring.fd,
            film_fd=self._film_fd,
            pictures_fd=self._pictures_fd,
            num_slots=ring.num_slots,
            slot_bytes=ring.slot_bytes,
            side=side,
            batch_frames=frames,
            max_pixels=_MAX_FILM_PIXELS,
            max_seconds=_MAX_FILM_S,
            processor_seconds=_READER_PROCESSOR_S,
            memory_bytes=_READER_MEMORY_BYTES + ring.num_bytes,
        )

    async def _with_readers(self, readers: Readers, query: WorkerQuery, found: FilmSamples) -> None:
        info = await readers.probe()
        saliency, device = self._around.config.saliency, self._around.worker.device
        maps = FilmMaps(saliency, readers, query, found, info, device) if saliency is not None else None
        if not self._asked.kinds:
            assert maps is not None, "checked"
            await self._map_all(maps, info)
            await self._finish(readers, found)
            return
        await self._open_query(readers, query)
        rate = Fraction(info.rate_numerator, info.rate_denominator)
        wanted = rank.Wanted(
            length=rank.excerpt_length(self._asked.seconds, rate, info.duration or float("inf")),
            count=self._asked.excerpts,
            cuts=self._asked.cuts,
            weights=(1.0,) * self._asked.kinds,
        )
        async with asyncio.TaskGroup() as group:
            scanned = asyncio.Event()
            group.create_task(self._tell(found, info, wanted, scanned))
            await self._scan(readers, query, found, info, wanted)
            scanned.set()
            found.changed.set()
        self._around.totals.film_s += info.duration
        samples = found.known()
        if not len(samples):
            raise InvalidInput("video", "it", "a video with frames")
        ranking = rank.rank(samples, info.duration, wanted)
        self._has_scores = True
        await self._write(self._scores(ranking))
        if self._asked.wants_frames or self._asked.wants_saliency:
            await self._send_excerpts(readers, query, info, found, maps, ranking.excerpts)
        await self._finish(readers, found)

    async def _finish(self, readers: Readers, found: FilmSamples) -> None:
        done = highlights_pb2.HighlightDone(
            num_frames=self._num_sent, read_seconds=readers.processor_seconds, device_seconds=found.device_ns / 1e9
        )
        await self._write(highlights_pb2.HighlightResponse(done=done))

    async def _open_query(self, readers: Readers, query: WorkerQuery) -> None:
        model = self._around.config.embedding
        assert model is not None, "checked"
        ends, end = [], 0
        for image in self._asked.images:
            end += len(image)
            ends.append(end)

        async def begin(slot: int, generation: int, times: tuple[float, ...]) -> None:
            sizes, text = model.picture_sizes, self._asked.text
            query.open(slot, generation, sizes=sizes, num_pictures=len(ends), text=text)

        await readers.run([ReadPictures(ends=tuple(ends), sizes=model.picture_sizes)], begin, at_once=1)

    async def _scan(
        self, readers: Readers, query: WorkerQuery, found: FilmSamples, info: FilmInfo, wanted: rank.Wanted
    ) -> None:
        per_second, most = self._asked.per_second, self._around.readers.number

        async def embed(slot: int, generation: int, times: tuple[float, ...]) -> None:
            await found.embed(query, slot, generation, times)

        async def scan(spans: list[tuple[float, float]], rate: float, *, keys_alone: bool = False) -> None:
            jobs = [Scan(start=start, end=end, per_second=rate, keys_alone=keys_alone) for start, end in spans]
            await readers.run(jobs, embed, at_once=most)
            await found.settled()

        whole = split(info, most)
        if key_frames_suffice(info):
            await scan(whole, per_second, keys_alone=True)
            await scan(spans_worth_reading(found.known(), info, wanted), per_second)
        else:
            await scan(whole, per_second)
        if info.duration and per_second < _DENSE_PER_SECOND and found.num_embedded:
            best = rank.rank(found.known(), info.duration, _looked_at(wanted)).excerpts
            await scan(rank.spans_to_look_closer(best, _MARGIN_S, info.duration), _DENSE_PER_SECOND)

    async def _tell(self, found: FilmSamples, info: FilmInfo, wanted: rank.Wanted, scanned: asyncio.Event) -> None:
        """Say how far it is, now and then; the client's flow control may make that seldom."""
        while not scanned.is_set():
            await found.changed.wait()
            samples = found.known()
            best = rank.best_so_far(samples, info.duration, wanted, 1 / self._asked.per_second)
            progress = highlights_pb2.HighlightProgress(
                scanned_seconds=min(len(samples) / self._asked.per_second, info.duration),
                total_seconds=info.duration,
                samples=len(samples),
                best=_excerpt(best) if best is not None else None,
            )
            if self._asked.upload_bytes:
                progress.uploaded_bytes = self._asked.upload_bytes
            await self._write(highlights_pb2.HighlightResponse(progress=progress))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_S):
                    await scanned.wait()

    def _scores(self, ranking: rank.Ranking) -> highlights_pb2.HighlightResponse:
        assert self._around.config.embedding is not None, "checked"
        scores = highlights_pb2.Scores(
            times=ranking.curve.times.tolist(),
            scores=ranking.curve.scores.tolist(),
            cuts=ranking.cuts.tolist(),
            excerpts=[_excerpt(each) for each in ranking.excerpts],
            model=self._around.config.embedding.name,
        )
        return highlights_pb2.HighlightResponse(scores=scores)

    # The frames

    async def _send_excerpts(
        self,
        readers: Readers,
        query: WorkerQuery,
        info: FilmInfo,
        found: FilmSamples,
        maps: FilmMaps | None,
        excerpts: list[rank.Excerpt],
    ) -> None:
        async with self._acknowledged() as acks:
            for excerpt in excerpts:
                if self._asked.wants_frames:
                    size = await self._crop(info, found, maps, excerpt)
                    await self._send_frames(readers, query, info, excerpt, size, acks)
                if self._asked.wants_saliency and maps is not None:
                    await self._send_maps(maps, info, excerpt, acks)

    @contextlib.asynccontextmanager
    async def _acknowledged(self) -> AsyncIterator[asyncio.Task[None]]:
        acks = asyncio.create_task(self._read_acks())
        try:
            yield acks
        finally:
            acks.cancel()
            await asyncio.wait((acks,))

    async def _crop(
        self, info: FilmInfo, found: FilmSamples, maps: FilmMaps | None, excerpt: rank.Excerpt
    ) -> tuple[int, int, int, int]:
        place, looked_at = found.place(excerpt.start, excerpt.end), None
        if self._asked.crop is not None and maps is not None:
            looked_at = await maps.looked_at(_numbers(info, excerpt))
        # What is hardly alike to what was searched for says nothing.
        weak = excerpt.weak and looked_at is not None
        return cropped(info, self._asked.crop, None if weak else place, looked_at)

    async def _send_frames(
        self,
        readers: Readers,
        query: WorkerQuery,
        info: FilmInfo,
        excerpt: rank.Excerpt,
        crop: tuple[int, int, int, int],
        acks: asyncio.Task[None],
    ) -> None:
        width, height, left, top = crop
        job = ReadFrames(
            start=excerpt.start,
            end=excerpt.end,
            width=width,
            height=height,
            left=left,
            top=top,
            pixel_format=self._asked.pixel_format,
            num_frames=len(_numbers(info, excerpt)),
        )
        head = self._head(info, excerpt, width, height)
        if self._asked.crop:
            head.crop_left.extend([left] * job.num_frames)
            head.crop_top.extend([top] * job.num_frames)
        first = self._num_sent
        until = float("-inf")
        await self._write(highlights_pb2.HighlightResponse(excerpt=head))

        async def send(slot: int, generation: int, times: tuple[float, ...]) -> None:
            nonlocal until
            try:
                num_known = bisect_right(times, until)  # a reader died, and another one reads them again
                # Not held while somebody else may close the ring.
                await self._send(len(times), head, lambda: query.samples.ring.payload(slot), acks, num_known)
                until = max(until, *times)
            finally:
                query.samples.abandon(slot, generation)

        await readers.run([job], send, at_once=1)
        if self._num_sent - first != job.num_frames:
            raise InvalidInput(
                "video", f"{self._num_sent - first} frames", f"{job.num_frames} in an excerpt, by its rate"
            )

    async def _map_all(self, maps: FilmMaps, info: FilmInfo) -> None:
        """Say where people look in all of the film."""
        if not info.duration:
            raise InvalidInput("video", "it", "a video that says how long it is")
        self._has_scores = True
        whole = rank.Excerpt(0.0, info.duration, 0.0, weak=False)
        scores = highlights_pb2.Scores(excerpts=[_excerpt(whole)], model=SALIENCY_NAME)
        await self._write(highlights_pb2.HighlightResponse(scores=scores))
        async with self._acknowledged() as acks:
            await self._send_maps(maps, info, whole, acks)

    async def _send_maps(self, maps: FilmMaps, info: FilmInfo, excerpt: rank.Excerpt, acks: asyncio.Task[None]) -> None:
        head = self._head(info, excerpt, maps.width, maps.height)
        head.saliency = True
        await self._write(highlights_pb2.HighlightResponse(excerpt=head))

        async def send(num_maps: int, pictures: memoryview) -> None:
            await self._send(num_maps, head, lambda: pictures[:], acks)

        await maps.make(_numbers(info, excerpt), self._asked.pixel_format, send)

    def _head(self, info: FilmInfo, excerpt: rank.Excerpt, width: int, height: int) -> highlights_pb2.ExcerptFrames:
        """What is said before an excerpt's frames, or its maps."""
        self._asked.check_frame(width, height, self._around.config.max_pixels)
        return highlights_pb2.ExcerptFrames(
            excerpt=_excerpt(excerpt),
            first_frame=self._num_sent,
            num_frames=len(_numbers(info, excerpt)),
            height=height,
            width=width,
            pixel_format=wire.PIXEL_FORMATS[self._asked.pixel_format],
            rate_numerator=info.rate_numerator,
            rate_denominator=info.rate_denominator,
        )

    async def _send(
        self,
        num_frames: int,
        head: highlights_pb2.ExcerptFrames,
        pixels: Callable[[], memoryview],
        acks: asyncio.Task[None],
        num_known: int = 0,
    ) -> None:
        """Send frames that lie one after the other in `pixels`, which is looked at for one message at a time.

        The first ones may be known to the client.
        """
        frame_bytes = self._asked.pixel_format.frame_bytes(head.height, head.width)
        fit = frames_per_message(frame_bytes, self._asked.max_message_bytes)
        to_a_message = min(fit, self._asked.window_frames)
        for begin in range(num_known, num_frames, to_a_message):
            count = min(to_a_message, num_frames - begin)
            await self._room(count, acks)
            with pixels() as all_of_them:
                message = _frames(self._num_sent, count, all_of_them[begin * frame_bytes :], frame_bytes)
            self._num_sent += count
            await self._write(message)

    async def _room(self, num_frames: int, acks: asyncio.Task[None]) -> None:
        """Wait until the client takes so many frames more, or has taken all that it has; a message is whole."""
        try:
            async with asyncio.timeout(self._around.stall_timeout_s):
                while self._num_sent + num_frames > self._window_until and self._num_acked < self._num_sent:
                    self._ack_came.clear()
                    coming = asyncio.ensure_future(self._ack_came.wait())
                    await asyncio.wait((coming, acks), return_when=asyncio.FIRST_COMPLETED)
                    coming.cancel()
                    if acks.done():
                        acks.result()
                        raise ClientLeft("the client has ended its requests, and hasn't taken all frames")
        except TimeoutError:
            raise ClientStalled(f"the client took no frame for {self._around.stall_timeout_s:g} s") from None

    async def _read_acks(self) -> None:
        while (request := await self._connection.read()) is not None:
            ack: frames_pb2.Ack = request.header.ack
            check_ack(ack.next_frame, num_sent=self._num_sent)
            self._num_acked = max(self._num_acked, ack.next_frame)
            self._window_until = max(self._window_until, ack.next_frame + ack.window_frames)
            self._ack_came.set()

    async def _write(self, message: highlights_pb2.HighlightResponse | bytes) -> None:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        try:
            async with asyncio.timeout(self._around.stall_timeout_s):
                await self._connection.write(raw)
        except TimeoutError:
            raise ClientStalled(f"the client took no response for {self._around.stall_timeout_s:g} s") from None


def _frames(first: int, num_frames: int, pixels: memoryview, frame_bytes: int) -> bytes:
    with pixels, pixels[: num_frames * frame_bytes].toreadonly() as frames:
        checksums = [crc32c.crc32c(frames[at : at + frame_bytes]) for at in range(0, len(frames), frame_bytes)]
        header = highlights_pb2.HighlightResponse(
            frames=frames_pb2.Frames(first_frame=first, num_frames=num_frames, crc32c=checksums)
        )
        return wire.join(header, (frames,))


def _numbers(info: FilmInfo, excerpt: rank.Excerpt) -> range:
    """Of an excerpt's frames in the film, by its rate."""
    rate = Fraction(info.rate_numerator, info.rate_denominator)
    first = round(excerpt.start * rate)
    return range(first, first + max(1, round((excerpt.end - excerpt.start) * rate)))


def _looked_at(wanted: rank.Wanted) -> rank.Wanted:
    return replace(wanted, count=max(_LEAST_LOOKED_AT, wanted.count))


def _excerpt(excerpt: rank.Excerpt) -> highlights_pb2.Excerpt:
    return highlights_pb2.Excerpt(start=excerpt.start, end=excerpt.end, score=excerpt.score, weak=excerpt.weak)
