import inspect

import grpc
import pytest

from framehaul.wire import MalformedMessage
from framehaul_pipeline import errors as pipeline
from framehaul_server import errors as server
from framehaul_server.rpc.status import internal, status_of

ROWS: list[tuple[Exception, grpc.StatusCode]] = [
    (pipeline.InvalidInput("dtype", 9, "1..3"), grpc.StatusCode.INVALID_ARGUMENT),
    (MalformedMessage("cut off"), grpc.StatusCode.INVALID_ARGUMENT),
    (pipeline.NotFound("model"), grpc.StatusCode.NOT_FOUND),
    (pipeline.OutOfOrder("index"), grpc.StatusCode.FAILED_PRECONDITION),
    (pipeline.Overloaded("full", retry_after_s=0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (pipeline.Unavailable("draining"), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkerRestarting("try again"), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkerLost(at_work=pipeline.AtWork.ALONE), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkersKilled(), grpc.StatusCode.ABORTED),
    (pipeline.DataLoss("crc32c"), grpc.StatusCode.DATA_LOSS),
    (server.ClientSilent("silent"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (server.ClientStalled("nothing moves"), grpc.StatusCode.ABORTED),
    (server.GrantExceeded("latents"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (server.NotAuthenticated(), grpc.StatusCode.UNAUTHENTICATED),
    (server.NotPermitted("synthetic"), grpc.StatusCode.PERMISSION_DENIED),
    (server.SessionCancelled("cancel"), grpc.StatusCode.CANCELLED),
    (server.ClientLeft("half-closed"), grpc.StatusCode.CANCELLED),
    (server.Fenced("another"), grpc.StatusCode.CANCELLED),
]


@pytest.mark.parametrize(("error", "code"), ROWS)
def test_every_error_has_its_status_and_says_its_text(error: Exception, code: grpc.StatusCode) -> None:
    status = status_of(error)
    assert status is not None
    assert (status.code, status.details) == (code, str(error))


def test_no_error_class_is_forgotten() -> None:
    """Errors that reach clients are all in the table; those of the start never do, and the bases are not raised."""
    mapped = {type(error) for error, _ in ROWS}
    for module in (pipeline, server):
        for _, error_type in inspect.getmembers(module, inspect.isclass):
            if issubclass(error_type, Exception) and error_type.__module__ == module.__name__:
                unmapped = {pipeline.PipelineError, server.ServerError, server.CannotListen, server.UnusableFile}
                assert error_type in mapped | unmapped


def test_overload_says_when_to_try_again() -> None:
    status = status_of(pipeline.Overloaded("full", retry_after_s=0.25))
    assert status is not None
    assert status.trailers[0] == ("grpc-retry-pushback-ms", "250")
    assert status.trailers[1][0] == "grpc-status-details-bin"


def test_a_client_that_exceeds_its_grant_is_told_not_to_retry() -> None:
    status = status_of(server.GrantExceeded("latents"))
    assert status is not None
    assert status.trailers == (("grpc-retry-pushback-ms", "-1"),)


@pytest.mark.parametrize("error", [RuntimeError("secret path"), pipeline.PipelineError("from the device")])
def test_an_unforeseen_error_has_no_status_of_its_own(error: Exception) -> None:
    assert status_of(error) is None


def test_internal_names_the_request_and_nothing_else() -> None:
    assert internal("abc").details == "internal error; the server's log knows it as abc"


def test_long_texts_are_cut_to_fit_a_trailer() -> None:
    status = status_of(pipeline.NotFound("x" * 5000))
    assert status is not None
    assert len(status.details) == 1000
