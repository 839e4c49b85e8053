import logging

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from framehaul_server.grpc_log import is_news, quieten


@pytest.mark.parametrize(
    ("error", "news"),
    [
        (cygrpc.ExecuteBatchError("Failed"), False),
        (grpc.aio.UsageError("RPC already finished."), True),
        (RuntimeError("ours"), True),
        (None, True),
    ],
)
def test_only_calls_that_were_over_are_left_out(error: Exception | None, news: bool) -> None:
    given = None if error is None else (type(error), error, None)
    record = logging.LogRecord("grpc", logging.ERROR, "", 0, "Unexpected", (), given)
    assert is_news(record) is news


def test_the_filter_sits_where_grpc_logs() -> None:
    logger = logging.getLogger("grpc._cython.cygrpc")
    quieten()
    quieten()
    try:
        assert logger.filters.count(is_news) == 1
    finally:
        logger.removeFilter(is_news)
