"""Where a GPU ran no kernel."""

from __future__ import annotations

import pytest
from bench.gaps import find_gaps, gaps_table, short_name


def test_gaps_are_what_no_kernel_of_any_stream_covers() -> None:
    """Sorted into lengths; a kernel that another one outlasts begins no gap."""
    kernels = [(0.0, 10.0, "a"), (2.0, 4.0, "within"), (11.0, 20.0, "b"), (20.0, 21.0, "b"), (28.0, 30.0, "c")]
    found = find_gaps(kernels)
    assert [(each["from_us"], each["count"], each["sum_us"], each["between"]) for each in found["classes"]] == [
        (0, 1, 1.0, "a -> b"),
        (5, 1, 7.0, "b -> c"),
    ]
    assert found["largest_us"] == [7.0, 1.0]
    text = gaps_table({"run": {"span_s": 30e-6, "gaps": found}})
    assert "5 to 20" in text
    assert "23.33%" in text


def test_no_kernels_have_no_gaps() -> None:
    """A CPU's."""
    assert find_gaps([]) == {"classes": [], "largest_us": []}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("_fuse", "_fuse"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::F<float (int)>>(int, F)",
            "vectorized_elementwise_kernel",
        ),
        ("sm90_xmma_fprop<(int)3>", "sm90_xmma_fprop"),
    ],
)
def test_names_are_short(name: str, short: str) -> None:
    """Without namespaces, types and arguments."""
    assert short_name(name) == short
