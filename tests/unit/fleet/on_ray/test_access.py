"""A cluster that lets in callers without a token is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from framehaul_fleet.errors import FleetFailed
from framehaul_fleet.on_ray.access import check_access, uses_tls


def answers(code: grpc.StatusCode | None) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not None:
            context.abort(code, "no")
        return b""

    return answer


@pytest.mark.parametrize(
    ("code", "options", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, {}, None),
        (None, {}, r"ray=127.0.0.1:\d+: this cluster lets in callers without a token, .* RAY_AUTH_MODE=token"),
        (None, {"insecure": True}, None),
        (grpc.StatusCode.UNIMPLEMENTED, {}, "lets in callers without a token"),
        (grpc.StatusCode.UNAVAILABLE, {"insecure": True}, "no control plane of Ray answers there"),
        (grpc.StatusCode.UNAVAILABLE, {"encrypted": True}, None),
    ],
)
def test_who_is_let_in_at_a_control_plane(
    code: grpc.StatusCode | None, options: dict[str, bool], error: str | None
) -> None:
    """UNAVAILABLE is what a caller without a certificate gets of one that speaks Ray's TLS."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answers(code))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", {"CheckAlive": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        told = {"encrypted": False, "insecure": False} | options
        if error is None:
            check_access(f"127.0.0.1:{port}", **told)
        else:
            with pytest.raises(FleetFailed, match=error):
                check_access(f"127.0.0.1:{port}", **told)
    finally:
        server.stop(None).wait()


def test_files_of_rays_tls_are_there_before_it_is_used(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")}
    for told in ({}, {"RAY_USE_TLS": "0"}):
        assert not uses_tls(told | files)
    for name, path in files.items():
        with pytest.raises(FleetFailed, match=f"{name}='{path}': must name a file that can be read"):
            uses_tls({"RAY_USE_TLS": "1"} | files)
        Path(path).touch()
    assert uses_tls({"RAY_USE_TLS": "true"} | files)
    del files["RAY_TLS_CA_CERT"]
    with pytest.raises(FleetFailed, match="RAY_TLS_CA_CERT=''"):
        uses_tls({"RAY_USE_TLS": "1"} | files)
