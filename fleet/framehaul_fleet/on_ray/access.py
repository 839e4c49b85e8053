"""Whether a cluster of Ray lets in anybody: who may call it may run code on all its machines. Speaks gRPC, not Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import grpc

from framehaul_fleet.errors import FleetFailed

_TLS_VARIABLE: Final = "RAY_USE_TLS"
_TLS_FILES: Final = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_ANSWER_S: Final = 10.0
_ANY_METHOD: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Of the control plane; another one would do."""


def uses_tls(environment: Mapping[str, str]) -> bool:
    """Whether Ray's own TLS is asked for, as Ray reads that.

    Raises:
        FleetFailed: a file that it needs isn't named, or can't be read; Ray itself would wait for minutes.
    """
    if environment.get(_TLS_VARIABLE, "0").lower() not in ("1", "true"):
        return False
    for name in _TLS_FILES:
        path = environment.get(name, "")
        if not os.access(path, os.R_OK):
            raise FleetFailed(f"{name}={path!r}: must name a file that can be read, since {_TLS_VARIABLE} is set")
    return True


def check_access(address: str, *, encrypted: bool, insecure: bool) -> None:
    """Call the control plane at `address` as a stranger would.

    Args:
        address: `HOST:PORT`.
        encrypted: it speaks Ray's own TLS, which asks for a certificate.
        insecure: it may let in anybody.

    Raises:
        FleetFailed: it lets in callers without a token, or nothing answers; Ray itself would wait for minutes.
    """
    with grpc.insecure_channel(address) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_ANY_METHOD)
        try:
            ask(b"", timeout=_ANSWER_S)
        except grpc.RpcError as error:
            code = error.code()
            if encrypted or code is grpc.StatusCode.UNAUTHENTICATED:
                return
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise FleetFailed(
                    f"ray={address}: no control plane of Ray answers there; one with TLS needs {_TLS_VARIABLE} here"
                ) from error
    if not insecure:
        raise FleetFailed(
            f"ray={address}: this cluster lets in callers without a token, who may run anything on its machines: start "
            "all its nodes with RAY_AUTH_MODE=token, or use --insecure where every machine of the network is trusted"
        )
