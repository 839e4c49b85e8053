"""The soak's judgement of the server's memory."""

import os

import numpy as np
import pytest

from tests.faults.growth import BOUND_BYTES, Line, Sample, growth, own_bytes
from tests.faults.soak import judge_memory

MIB = 1 << 20


def samples(bytes_a_stream: float, *, noise_bytes: float = 0.0, seed: int = 0, count: int = 30) -> list[Sample]:
    """Of a run that cuts 100 streams between two samples, and settles in its first fifth."""
    noise = np.random.default_rng(seed).normal(0, noise_bytes, count)
    warm = [min(number, count // 5) * MIB for number in range(count)]
    return [
        Sample(100 * number, int(100 * MIB + warm[number] + 100 * number * bytes_a_stream + noise[number]))
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_what_grpc_leaks_is_allowed_and_more_is_found(seed: int) -> None:
    """In noise of a quarter of a MiB, as the allocator makes."""
    assert not growth(samples(300, noise_bytes=MIB / 4, seed=seed)).exceeds_bound
    assert growth(samples(2048, noise_bytes=MIB / 4, seed=seed)).exceeds_bound


def test_the_slope_is_that_of_the_samples_after_the_warm_up() -> None:
    found = growth(samples(700))
    assert [line.slope for line in (found.whole, *found.halves)] == pytest.approx([700] * 3, abs=1)
    assert found.num_samples == 24


def test_jumps_are_no_growth() -> None:
    """Two MiB up and down again, three times."""
    jumping = [
        Sample(each.num_streams, each.num_bytes + 2 * MIB * (number % 8 > 4)) for number, each in enumerate(samples(0))
    ]
    assert not growth(jumping).exceeds_bound


@pytest.mark.parametrize("step_at", range(9, 27))
@pytest.mark.parametrize("seed", range(2))
def test_one_step_is_no_growth_but_too_short_to_tell(step_at: int, seed: int) -> None:
    """A heap that finds its size after the warm-up: wherever it does, and however straight the rest."""
    stepped = [
        Sample(each.num_streams, each.num_bytes + 8 * MIB * (number >= step_at))
        for number, each in enumerate(samples(300, noise_bytes=MIB / 16, seed=seed))
    ]
    found = growth(stepped)
    assert not found.exceeds_bound
    assert found.too_short


def test_a_run_that_could_show_nothing_says_so() -> None:
    assert Line(slope=0.0, error=1e5).min_detectable > 100 * BOUND_BYTES
    with pytest.raises(ValueError, match="at least 5"):
        growth(samples(0, count=11))
    with pytest.raises(ValueError, match="at least 5"):
        growth([Sample(7, 7)] * 20)


@pytest.mark.parametrize(
    ("bytes_a_stream", "step_bytes", "count", "says", "wrong"),
    [
        (300, 0, 30, "300 +- 0 bytes a stream", 0),
        (2048, 0, 30, "2048 +- 0 bytes a stream", 1),
        (0, 8 * MIB, 30, "too short to tell", 0),
        (2048, 0, 6, "too short to tell", 0),
    ],
    ids=["what gRPC leaks", "a leak", "a step", "few samples"],
)
def test_the_soak_fails_for_growth_alone_and_says_when_it_cannot_tell(
    bytes_a_stream: int, step_bytes: int, count: int, says: str, wrong: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        Sample(each.num_streams, each.num_bytes + step_bytes * (number > 15))
        for number, each in enumerate(samples(bytes_a_stream, count=count))
    ]
    assert len(judge_memory(found)) == wrong
    assert says in capsys.readouterr().out


def test_a_heap_that_finds_its_size_in_a_short_run_is_no_growth(capsys: pytest.CaptureFixture[str]) -> None:
    """A soak of 90 s on a busy machine (seed 4242): steps, then as good as nothing."""
    kib = {0: 30692, 41: 31788, 76: 32096, 115: 32252, 140: 33144, 183: 33152, 234: 33172, 236: 33172}
    assert judge_memory([Sample(streams, size << 10) for streams, size in kib.items()]) == []
    assert "too short to tell" in capsys.readouterr().out


def test_shared_memory_does_not_count() -> None:
    """A process's own bytes do."""
    before = own_bytes(os.getpid())
    mine = bytearray(os.urandom(8 * MIB))
    assert own_bytes(os.getpid()) - before > 7 * MIB
    descriptor = os.memfd_create("shared")
    with open(descriptor, "r+b") as shared:
        shared.truncate(32 * MIB)
        shared.write(b"1" * 32 * MIB)
        assert own_bytes(os.getpid()) - before < 20 * MIB
    del mine
