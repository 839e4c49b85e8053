from framehaul_server.rpc.options import server_options


def test_limits_are_taken_over_and_streams_are_refused_by_admission_first() -> None:
    options = dict(server_options(max_request_bytes=123, max_calls=7, keepalive_s=10.0))
    assert options["grpc.max_receive_message_length"] == 123
    assert options["grpc.max_concurrent_streams"] > 7
    assert options["grpc.so_reuseport"] == 0
    assert options["grpc.http2.bdp_probe"] == 0, "unread streams would take 4 MiB each"
    assert options["grpc.http2.ping_timeout_ms"] == 5_000


def test_no_option_is_given_twice() -> None:
    options = server_options(max_request_bytes=123, max_calls=7, keepalive_s=10.0)
    assert len(dict(options)) == len(options)
