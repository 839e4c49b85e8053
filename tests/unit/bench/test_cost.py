import pytest
from bench.cost import cost_table, spent

from framehaul.v1 import frames_pb2 as pb
from framehaul_client.core.info import Rate, ServerInfo, read_info


def info(*rates: pb.MeasuredRate) -> ServerInfo:
    return read_info(pb.ServerInfo(models=[pb.ModelInfo(name="m", rates=rates)]))


def rate(num_frames: int, device_s: float, kernels_s: float, width: int = 832) -> pb.MeasuredRate:
    return pb.MeasuredRate(width=width, height=480, num_frames=num_frames, device_s=device_s, kernels_s=kernels_s)


def test_what_was_spent_in_between_is_told_apart() -> None:
    """Of one model and size, whether or not that was there before."""
    other = rate(9, 9, 9, width=64)
    before, after = info(other, rate(100, 2, 1)), info(other, rate(400, 8, 6))
    assert spent(before, after, "m", (480, 832)) == Rate(width=832, height=480, num_frames=300, device_s=6, kernels_s=5)
    assert spent(info(other), after, "m", (480, 832)).num_frames == 400
    for wrong in ((before, before, "m", (480, 832)), (before, after, "n", (480, 832)), (before, after, "m", (8, 8))):
        with pytest.raises(LookupError, match="measured nothing"):
            spent(*wrong)


def test_the_table_has_cost_and_light() -> None:
    """A row a case; what isn't known is a dash."""
    ours = {"model": "m", "size": "832x480", "by": "us", "frames_per_s": 100.0, "speed_of_light": 0.987}
    theirs = {"model": "m", "size": "832x480", "by": "them", "frames_per_s": 50.0}
    first, second = cost_table([{**ours, "device_frames_per_s": 101.0}, theirs], 4.0).splitlines()[2:]
    assert first == "| m | 832x480 | us | 100 | 98.7% | 101 | 960.00 |"
    assert second == "| m | 832x480 | them | 50 | - | - | 1,920.00 |"
