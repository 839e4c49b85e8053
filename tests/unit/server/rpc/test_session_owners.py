"""Who may have a session that was opened before, and until when, with fakes around it."""

import grpc
import pytest

from framehaul.v1 import frames_pb2 as pb
from tests.support.driven_service import RESUMABLE, leave, opened, serving, status
from tests.support.fakes import opening, request


@pytest.mark.asyncio
async def test_a_session_is_its_tenants_alone() -> None:
    """To everybody else it doesn't exist, whatever they know; and it is not disturbed."""
    async with serving(max_sessions=2) as server:
        mine, my_task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        theirs, task = await server.resume(opened(mine).session_id, tenant="other")
        assert (await status(theirs, task))[0] is grpc.StatusCode.NOT_FOUND
        assert not my_task.done()
        assert await server.locate(opened(mine).session_id, tenant="other") is grpc.StatusCode.NOT_FOUND
        assert await server.locate(opened(mine).session_id) == "farm:50051"


@pytest.mark.asyncio
async def test_a_full_server_lets_its_own_sessions_back_in_and_no_others() -> None:
    async with serving(max_queued=0) as server:
        context, task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(task)
        other, other_task = await server.connect(request(open=opening()))
        assert (await status(other, other_task))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        again, task = await server.resume(opened(context).session_id, 0)
        assert opened(again).session_id == opened(context).session_id
        assert server.admission.num_sessions == 1


@pytest.mark.asyncio
async def test_a_draining_server_still_names_itself_for_a_session_that_it_serves() -> None:
    async with serving() as server:
        context, _task = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        server.service.drain(1.0)
        assert await server.locate(opened(context).session_id) == "farm:50051"


@pytest.mark.asyncio
async def test_a_draining_server_keeps_nothing_that_has_no_connection() -> None:
    async with serving(max_sessions=2) as server:
        _, lost = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        _, served = await server.connect(request(open=RESUMABLE), request(ack=pb.Ack()))
        await leave(lost)
        assert server.admission.num_sessions == 2
        server.service.drain(5.0)
        assert server.admission.num_sessions == 1
        await leave(served)
        assert server.admission.num_sessions == 0
