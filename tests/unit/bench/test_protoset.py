from bench import ROOT
from google.protobuf import descriptor_pb2

from framehaul.v1 import frames_pb2


def test_the_shipped_descriptors_are_those_of_the_stubs() -> None:
    """A client without reflection sees the protocol that the server speaks; `make -B protoset` renews the file."""
    shipped = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "bench" / "frames.protoset").read_bytes())
    for message in shipped.file[0].message_type:
        for field in message.field:
            field.ClearField("json_name")
    wanted = descriptor_pb2.FileDescriptorProto()
    frames_pb2.DESCRIPTOR.CopyToProto(wanted)
    for message in wanted.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert [file.name for file in shipped.file] == ["framehaul/v1/frames.proto"]
    assert shipped.file[0] == wanted
