"""`client trace`, and the trace of `client stream --trace`: what happens, into a file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from framehaul.causes import Verdict
from framehaul.v1 import frames_pb2 as pb
from framehaul_client.access import Access
from framehaul_client.client import FrameClient
from framehaul_client.command.arguments import Options
from framehaul_client.core.events import Event, OnEvent
from framehaul_client.errors import FramehaulError, InvalidOption, OutputError, ProtocolError
from framehaul_client.sinks.choice import STDOUT
from framehaul_client.trace.tracks import TraceFile
from framehaul_client.trace.writer import Clock, TraceWriter

_LONGEST_S: Final = 300.0
"""That servers trace."""
_LAST_WORDS_S: Final = 10.0
"""For a server to tell what it did up to a run's end."""

_LOG: Final = logging.getLogger(__name__)


async def trace(options: Options, access: Access) -> str:
    """Run `client trace`; gives what to say about it.

    Raises:
        FramehaulError: it failed; what came before is kept, if anything did.

    Cancellation: keeps what came before.
    """
    path = _path(options.out)
    with _writing(path, options.target) as writer:
        client = FrameClient(options.target, connect_timeout_s=options.connect_timeout, access=access)
        async with client, contextlib.aclosing(client.trace(options.seconds, kernels=options.kernels)) as responses:
            await _begin(writer, responses)
            async for response in responses:
                writer.server(response)
        events, sessions = _count(writer.file.num_events, "event"), _count(writer.num_sessions, "session")
    verdict = Verdict.of(writer.seconds)
    return (
        f"{path}: {events} of {sessions} at {options.target} in {options.seconds:g} s"
        f"{f'; {verdict.text()}' if verdict else ''}\n"
        f"  open it at https://ui.perfetto.dev, or draw it: client timeline {path} --out timeline.png"
    )


@contextlib.asynccontextmanager
async def traced(options: Options, access: Access) -> AsyncIterator[OnEvent | None]:
    """Trace a run, if that is asked for; gives what its session has to tell.

    The server's part is left out, with a warning, where the server has none or doesn't tell.

    Raises:
        FramehaulError: the file can't be written, or there is no server.

    Cancellation: keeps what came before.
    """
    if options.trace is None:
        yield None
        return
    with _writing(_path(options.trace), options.target) as writer:
        writer.only_own()
        client = FrameClient(options.target, connect_timeout_s=options.connect_timeout, access=access)
        async with client, contextlib.aclosing(client.trace(_LONGEST_S)) as responses:
            run = _Run(writer)
            following = asyncio.create_task(run.follow(responses), name="framehaul trace")
            try:
                await run.begun.wait()
                yield run.hear
                await run.end()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        if run.error is not None:
            raise run.error


class _Run:
    """A run that is traced: its own events, and those of its session at the server."""

    def __init__(self, writer: TraceWriter) -> None:
        self.begun = asyncio.Event()
        """The clocks are compared; or the server has refused."""
        self.error: OutputError | None = None
        """Why there is no more of the trace; the run goes on."""
        self._writer = writer
        self._opened = asyncio.Event()
        self._told_all = asyncio.Event()
        self._until_ns: int | None = None

    def hear(self, event: Event) -> None:
        """Write what the session, or its encoder, did."""
        if self.error is None:
            try:
                self._writer.client(event)
            except OutputError as error:
                self.error = error
        if event.name == "opened":
            self._opened.set()

    async def follow(self, responses: AsyncGenerator[pb.TraceResponse, None]) -> None:
        """Write what the server says of the session."""
        try:
            await _begin(self._writer, responses)
            self.begun.set()
            await self._opened.wait()  # which session it is
            async for response in responses:
                if self.error is None:
                    self._writer.server(response)
                if self._until_ns is not None and response.HasField("load") and response.now_ns >= self._until_ns:
                    break
        except OutputError as error:
            self.error = error
        except FramehaulError as error:
            self._writer.left_out = str(error)
            _LOG.warning("the trace lacks the server's side: %s", error)
        finally:
            self.begun.set()
            self._told_all.set()

    async def end(self) -> None:
        """Wait for the server's last words."""
        self._until_ns = self._writer.clock(time.monotonic_ns())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told_all.wait(), _LAST_WORDS_S)


async def _begin(writer: TraceWriter, responses: AsyncGenerator[pb.TraceResponse, None]) -> None:
    sent_ns = time.monotonic_ns()
    first = await anext(responses, None)
    if first is None or not first.HasField("started"):
        raise ProtocolError("the server began its trace without saying so")
    writer.start(first, Clock.between(sent_ns, first.now_ns, time.monotonic_ns()))


@contextlib.contextmanager
def _writing(path: Path, target: str) -> Iterator[TraceWriter]:
    """A trace that gets its name at the end, however that comes; not if nothing was written."""
    file = TraceFile(path)
    writer = TraceWriter(file, target)
    try:
        try:
            yield writer
        except BaseException:
            if writer.begun:
                writer.finish()
                file.publish()
                _LOG.warning("the trace so far is kept in %s", path)
            raise
        writer.finish()
        file.publish()
    finally:
        file.discard()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _path(name: str) -> Path:
    if name == STDOUT:
        raise InvalidOption("a trace can't be written to stdout: name a file, t.pftrace say")
    return Path(name)
