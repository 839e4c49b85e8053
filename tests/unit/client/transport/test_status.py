import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus

from framehaul_client import errors
from framehaul_client.transport.status import Status, call_error, client_error
from framehaul_pipeline import errors as pipeline
from framehaul_server import errors as server
from framehaul_server.rpc import status as server_status

ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: errors.InvalidRequest,
    grpc.StatusCode.PERMISSION_DENIED: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAuthenticated,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Refused,
    grpc.StatusCode.UNAVAILABLE: errors.ConnectionLost,
    grpc.StatusCode.CANCELLED: errors.ConnectionLost,
    grpc.StatusCode.DATA_LOSS: errors.SessionDamaged,
}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_has_an_error(code: grpc.StatusCode) -> None:
    """No status is a surprise, and the server's words are kept; ABORTED is final: who stalled would stall again."""
    error = client_error(Status(code, "field=1: must be 2"), "host:1", connected=True)
    assert type(error) is ERRORS.get(code, errors.StreamFailed)
    assert "host:1: " in str(error)
    assert "field=1: must be 2" in str(error)


def test_a_servers_words_can_not_drive_a_terminal() -> None:
    """Nothing of them moves its cursor, begins a line or turns the direction of writing."""
    status = Status(grpc.StatusCode.NOT_FOUND, "no\x1b]0;owned\x07\r\nclient: done \u202egpj\u2028\x9b2J ø")
    error = client_error(status, "host:1", connected=True)
    assert str(error) == r"host:1: no\x1b]0;owned\x07\r\nclient: done \u202egpj\u2028\x9b2J ø"


def test_unavailable_depends_on_whether_the_server_had_answered() -> None:
    """Never there, or gone."""
    status = Status(grpc.StatusCode.UNAVAILABLE, None)
    assert type(client_error(status, "host:1", connected=False)) is errors.ServerUnavailable
    assert type(client_error(status, "host:1", connected=True)) is errors.ConnectionLost
    assert "no reason given" in str(client_error(status, "host:1", connected=True))


@pytest.mark.parametrize(
    ("value", "retry_after_s"), [("300", 0.3), ("1500", 1.5), ("0", 0.0), ("-1", None), ("x", None), (None, None)]
)
def test_pushback(value: str | None, retry_after_s: float | None) -> None:
    """When to come back, if the server said so."""
    trailers = None if value is None else grpc.aio.Metadata(("grpc-retry-pushback-ms", value))
    error = client_error(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailers), "host:1", connected=False)
    assert isinstance(error, errors.Refused)
    assert error.retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (server.ClientStalled("nothing moves"), "CLIENT_STALLED"),
        (pipeline.WorkersKilled(), "WORKERS_KILLED"),
        (pipeline.DataLoss("crc32c"), "CHECKSUM_DIFFERS"),
        (pipeline.ReplayDiffers("frames"), "REPLAY_DIFFERS"),
        (pipeline.Overloaded("full", pipeline.Lack.PLACES, retry_after_s=1.0), None),
        (pipeline.NotFound("model"), None),
    ],
)
def test_an_error_has_the_servers_reason(told: Exception, reason: str | None) -> None:
    """Where it gives one; with other details there may be none."""
    status = server_status.status_of(told)
    assert status is not None
    failed = grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailers))
    assert call_error(failed, "host:1").reason == reason


def rich(*details: Message) -> bytes:
    status = RichStatus(code=10, message="text")
    for detail in details:
        packed = status.details.add()
        if isinstance(detail, Any):
            packed.CopyFrom(detail)
        else:
            packed.Pack(detail)
    return bytes(status.SerializeToString())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (rich(RetryInfo(), ErrorInfo(reason="A\x1b[2J", domain="framehaul")), r"A\x1b[2J"),
        (rich(ErrorInfo(reason="PROXY", domain="example.org"), ErrorInfo(reason="B", domain="framehaul")), "B"),
        (rich(ErrorInfo(reason="PROXY", domain="example.org")), None),
        (rich(ErrorInfo(domain="framehaul")), None),
        (b"\xff", None),
        (b"\x1a\x01\xff", None),
        (rich(Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")), None),
        (b"", None),
    ],
)
def test_only_reasons_of_framehauls_own_count(given: bytes, reason: str | None) -> None:
    """Proxies have theirs; what can't be read is none."""
    status = Status(grpc.StatusCode.ABORTED, "text", grpc.aio.Metadata(("grpc-status-details-bin", given)))
    assert client_error(status, "host:1", connected=True).reason == reason


def test_unary_calls_map_alike() -> None:
    """An AioRpcError goes through the same table."""
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), details="model=m: must be tiny"
    )
    assert type(call_error(failed, "host:1")) is errors.NotFound
