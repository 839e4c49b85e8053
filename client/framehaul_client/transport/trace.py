"""The call that tells what a server does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.access import Metadata
from framehaul_client.errors import Unsupported
from framehaul_client.transport.status import Status, client_error

if TYPE_CHECKING:
    from framehaul.v1.frames_pb2_grpc import FrameServiceAsyncStub

_MARGIN_S: Final = 15.0
"""For a server that is busy, after the time that was asked for."""
_KERNELS_MARGIN_S: Final = 60.0
"""For its worker, to begin with kernels and to tell all of them."""


async def trace_responses(
    stub: FrameServiceAsyncStub, request: pb.TraceRequest, metadata: Metadata, target: str
) -> AsyncGenerator[pb.TraceResponse, None]:
    """Yield what the server at `target` tells, to the end.

    Raises:
        Unsupported: it doesn't know this call.
        FramehaulError: the call failed; the class tells how.

    Cancellation: cancels the call, as closing the generator does.
    """
    timeout_s = request.seconds + _MARGIN_S + request.kernels * _KERNELS_MARGIN_S
    call = stub.Trace(request, timeout=timeout_s, metadata=metadata)
    answered = False
    try:
        async for response in call:
            answered = True
            yield response
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise Unsupported(f"{target}: this server is older than traces, and has none") from error
        status = Status(error.code(), error.details(), error.trailing_metadata())
        raise client_error(status, target, connected=answered) from error
    finally:
        call.cancel()
