from framehaul.causes import Cause
from framehaul_client.core.statistics import SessionStatistics


def test_sessions_side_by_side_add_up() -> None:
    """Counts and times; the first frame is the first part's, and the last one whichever came last."""
    first = SessionStatistics(num_frames=3, frame_bytes=30, first_frame_s=0.5, last_frame_s=2.0)
    first.server_s = {Cause.DECODE: 1.0, Cause.COPY: 0.5}
    second = SessionStatistics(num_frames=4, frame_bytes=40, first_frame_s=0.25, last_frame_s=3.0)
    second.server_s = {Cause.DECODE: 2.0}
    total = SessionStatistics.of_parts([first, second])
    assert (total.num_frames, total.frame_bytes, total.first_frame_s, total.last_frame_s) == (7, 70, 0.5, 3.0)
    assert total.server_s == {Cause.DECODE: 3.0, Cause.COPY: 0.5}
