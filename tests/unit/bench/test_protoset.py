from bench import ROOT
from bench.protoset import descriptors
from google.protobuf import descriptor_pb2


def test_the_shipped_descriptors_are_those_of_the_stubs() -> None:
    """A client without reflection sees all that the server speaks; `make -B protoset` renews the file."""
    shipped = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "bench" / "frames.protoset").read_bytes())
    assert shipped == descriptors()
    services = [f"{file.package}.{service.name}" for file in shipped.file for service in file.service]
    assert services == ["framehaul.v1.FrameService", "framehaul.v1.HighlightService", "grpc.health.v1.Health"]
