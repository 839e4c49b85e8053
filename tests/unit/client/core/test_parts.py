from itertools import pairwise

import pytest

from framehaul_client.core.parts import cut


@pytest.mark.parametrize(
    ("num_latents", "num_parts", "history", "expected"),
    [
        (40, 2, 0, [20, 40]),
        (81, 2, 38, [59, 81]),
        (321, 4, 38, [108, 179, 250, 321]),
        (41, 3, 38, [39, 40, 41]),
    ],
)
def test_all_parts_take_equally_long(num_latents: int, num_parts: int, history: int, expected: list[int]) -> None:
    """Those after the first decode what they look back over once more; to a latent, all decode as many."""
    ends = cut(num_latents, num_parts, history)
    assert ends == expected
    decoded = [ends[0], *[end - start + history for start, end in pairwise(ends)]]
    assert max(decoded) - min(decoded) <= 1


def test_a_clip_that_is_too_short_is_refused() -> None:
    """Every part has a latent of its own."""
    with pytest.raises(
        ValueError, match=r"21 latents are too few for 4 parts: .* back over 38, so it takes 42 or more"
    ):
        cut(21, 4, 38)
