import inspect
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus

from framehaul.wire import MalformedMessage
from framehaul_pipeline import errors as pipeline
from framehaul_server import errors as server
from framehaul_server.rpc.status import internal, status_of

PROTOCOL = Path(__file__).parents[4] / "docs" / "protocol.md"
NEVER_TOLD = {server.CannotListen, server.CannotWork, server.UnusableFile, server.ConnectionLost}
ROWS: list[tuple[Exception, grpc.StatusCode]] = [
    (pipeline.InvalidInput("dtype", 9, "1..3"), grpc.StatusCode.INVALID_ARGUMENT),
    (MalformedMessage("cut off"), grpc.StatusCode.INVALID_ARGUMENT),
    (pipeline.NotFound("model"), grpc.StatusCode.NOT_FOUND),
    (pipeline.OutOfOrder("index"), grpc.StatusCode.FAILED_PRECONDITION),
    (pipeline.Overloaded("full", pipeline.Lack.PLACES, retry_after_s=0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (pipeline.Unavailable("draining"), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkerRestarting("try again"), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkerLost(at_work=pipeline.AtWork.ALONE), grpc.StatusCode.UNAVAILABLE),
    (pipeline.WorkersKilled(), grpc.StatusCode.ABORTED),
    (pipeline.DataLoss("crc32c"), grpc.StatusCode.DATA_LOSS),
    (pipeline.ReplayDiffers("frames"), grpc.StatusCode.DATA_LOSS),
    (server.Elsewhere(["a:1", "b:1"]), grpc.StatusCode.FAILED_PRECONDITION),
    (server.ClientSilent("silent"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (server.ClientStalled("nothing moves"), grpc.StatusCode.ABORTED),
    (server.GrantExceeded("latents"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (server.ReadersKilled(), grpc.StatusCode.ABORTED),
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
    """Errors that reach clients are all in the table, and the bases are not raised."""
    mapped = {type(error) for error, _ in ROWS}
    for module in (pipeline, server):
        for _, error_type in inspect.getmembers(module, inspect.isclass):
            if issubclass(error_type, Exception) and error_type.__module__ == module.__name__:
                unmapped = {pipeline.PipelineError, server.ServerError, *NEVER_TOLD}
                assert error_type in mapped | unmapped


@pytest.mark.parametrize("retry_after_s", [0.0, 0.25, 1.0, 90.5])
@pytest.mark.parametrize("details", ["", "all 8 sessions of tenant film are in use", "ü" * 1000])
def test_overload_says_when_to_try_again(details: str, retry_after_s: float) -> None:
    """Twice: as gRPC's own retries read it, and as any gRPC library that knows google.rpc does."""
    status = status_of(pipeline.Overloaded(details, pipeline.Lack.PLACES, retry_after_s=retry_after_s))
    assert status is not None
    pushback, (key, rich) = status.trailers
    assert pushback == ("grpc-retry-pushback-ms", str(int(retry_after_s * 1000)))
    assert key == "grpc-status-details-bin"
    assert isinstance(rich, bytes)
    parsed = RichStatus.FromString(rich)
    assert (parsed.code, parsed.message, len(parsed.details)) == (8, details, 1)
    assert parsed.details[0].type_url == "type.googleapis.com/google.rpc.RetryInfo"
    info = RetryInfo()
    assert parsed.details[0].Unpack(info)
    seconds = int(retry_after_s)
    assert info.retry_delay == Duration(seconds=seconds, nanos=int((retry_after_s - seconds) * 1e9))


def test_the_bytes_of_a_delay_are_these() -> None:
    """code 8, the text, and the one detail: an older server's, byte for byte."""
    status = status_of(pipeline.Overloaded("full", pipeline.Lack.PLACES, retry_after_s=0.25))
    assert status is not None
    info = b"\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x07\x0a\x05\x10" + b"\x80\xe5\x9a\x77"
    assert status.trailers[1][1] == b"\x08\x08\x12\x04full\x1a" + bytes([len(info)]) + info


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (server.ClientStalled("nothing moves"), "CLIENT_STALLED"),
        (server.Elsewhere([]), "FRONT"),
        (pipeline.WorkersKilled(), "WORKERS_KILLED"),
        (pipeline.DataLoss("crc32c"), "CHECKSUM_DIFFERS"),
        (pipeline.ReplayDiffers("frames"), "REPLAY_DIFFERS"),
    ],
)
def test_errors_that_share_a_code_and_want_different_answers_have_a_reason(error: Exception, reason: str) -> None:
    status = status_of(error)
    assert status is not None
    ((key, rich),) = status.trailers
    assert key == "grpc-status-details-bin"
    assert isinstance(rich, bytes)
    parsed = RichStatus.FromString(rich)
    info = ErrorInfo()
    assert parsed.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "framehaul")
    assert f"`{reason}`" in PROTOCOL.read_text()


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
