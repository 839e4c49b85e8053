import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from framehaul_server.rpc.rich_status import retry_status


def google_rpc() -> DescriptorPool:
    """Status and RetryInfo as google/rpc/status.proto and error_details.proto define them."""
    file = FileDescriptorProto(name="rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend(["google/protobuf/any.proto", "google/protobuf/duration.proto"])
    kinds = FieldDescriptorProto
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    status.field.add(
        name="details",
        number=3,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_REPEATED,
        type_name=".google.protobuf.Any",
    )
    info = file.message_type.add(name="RetryInfo")
    info.field.add(
        name="retry_delay",
        number=1,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_OPTIONAL,
        type_name=".google.protobuf.Duration",
    )
    pool = DescriptorPool()
    for module in (any_pb2, duration_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


@pytest.mark.parametrize("retry_after_s", [0.0, 0.25, 1.0, 90.5])
@pytest.mark.parametrize("details", ["", "all 8 sessions of tenant film are in use", "ü" * 1000])
def test_protobuf_reads_what_was_written_by_hand(details: str, retry_after_s: float) -> None:
    """Any gRPC library that knows google.rpc finds code, text and delay."""
    pool = google_rpc()
    status = GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))()
    status.ParseFromString(retry_status(grpc.StatusCode.RESOURCE_EXHAUSTED, details, retry_after_s=retry_after_s))
    assert (status.code, status.message, len(status.details)) == (8, details, 1)  # type: ignore[attr-defined]
    info = GetMessageClass(pool.FindMessageTypeByName("google.rpc.RetryInfo"))()
    assert status.details[0].Unpack(info)  # type: ignore[attr-defined]
    delay = info.retry_delay  # type: ignore[attr-defined]
    assert delay.seconds + delay.nanos / 1e9 == retry_after_s
