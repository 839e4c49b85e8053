"""`client probe`: decodes a clip as a user would, once or again and again, and says how long everything took."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from framehaul.formats import PixelFormat
from framehaul.options import say
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.arguments import Options
from framehaul_client.command.exits import Exit, exit_code
from framehaul_client.command.probe_report import Run, Summary
from framehaul_client.command.stream import SAMPLE
from framehaul_client.core.session_config import check_target
from framehaul_client.core.statistics import SessionStatistics
from framehaul_client.errors import FramehaulError, InvalidOption, StreamFailed
from framehaul_client.source.latents_file import LatentsFile

_LOG: Final = logging.getLogger(__name__)


class TimedOut(StreamFailed):
    """A run wasn't over in time."""


async def probe(options: Options, access: Access) -> Exit:
    """Run the command.

    Raises:
        InvalidOption, LatentsFileError: it can't begin.

    Cancellation: leaves the run that is under way and ends as after `--count`, once there was a run.
    """
    targets = options.targets or (options.target,)
    with LatentsFile(options.latents or SAMPLE, options.tensor, layout=options.layout) as latents:
        _check(options, targets, access, latents)
        with _observer(options, targets) as observe:
            prober = _Prober(options, targets, latents, observe)
            try:
                await prober.run()
            except asyncio.CancelledError:
                if prober.num_runs == 0:
                    raise
            prober.sum_up()
            return prober.exit


def _check(options: Options, targets: Sequence[str], access: Access, latents: LatentsFile) -> None:
    """Find what would fail each time, before the first."""
    for target in targets:
        try:
            check_target(target)  # of the environment, perhaps
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        access.metadata(target)
    access.credentials()
    if options.num_latents is not None and options.num_latents > latents.num_latents:
        raise InvalidOption(f"num_latents={options.num_latents}: must be 1..{latents.num_latents}, what the file has")


@contextmanager
def _observer(options: Options, targets: Sequence[str]) -> Iterator[Callable[[Run], None]]:
    """Yield what is told of each run: the metrics, while they are served."""
    if options.metrics is None:
        yield lambda run: None
        return
    if not (options.metrics_insecure or options.metrics.is_loopback):
        raise InvalidOption(
            f"metrics={options.metrics}: others than this machine reach it: must be a loopback address, or come with "
            "--metrics-insecure"
        )
    try:
        from framehaul_client.command.probe_metrics import ProbeMetrics
    except ImportError as error:
        raise InvalidOption("--metrics needs prometheus-client: pip install 'framehaul[observe]'") from error
    metrics = ProbeMetrics(targets)
    with metrics.served(options.metrics) as url:
        sys.stderr.write(f"metrics at {url}\n")
        yield metrics.observe


class _Prober:
    """All runs, one after another."""

    def __init__(
        self, options: Options, targets: Sequence[str], latents: LatentsFile, observe: Callable[[Run], None]
    ) -> None:
        self._options = options
        self._latents = latents
        self._observe = observe
        self._summaries = {target: Summary(target) for target in targets}
        self.num_runs = 0
        self.exit = Exit.OK

    async def run(self) -> None:
        options, loop = self._options, asyncio.get_running_loop()
        last = options.count or (1 if options.every is None else None)
        due_s = loop.time()
        for number in itertools.count(1):
            for target in self._summaries:
                self._tell(await _Measurement(options, target, self._latents).run())
            if number == last:
                return
            due_s = max(due_s + (options.every or 0.0), loop.time())
            await asyncio.sleep(due_s - loop.time())

    def sum_up(self) -> None:
        if self.num_runs > 1:
            lines = (summary.as_text() for summary in self._summaries.values() if summary.num_runs)
            say("\n".join(lines), sys.stderr if self._options.json else sys.stdout)

    def _tell(self, run: Run) -> None:
        self.num_runs += 1
        self._summaries[run.target].add(run)
        self._observe(run)
        if run.error is not None:
            self.exit = exit_code(run.error)
            _LOG.debug("%s: failed", run.target, exc_info=run.error)
        say(run.as_json() if self._options.json else run.as_text(), sys.stdout)


class _Measurement:
    """One run at one server."""

    def __init__(self, options: Options, target: str, latents: LatentsFile) -> None:
        self._options = options
        self._target = target
        self._latents = latents
        self._stage = "connect"
        self._model: str | None = None
        self._connect_s: float | None = None
        self._total_s: float | None = None
        self._statistics = SessionStatistics()

    async def run(self) -> Run:
        started_at, started_s = time.time(), time.perf_counter()
        error: FramehaulError | None = None
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._stream(started_s)
        except TimeoutError:
            error = TimedOut(f"not over within {self._options.timeout:g} s")
        except FramehaulError as failed:
            error = failed
        statistics = self._statistics
        return Run(
            target=self._target,
            started_at=started_at,
            error=error,
            stage=None if error is None else self._stage,
            model=self._model,
            num_frames=statistics.num_frames,
            frame_bytes=statistics.frame_bytes,
            connect_s=self._connect_s,
            queue_s=statistics.queued_s,
            open_s=statistics.open_s if self._stage == "frames" else None,
            first_frame_s=statistics.first_frame_s,
            stream_s=statistics.last_frame_s,
            total_s=self._total_s or time.perf_counter() - started_s,
        )

    async def _stream(self, started_s: float) -> None:
        options, latents = self._options, self._latents
        client = FrameClient(
            self._target, connect_timeout_s=options.connect_timeout, access=options.access(), tune_allocator=True
        )
        async with client:
            self._connect_s, self._stage = time.perf_counter() - started_s, "open"
            session = client.session(
                latents if options.num_latents is None else itertools.islice(latents, options.num_latents),
                model=latents.model if options.model is None else options.model,
                pixel_format=PixelFormat.YUV420P,  # what a video takes
                dtype=latents.latents.dtype,
                num_latents=options.num_latents,
                normalized=latents.normalized if options.normalized is None else options.normalized,
                priority=options.priority,
                retry_for_s=0,
                on_queued=self._on_queued,
            )
            self._statistics = session.statistics
            async with session:
                self._stage, self._model = "frames", session.opened.model
                async for _ in session.batches():
                    pass
                self._total_s = time.perf_counter() - started_s

    def _on_queued(self, _: int) -> None:
        self._stage = "queue"
