"""`client highlight`: a film and what to look for in, the seconds that show it out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from framehaul.formats import PixelFormat
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.arguments import Options
from framehaul_client.command.progress import Progress
from framehaul_client.core.frames import FrameBatch
from framehaul_client.core.highlights import ExcerptFrames, Query, Scores, numbered
from framehaul_client.core.highlights import Progress as Scanned
from framehaul_client.errors import InvalidOption, ProtocolError
from framehaul_client.highlight.copying import COPIED, Copied, check_copy, copy_excerpt
from framehaul_client.highlight.picture import check_drawing, draw_scores
from framehaul_client.highlight.request import ON_SERVER, Highlights, local_path
from framehaul_client.sinks.base import PartialFile, output_error
from framehaul_client.sinks.choice import STDOUT, choose_sink
from framehaul_client.sinks.containers import suffix_of
from framehaul_client.sinks.encoder import Encoder
from framehaul_client.sinks.video_options import VideoOptions

_LOG: Final = logging.getLogger(__name__)
_MAX_IMAGE_BYTES: Final = 16 << 20
_PICTURES: Final = (".png", ".svg")


async def highlight(options: Options, access: Access, progress: Progress) -> str:
    """Run the command; gives what to say about it.

    Raises:
        FramehaulError: it failed; the class tells where.

    Cancellation: cancels the request; excerpts that are whole are kept.
    """
    started_s = time.perf_counter()
    job = _Job.of(options)
    client = FrameClient(options.target, connect_timeout_s=options.connect_timeout, access=access, tune_allocator=True)
    async with client, client.highlight(options.film, job.query) as found:
        await job.follow(found, progress)
    scores = job.scores
    if scores is None:
        raise ProtocolError("the server was done without scores")
    if options.plot is not None:
        kind = suffix_of(options.plot)
        _write_file(Path(options.plot), await asyncio.to_thread(draw_scores, scores, options.film, kind))
    if job.copies:
        for number, each in enumerate(scores.excerpts, 1):
            out = Path(numbered(options.out, number, options.clips))
            copied = await asyncio.to_thread(copy_excerpt, Path(options.film), each.start, each.end, out)
            job.written.append(_Written(str(out), copied.num_frames, _told(copied)))
    told = {**scores.as_dict(options.film), "clips": [each.out for each in job.written]}
    if options.saliency:
        told["saliency"] = [each.out for each in job.maps]
    if options.scores_json:
        line = json.dumps(told)
        if options.scores_json == STDOUT:
            return line
        _write_file(Path(options.scores_json), f"{line}\n".encode())
    return "" if options.quiet else _report(job, scores, time.perf_counter() - started_s)


@dataclass(frozen=True, slots=True)
class _Written:
    out: str
    num_frames: int
    about: str


class _Job:
    """What is to be done, found possible before anything is sent."""

    def __init__(self, options: Options, query: Query, *, copies: bool) -> None:
        self.query = query
        self.copies = copies
        self.scores: Scores | None = None
        self.written: list[_Written] = []
        self.maps: list[_Written] = []
        self._options = options
        self._writer: _Writer | None = None

    @classmethod
    def of(cls, options: Options) -> _Job:
        """Check what was asked for.

        Raises:
            InvalidOption: it can't be done, or options don't go together.
        """
        film = local_path(options.film)
        out = "" if options.dry_run else options.out
        if not out and not options.dry_run and not options.saliency:
            raise InvalidOption("out: must name the clip, clip.mp4 say, or give --dry-run for the scores alone")
        _check_saliency(options)
        if options.plot is not None:
            if Path(options.plot).suffix.lower() not in _PICTURES:
                raise InvalidOption(f"plot={options.plot}: must end in {' or '.join(_PICTURES)}")
            check_drawing()
        if options.clips > 1 and out == STDOUT:
            raise InvalidOption(f"clips={options.clips}: must be 1 for out={STDOUT}")
        copies = bool(out) and _copies(options, film)
        if copies and film is not None:
            check_copy(film, Path(out))
        elif film is not None and not film.is_file():
            raise InvalidOption(f"film={film}: no such file; {ON_SERVER}PATH for one that the server has")
        frames = bool(out) and not copies
        try:
            pixel_format = _pixel_format(out if frames else "", options.saliency)
            query = Query(
                images=[_image(each) for each in options.image or ()],
                text=options.text or "",
                seconds=options.excerpt_seconds,
                excerpts=options.clips,
                samples_per_second=options.samples_per_second,
                cuts=options.cuts,
                frames=frames,
                crop=options.crop,
                saliency=bool(options.saliency),
                **({} if pixel_format is None else {"pixel_format": pixel_format}),
            )
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        return cls(options, query, copies=copies)

    async def follow(self, found: Highlights, progress: Progress) -> None:
        """Take all that comes."""
        try:
            async for event in found:
                match event:
                    case Scanned():
                        progress.scan(event)
                    case Scores():
                        self.scores = event
                    case ExcerptFrames():
                        await self._close()
                        out = self._options.saliency if event.saliency else self._options.out
                        number = len(self.maps if event.saliency else self.written) + 1
                        self._writer = _Writer(numbered(out or "", number, self.query.excerpts), event, self.query)
                        progress.start(event.num_frames)
                    case FrameBatch() if self._writer is not None:
                        await self._writer.put(event)
                        progress.advance(len(event))
            await self._close()
        finally:
            if self._writer is not None:
                await self._writer.abort()

    async def _close(self) -> None:
        writer = self._writer
        if writer is not None:
            await writer.finish()
            about = "maps of where people look" if writer.are_maps else "as the server sent it, without sound"
            whole = _Written(writer.out, writer.num_frames, about)
            (self.maps if writer.are_maps else self.written).append(whole)
            self._writer = None


class _Writer:
    """An excerpt's frames on their way into a file."""

    def __init__(self, out: str, coming: ExcerptFrames, query: Query) -> None:
        self.out = out
        self.num_frames = coming.num_frames
        self.are_maps = coming.saliency
        self._first = coming.first_frame
        sink = choose_sink(out, query.pixel_format, lambda: coming.fps, VideoOptions())
        sink.prepare()
        self._encoder = Encoder(sink, coming.layout, coming.num_frames)

    async def put(self, batch: FrameBatch) -> None:
        await self._encoder.put(FrameBatch(batch.first_frame - self._first, batch.frames))

    async def finish(self) -> None:
        await self._encoder.finish()
        await self._encoder.aclose()

    async def abort(self) -> None:
        await self._encoder.aclose()
        if self._encoder.kept is not None:
            _LOG.warning("the frames so far are kept in %s", self._encoder.kept)


