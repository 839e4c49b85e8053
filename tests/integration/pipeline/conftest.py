"""A supervisor that tests share; its worker and its standby may be killed."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio

from framehaul_pipeline.supervision.supervisor import Supervisor, WorkerState
from tests.support.supervised import CONFIG, StateLog, supervised
from tests.support.waiting import eventually


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared_supervisor() -> AsyncIterator[Supervisor]:
    config = replace(CONFIG, standby=True, max_restarts=1000)
    async with supervised(config) as (supervisor, _):
        yield supervisor


@pytest_asyncio.fixture(loop_scope="session")
async def states(shared_supervisor: Supervisor) -> AsyncIterator[StateLog]:
    """What becomes of it in a test; at the end it has a worker and a standby again."""
    log = StateLog(WorkerState.READY)
    shared_supervisor._on_state = log
    yield log
    await eventually(
        lambda: shared_supervisor.state is WorkerState.READY and shared_supervisor.standby_pid is not None,
        lambda: (shared_supervisor.state, shared_supervisor.standby_pid),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def supervisor(shared_supervisor: Supervisor, states: StateLog) -> Supervisor:
    return shared_supervisor
