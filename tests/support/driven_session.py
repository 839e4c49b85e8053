"""A session in a task beside the test, with fakes around it and no service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from framehaul.v1 import frames_pb2 as pb
from framehaul.wire import Envelope
from framehaul_server.core.limits import SessionRules
from framehaul_server.core.recorder import Recorder
from framehaul_server.rpc.synthetic import make_latents
from framehaul_server.session.session import Session
from tests.support.driven_service import settle
from tests.support.fakes import ANYBODY, FakeConnection, FakeHandle, FakeWorker, record, rules

NARROW = rules(window_bytes=0, latent_bytes=0)


class Running:
    """A session that runs in a task beside the test."""

    def __init__(self, first: Envelope[pb.StreamRequest], worker: FakeWorker, session_rules: SessionRules) -> None:
        self.connection = FakeConnection()
        self.record = record()
        self.worker = worker
        served, first = make_latents(self.connection, first, session_rules.opening)
        self.session = Session(first, worker, session_rules, self.record, ANYBODY, Recorder(0))
        self.task = asyncio.ensure_future(self.session.run(served))

    @property
    def handle(self) -> FakeHandle:
        return self.worker.handles[-1]

    async def end(self) -> None:
        """The session is over; raises what ended it."""
        outcome = await asyncio.wait_for(self.task, 60)
        assert not outcome.detached
        if outcome.error is not None:
            raise outcome.error


@asynccontextmanager
async def running(
    first: Envelope[pb.StreamRequest],
    *,
    worker: FakeWorker | None = None,
    session_rules: SessionRules = NARROW,
) -> AsyncIterator[Running]:
    """Run a session; however the test leaves, everything must be given back."""
    before = asyncio.all_tasks()
    run = Running(first, worker or FakeWorker(), session_rules)
    await settle()
    try:
        yield run
    finally:
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
        assert all(handle.closed for handle in run.worker.handles)
        assert asyncio.all_tasks() <= before
