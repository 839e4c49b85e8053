from typing import Any

import pytest
from bench.profiling import summary


def event(category: str, name: str, start: float, duration: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "args": args}


def test_busy_is_the_union_of_kernels_over_their_span() -> None:
    """Kernels of two streams overlap; a copy counts for the bandwidth and not for the kernels."""
    found = summary(
        [
            event("kernel", "conv", 100.0, 40.0),
            event("kernel", "relu", 120.0, 30.0),
            event("kernel", "conv", 190.0, 10.0),
            event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 150.0, 20.0, bytes=1_000_000),
            event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 150.0, 20.0, bytes=5),
            event("cpu_op", "aten::conv2d", 0.0, 1000.0),
            {"ph": "M", "name": "process_name"},
        ]
    )
    assert found["busy"] == 0.6
    assert found["span_s"] == pytest.approx(100e-6)
    assert found["num_kernels"] == 3
    assert found["to_host_bytes"] / found["to_host_s"] == pytest.approx(50e9)


def test_nothing_recorded_is_not_busy() -> None:
    """A CPU has no kernels."""
    assert summary([])["busy"] == 0.0
