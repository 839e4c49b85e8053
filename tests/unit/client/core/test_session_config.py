from fractions import Fraction
from typing import Any

import pytest

from framehaul_client.core.session_config import SessionConfig, check_priority, check_target, parse_fps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 101}, "priority=101: must be -100..100"),
        ({"priority": -101}, "priority=-101: must be -100..100"),
        ({"num_latents": 0}, "num_latents=0: must be 1 or more"),
        ({"num_frames": 0}, "num_frames=0: must be 1 or more"),
        ({"layout": "HWC"}, "layout=HWC: must be TCHW or CTHW"),
        ({"restart_latents": 0}, "restart_latents=0: must be 1..4294967295"),
        ({"window_frames": 0}, "window_frames=0: must be 1..4294967295"),
        ({"window_frames": 1 << 63}, f"window_frames={1 << 63}: must be 1..4294967295"),
        ({"window_frames": 1 << 32}, "window_frames=4294967296"),
        ({"max_message_bytes": 1}, "max_message_bytes=1: must be 1024..2147483647"),
        ({"pixel_format": "yuv444p"}, "pixel_format=yuv444p: must be rgb24, yuv420p, yuv420p10le, gbrpf16le"),
        ({"dtype": "float64"}, "dtype=float64: must be float16, bfloat16, float32"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """The text names the field, the value and the range."""
    with pytest.raises(ValueError, match=message):
        SessionConfig(**options)


def test_the_limits_themselves_are_allowed() -> None:
    """Ranges include their ends."""
    SessionConfig(priority=-100, num_latents=1, window_frames=1, max_message_bytes=1024)
    assert check_priority(100) == 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24", Fraction(24)),
        ("24000/1001", Fraction(24000, 1001)),
        ("0.5", Fraction(1, 2)),
        ("12.5", Fraction(25, 2)),
        ("24.0", Fraction(24)),
        ("24.5", Fraction(49, 2)),
        ("30.00", Fraction(30)),
        ("2997/100", Fraction(2997, 100)),
        ("23.98", Fraction(24000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.976024", Fraction(24000, 1001)),
        (str(24000 / 1001), Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("29.97002997", Fraction(30000, 1001)),
        ("47.952", Fraction(48000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("59.95", Fraction(1199, 20)),
    ],
)
def test_fps(text: str, expected: Fraction) -> None:
    """Whole numbers, fractions and decimals; what rounds to a broadcast rate is that rate."""
    assert parse_fps(text) == expected


@pytest.mark.parametrize(
    "target",
    [
        "gpu7:50051",
        "127.0.0.1:1",
        "[::1]:50051",
        "dns:gpu7:1",
        "dns:///gpu7:1",
        "dns://8.8.8.8/gpu7:1",
        "ipv4:10.0.0.1:1,10.0.0.2:1",
        "ipv6:[::1]:1",
        "unix:/run/framehaul",
        "unix-abstract:framehaul",
    ],
)
def test_targets(target: str) -> None:
    """As gRPC names them."""
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "gpu7",
        "127.0.0.1",
        "::1",
        "gpu7:",
        "gpu7:http",
        "gpu7:0",
        "gpu7:65536",
        "gpu7:99999",
        ":1",
        "",
        "http://gpu7:1",
        "grpc://gpu7:1",
        "gpu7:1/x",
    ],
)
def test_other_targets_are_refused(target: str) -> None:
    """gRPC would ask port 443, or look up `http` or `//gpu7`."""
    with pytest.raises(ValueError, match=f"target={target}: must be HOST:PORT"):
        check_target(target)


@pytest.mark.parametrize("text", ["0", "-1", "1/0", "fast", "", "1001", "nan", "inf", "1e-9"])
def test_other_fps_are_refused(text: str) -> None:
    """The text shows what would do."""
    with pytest.raises(ValueError, match="must be a number over 0 and up to 1000"):
        parse_fps(text)


@pytest.mark.parametrize("retry_for_s", [-1.0, 1e9])
def test_the_time_to_try_again_has_a_range(retry_for_s: float) -> None:
    """Up to a week."""
    with pytest.raises(ValueError, match=r"retry_for_s=.*: must be 0\.\.604800"):
        SessionConfig(retry_for_s=retry_for_s)


@pytest.mark.parametrize("stall_timeout_s", [0.0, -1.0, 1e9, float("nan")])
def test_the_time_for_a_silent_server_has_a_range(stall_timeout_s: float) -> None:
    """Over 0, up to a week."""
    with pytest.raises(ValueError, match=r"stall_timeout_s=.*: must be over 0 and up to 604800"):
        SessionConfig(stall_timeout_s=stall_timeout_s)


@pytest.mark.parametrize(("num_frames", "start_frame"), [(None, -1), (9, 9), (9, 10)])
def test_a_part_begins_inside_its_clip(num_frames: int | None, start_frame: int) -> None:
    """The text has the range, if the clip's end is known."""
    allowed = "0 or more" if num_frames is None else r"0\.\.8"
    with pytest.raises(ValueError, match=f"start_frame={start_frame}: must be {allowed}"):
        SessionConfig(num_latents=3, num_frames=num_frames, start_frame=start_frame)
