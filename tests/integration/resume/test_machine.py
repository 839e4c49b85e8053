"""The resume promise against the real server: hypothesis chooses what clients do and what breaks, and when.

Real gRPC through proxies that cut links, a real worker, real kills. Several sessions live at a time, each resumed on
its own. What must hold whenever something arrives is in `hand_session`; at the end of a sequence every session that
wasn't cancelled is whole, and the server holds nothing.

RESUME_SEQUENCES (20) sequences are run, with RESUME_SEED (0) as the seed: `make test` makes the same choices each time,
so that a failure there is the same failure elsewhere, but for what the scheduler does. No choice depends on what the
server answered. A failed sequence is neither shrunk nor run again, since that would be a run of other processes: it is
printed as it was, step by step, with what its sessions looked like. `make nightly` runs 200 with the day as the seed.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.integration.resume.conftest import TALLY
from tests.integration.resume.hand_session import HandSession
from tests.integration.resume.stage import Stage
from tests.integration.resume.steps import STEPS, Action, Step
from tests.support.proxy import Direction, FaultProxy

NUM_SEQUENCES = int(os.environ.get("RESUME_SEQUENCES", "20"))
SEED = int(os.environ.get("RESUME_SEED", "0"))
NUM_STEPS = 25
MAX_KILLS = 2
"""Of processes, in a sequence: they take seconds to come back."""
KILL_EVERY = 3 if NUM_SEQUENCES <= 20 else 2
REPLACE_EVERY = 20 if NUM_SEQUENCES <= 20 else 10
"""Sequences for each kill of any process, and of the server, over the whole run."""


KILLS: Final = {
    Action.KILL_WORKER: Stage.kill_worker,
    Action.STOP_WORKER: Stage.stop_worker,
    Action.REPLACE_SERVER: Stage.replace_server,
}
WRONG: Final = {
    Action.ASK_TOO_LOW: "too low",
    Action.ASK_TOO_HIGH: "too high",
    Action.ASK_WITH_OTHER_VALUES: "other values",
    Action.ASK_FOR_NOBODYS: "other id",
}


class Resuming(RuleBasedStateMachine):
    """Clients, their links and the server."""

    stage: ClassVar[Stage]
    failure: ClassVar[BaseException | None] = None
    """The first one: hypothesis looks at it a second time, and gets the same instead of another run."""
    failed_at: ClassVar[int] = 0
    """The number of its step."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[int, HandSession] = {}
        self.roads: list[FaultProxy] = []
        self.num_kills = self.num_steps = 0
        self.story: list[str] = []
        self.stage.tally["sequences"] += 1

    def do(self, what: object, work: Coroutine[Any, Any, None]) -> None:
        """Take a step, and note it."""
        self.story.append(str(what))
        self.num_steps += 1
        if self.failure is not None:
            work.close()
            if self.num_steps == self.failed_at:
                raise self.failure
            return
        try:
            self.stage.run(work)
        except BaseException as error:
            self.story += [f"failed: {error!r}", *map(str, self.sessions.values()), "the server's log ends:"]
            self.story += self.stage.server.process.log.splitlines()[-40:]
            error.add_note("\n".join((f"RESUME_SEED={SEED}, sequence {self.stage.tally['sequences']}:", *self.story)))
            Resuming.failure, Resuming.failed_at = error, self.num_steps
            raise
        self.story += [f"    {number}: {session}" for number, session in self.sessions.items()]

    @initialize(first=STEPS, second=STEPS)
    def begin(self, first: Step, second: Step) -> None:
        """Two sessions at least."""
        self.do("begin", self._begin())
        for number, step in enumerate((first, second)):
            connect = replace(step, action=Action.CONNECT, number=number)
            self.do(connect, self._take(connect))

    @rule(step=STEPS)
    def go(self, step: Step) -> None:
        """One rule, so that hypothesis leaves none out."""
        self.stage.tally["steps"] += 1
        self.do(step, self._take(step))

    async def _begin(self) -> None:
        for _ in range(2):
            road = FaultProxy(self.stage.target)
            self.roads.append(await road.__aenter__())

    async def _take(self, step: Step) -> None:
        session = self.sessions.get(step.number)
        road = self.roads[step.road]
        if step.action in KILLS:
            await self._kill(step.action)
        elif step.action in (Action.CUT, Action.FREEZE, Action.CUT_BEFORE_MESSAGE, Action.CUT_AFTER_BYTE):
            await self._break_link(road, step)
        elif step.action is Action.LOSE_OPENED:
            await self._lose_opened(road, step.clip)
        elif step.action is Action.CONNECT or session is None or session.finished:
            await self._connect(step, road)
        elif step.action in WRONG:
            await session.ask_wrongly(road, WRONG[step.action])
            self.stage.tally["wrong questions"] += 1
        else:
            await self._act(session, step, road)

    # What clients do

    async def _connect(self, step: Step, road: FaultProxy) -> None:
        session = self.sessions.get(step.number)
        if session is None or session.finished:
            if session is not None:
                await self._completed(session)
            session = self.sessions[step.number] = HandSession(self.stage.clips[step.clip], step.window)
        alive, resuming = session.alive, bool(session.session_id)
        if await session.connect(self.stage.server, road, step.part):
            self.stage.tally["resumes"] += resuming
            self.stage.tally["of these, fenced"] += resuming and alive
            self.stage.tally["starts at a frame"] += not resuming and session.open.start_frame > 0

    async def _act(self, session: HandSession, step: Step, road: FaultProxy) -> None:
        """What only a session can do whose connection seems alive: one that is lost is taken up again first."""
        if not session.alive:
            await self._connect(step, road)
        connection = session.connection
        if not session.alive or connection is None:
            return
        if step.action in (Action.GO_ON, Action.READ):
            await session.send_latents(step.count)
            await session.read(2 * step.count)
            if step.action is Action.GO_ON:
                await session.acknowledge()
        elif step.action is Action.END:
            await session.send_latents(session.clip.num_latents)
            await session.end_latents()
        elif step.action is Action.LOSE_ACKNOWLEDGEMENT:
            connection.road.forget_plans()
            connection.road.cut_at(Direction.TO_SERVER, connection.road.num_messages[Direction.TO_SERVER])
            await session.acknowledge()
            connection.road.forget_plans()
        elif step.action in (Action.HALF_CLOSE, Action.DROP_CALL):
            connection.parted = True
            if step.action is Action.HALF_CLOSE:
                await connection.half_close()
            else:
                connection.cancel()
            await connection.ended()
            session.part()
            self.stage.tally["calls left"] += 1
        elif session.proven:
            assert step.action is Action.CANCEL
            await session.cancel(self.stage.server, road)
            del self.sessions[step.number]
            self.stage.tally["cancelled"] += 1

    # What breaks

    async def _break_link(self, road: FaultProxy, step: Step) -> None:
        if step.action is Action.CUT_AFTER_BYTE:
            road.cut_after(step.direction, 397 * step.count)
        elif step.action is Action.CUT_BEFORE_MESSAGE:
            road.cut_at(step.direction, road.num_messages[step.direction] + step.count)
        else:
            freeze = step.action is Action.FREEZE
            (road.freeze if freeze else road.cut)()
            for session in self.sessions.values():
                connection = session.connection
                if connection is not None and connection.road is road and connection.alive:
                    if freeze:
                        connection.frozen = True
                    elif not connection.frozen:
                        await connection.ended()
            self.stage.tally["freezes"] += freeze

    async def _lose_opened(self, road: FaultProxy, clip: int) -> None:
        session = HandSession(self.stage.clips[clip], 12)
        road.forget_plans()
        road.cut_at(Direction.TO_CLIENT, road.num_messages[Direction.TO_CLIENT])
        opened = await session.connect(self.stage.server, road, 1.0)
        road.forget_plans()
        if opened:  # another session's message was the next one
            await session.cancel(self.stage.server, road)
        await session.aclose()
        may_be_kept = sum(bool(session.session_id) for session in self.sessions.values())
        await asyncio.to_thread(self.stage.expect_sessions, may_be_kept)
        self.stage.tally["Opened lost"] += not opened

    async def _kill(self, kill: Action) -> None:
        tally = self.stage.tally
        if kill is Action.REPLACE_SERVER and tally[kill.name] > tally["sequences"] // REPLACE_EVERY:
            kill = Action.KILL_WORKER
        num_kills = sum(tally[each.name] for each in KILLS)
        if self.num_kills < MAX_KILLS and num_kills <= tally["sequences"] // KILL_EVERY:
            self.num_kills += 1
            tally[kill.name] += 1
            await asyncio.to_thread(KILLS[kill], self.stage)
            for road in self.roads:
                road.server = self.stage.target

    # In the end

    def teardown(self) -> None:
        """Every session is whole, and nothing is left."""
        try:
            self.do("finish", self._finish())
        finally:
            self.stage.tally["cuts"] += sum(road.num_cuts for road in self.roads)
            self.stage.run(self._close())
        if self.failure is None:
            self.do("look for what is left", asyncio.to_thread(self.stage.expect_nothing_left))

    async def _finish(self) -> None:
        for road in self.roads:
            road.forget_plans()
        for session in self.sessions.values():
            await session.finish(self.stage.server, self.roads[0])
            await self._completed(session)

    async def _completed(self, session: HandSession) -> None:
        assert len(session.frames) == session.clip.num_frames
        self.stage.tally["sessions completed"] += 1
        self.stage.tally["frames"] += len(session.frames)
        await session.aclose()

    async def _close(self) -> None:
        sessions, self.sessions = self.sessions, {}
        ends = await asyncio.gather(*(session.aclose() for session in sessions.values()), return_exceptions=True)
        roads, self.roads = self.roads, []
        for road in roads:
            await road.__aexit__(None, None, None)
        for end in ends:
            if end is not None and self.failure is None:
                raise end


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("servers"))
    try:
        stage.run(stage.decode_undisturbed())
        yield stage
    finally:
        stage.close()


@pytest.mark.timeout(300 + 30 * NUM_SEQUENCES)
def test_every_frame_comes_once_whatever_breaks(stage: Stage) -> None:
    """And a session that was cancelled, or whose `Opened` was lost, is gone."""
    Resuming.stage = stage
    chosen = settings(
        max_examples=NUM_SEQUENCES,
        stateful_step_count=NUM_STEPS,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,  # a blob that makes the same choices says no more than the seed
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(seed(SEED)(Resuming), settings=chosen)
    finally:
        TALLY.update({"seed": SEED, **stage.tally})
    assert stage.tally["sequences"] >= NUM_SEQUENCES
