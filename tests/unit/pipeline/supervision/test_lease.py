import pytest

from framehaul_pipeline.link.messages import Published
from framehaul_pipeline.supervision.lease import FrameLease

PUBLISHED = Published(
    session=1,
    slot=2,
    generation=3,
    first_frame=4,
    frame_bytes=5,
    crc32c=(6, 7),
    num_latents=1,
    chunks=(1,),
    decode_ns=8,
)


def test_a_lease_is_given_back_once_and_its_view_is_dead_then() -> None:
    """Releasing twice is fine; nobody can read a slot that went back."""
    given_back = []
    with FrameLease(PUBLISHED, memoryview(bytes(10)).toreadonly(), lambda: given_back.append(1)) as lease:
        assert (lease.first_frame, lease.num_frames, lease.frame_bytes, lease.crc32c) == (4, 2, 5, (6, 7))
        assert len(lease.view) == 10
    lease.release()
    assert given_back == [1]
    with pytest.raises(ValueError, match="released"):
        bytes(lease.view)
