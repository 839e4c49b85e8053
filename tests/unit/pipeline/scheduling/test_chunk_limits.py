from framehaul.formats import PixelFormat
from framehaul_pipeline.scheduling.chunk_limits import FIRST_SLOWER, SLOWER, ChunkLimits, ChunkShape
from framehaul_pipeline.spec import Geometry
from tests.support.fake_decoder import fake_opening

SECOND_NS = 10**9


def shape(num_latents: int = 4, width: int = 8) -> ChunkShape:
    return ChunkShape("tiny", Geometry(channels=16, height=8, width=width), PixelFormat.RGB24, num_latents)


def test_a_shape_is_what_a_session_was_opened_with() -> None:
    opening = fake_opening(model="tiny", geometry=Geometry(channels=16, height=8, width=9))
    assert ChunkShape.of(opening, 4) == shape(width=9)


def test_a_shape_not_seen_yet_has_time_to_compile() -> None:
    limits = ChunkLimits(10.0)
    assert limits.limit_s(None) == limits.limit_s(shape()) == 10.0 * FIRST_SLOWER
    limits.observe(shape(), 100 * SECOND_NS)
    assert limits.limit_s(shape()) == 10.0 * FIRST_SLOWER, "the first chunk's time is not learnt from"


def test_a_known_shape_may_take_many_times_its_usual_time() -> None:
    limits = ChunkLimits(10.0)
    for _ in range(2):
        limits.observe(shape(), 3 * SECOND_NS)
    assert limits.limit_s(shape()) == 3.0 * SLOWER
    assert limits.limit_s(shape(num_latents=1)) == 10.0 * FIRST_SLOWER, "another number of latents is another shape"


def test_a_quick_shape_has_the_lowest_limit() -> None:
    limits = ChunkLimits(10.0)
    for _ in range(2):
        limits.observe(shape(), SECOND_NS // 100)
    assert limits.limit_s(shape()) == 10.0


def test_one_slow_chunk_moves_the_limit_by_a_part_only() -> None:
    limits = ChunkLimits(1.0)
    for seconds in (1, 1, 5):
        limits.observe(shape(), seconds * SECOND_NS)
    assert limits.limit_s(shape()) == SLOWER * 2.0


def test_clients_that_choose_many_sizes_are_forgotten_again() -> None:
    limits = ChunkLimits(10.0)
    for width in range(1, 259):
        limits.observe(shape(width=width), SECOND_NS)
        limits.observe(shape(width=width), SECOND_NS)
    assert limits.limit_s(shape(width=2)) == 10.0 * FIRST_SLOWER
    assert limits.limit_s(shape(width=3)) == 1.0 * SLOWER