def _copies(options: Options, film: Path | None) -> bool:
    """Whether the excerpts are cut here, out of the film's own packets."""
    against = "a film that the server has" if film is None else "--crop" if options.crop else ""
    if options.copy and against:
        raise InvalidOption(f"copy: doesn't go with {against}: frames have to come from the server")
    if options.copy is None:
        return not against and suffix_of(options.out) in COPIED and options.out != STDOUT
    return bool(options.copy)


def _check_saliency(options: Options) -> None:
    """Refuse what doesn't go with maps of where people look.

    Raises:
        InvalidOption: something was given that doesn't.
    """
    if not options.saliency:
        return
    if options.dry_run:
        raise InvalidOption(f"saliency={options.saliency}: doesn't go with --dry-run, which writes no video")
    if STDOUT in (options.saliency, options.out) and (options.out or options.clips > 1):
        raise InvalidOption(f"saliency={options.saliency}: stdout takes one video alone")
    if not options.image and not options.text:
        for name, given in (("out", options.out), ("plot", options.plot)):
            if given:
                raise InvalidOption(f"{name}={given}: needs an --image or a --text, something to look for")


def _pixel_format(out: str, saliency: str | None) -> PixelFormat | None:
    """One that suits the outputs; None: no frames come.

    Raises:
        ValueError: there is none.
    """
    found: PixelFormat | None = None
    for name in filter(None, (out, saliency)):
        found = choose_sink(name, found, lambda: Fraction(25), VideoOptions()).pixel_format
    return found


def _image(name: str) -> bytes:
    path = Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise InvalidOption(f"image={path}: {error.strerror or error}") from error
    if not 0 < len(content) <= _MAX_IMAGE_BYTES:
        raise InvalidOption(f"image={path}: must have 1..{_MAX_IMAGE_BYTES} bytes")
    return content


def _told(copied: Copied) -> str:
    encoded = f"{copied.num_encoded} of them encoded again" if copied.num_encoded else "all as they were"
    sound = "with the film's sound" if copied.has_sound else "without sound, as the film"
    return f"{encoded}, {sound}{f'; {copied.note}' if copied.note else ''}"


def _report(job: _Job, scores: Scores, total_s: float) -> str:
    lines = []
    for number, each in enumerate(scores.excerpts):
        if job.query.searches:
            lines.append(f"{number + 1}. {each}")
        lines += [
            f"   {clip.out}: {clip.num_frames} frames, {clip.about}"
            for clip in (*job.written[number : number + 1], *job.maps[number : number + 1])
        ]
    if scores.excerpts[0].weak:
        lines.append("A weak match: nothing in the film stands out for this query.")
    lines.append(f"samples: {len(scores.times)}, cuts: {len(scores.cuts)}, by {scores.model}; {total_s:.1f} s in all")
    return "\n".join(lines)


def _write_file(path: Path, content: bytes) -> None:
    file = PartialFile(path)
    try:
        file.file.write(content)
        file.publish()
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if file.path != file.target:
            with contextlib.suppress(OSError):
                file.discard()
