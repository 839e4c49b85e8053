import asyncio
import logging

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from framehaul_pipeline.errors import Lack, Overloaded
from framehaul_server.errors import ConnectionLost
from framehaul_server.rpc.boundary import guard, is_news, quieten_grpc
from tests.support.fakes import Aborted, FakeContext, as_context, record


async def fail(error: BaseException) -> None:
    raise error


@pytest.mark.asyncio
async def test_what_the_work_returns_comes_back() -> None:
    async def work() -> int:
        return 7

    noted = record()
    assert await guard(as_context(FakeContext()), noted, work()) == 7
    assert noted.cause == "ok"


@pytest.mark.asyncio
async def test_a_known_error_becomes_its_status() -> None:
    context, noted = FakeContext(), record()
    with pytest.raises(Aborted):
        await guard(as_context(context), noted, fail(Overloaded("full", Lack.PLACES, retry_after_s=1.0)))
    assert context.aborted is not None
    assert context.aborted[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    assert context.aborted[2][0] == ("grpc-retry-pushback-ms", "1000")
    assert (noted.cause, noted.details, noted.lack) == ("resource_exhausted", "full", Lack.PLACES)


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [RuntimeError("secret path"), grpc.aio.UsageError("RPC already finished.")])
async def test_an_unforeseen_error_stays_in_the_log(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    context, noted = FakeContext(), record()
    with caplog.at_level(logging.ERROR), pytest.raises(Aborted):
        await guard(as_context(context), noted, fail(error))
    assert context.aborted is not None
    code, details, _ = context.aborted
    assert code is grpc.StatusCode.INTERNAL
    assert str(error) not in details
    assert "id" in details
    assert "Traceback" in caplog.text
    assert str(error) in caplog.text


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
async def test_a_client_that_left_is_no_error_and_passes_through(error: BaseException) -> None:
    context, noted = FakeContext(), record()
    with pytest.raises(type(error)):
        await guard(as_context(context), noted, fail(error))
    assert context.aborted is None
    assert noted.cause == "client_left"


@pytest.mark.asyncio
@pytest.mark.parametrize("reason", [grpc.aio.InternalError("batch"), grpc.aio.AbortError("aborted")])
async def test_what_grpc_said_of_a_client_that_left_goes_back_to_it(reason: Exception) -> None:
    """It knows then that the call is over, and logs nothing."""
    context, noted = FakeContext(), record()
    with pytest.raises(type(reason)) as raised:
        await guard(as_context(context), noted, fail(ConnectionLost(reason)))
    assert raised.value is reason
    assert context.aborted is None
    assert noted.cause == "client_left"


@pytest.mark.parametrize(
    ("error", "news"),
    [
        (cygrpc.ExecuteBatchError("Failed"), False),
        (grpc.aio.UsageError("RPC already finished."), True),
        (RuntimeError("ours"), True),
        (None, True),
    ],
)
def test_of_grpcs_log_only_calls_that_were_over_are_left_out(error: Exception | None, news: bool) -> None:
    given = None if error is None else (type(error), error, None)
    record = logging.LogRecord("grpc", logging.ERROR, "", 0, "Unexpected", (), given)
    assert is_news(record) is news


def test_the_filter_sits_where_grpc_logs() -> None:
    logger = logging.getLogger("grpc._cython.cygrpc")
    quieten_grpc()
    quieten_grpc()
    try:
        assert logger.filters.count(is_news) == 1
    finally:
        logger.removeFilter(is_news)
