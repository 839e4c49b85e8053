"""Descriptors of frames, highlights and health, for a server without reflection: `python -m bench.protoset FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2

from framehaul.v1 import frames_pb2, highlights_pb2


def descriptors() -> FileDescriptorSet:
    """The services of a server."""
    found = FileDescriptorSet()
    for module in (frames_pb2, highlights_pb2, health_pb2):
        module.DESCRIPTOR.CopyToProto(found.file.add())
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(descriptors().SerializeToString(deterministic=True))
