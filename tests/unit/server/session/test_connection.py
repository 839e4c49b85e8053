import asyncio

import pytest

from framehaul_pipeline.errors import InvalidInput
from framehaul_server.errors import ClientLeft, ClientStalled, ConnectionLost, Fenced
from framehaul_server.session.connection import is_loss, leading_error

LOST = ConnectionLost(RuntimeError("batch"))


def test_of_several_errors_the_one_raised_on_purpose_counts() -> None:
    said = InvalidInput("dtype", 9, "1..3")
    assert leading_error(BaseExceptionGroup("", [RuntimeError("first"), LOST, said])) is said


def test_without_one_the_first_counts() -> None:
    assert leading_error(BaseExceptionGroup("", [KeyboardInterrupt()])).__class__ is KeyboardInterrupt
    assert leading_error(ExceptionGroup("", [LOST, RuntimeError("second")])) is LOST


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (asyncio.CancelledError(), True),
        (LOST, True),
        (ClientLeft("half-closed"), True),
        (Fenced("another"), True),
        (ClientStalled("nothing moves"), False),
        (RuntimeError("ours"), False),
    ],
)
def test_a_connection_is_lost_by_its_own_errors_alone(error: BaseException, loss: bool) -> None:
    assert is_loss(error) is loss
