"""Seconds of what `make fuzz` does for longer, without atheris."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_former_finds(target: str) -> None:
    """Inputs that once failed stay right."""
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str) -> None:
    @settings(max_examples=300)
    @given(st.binary(max_size=300))
    def check(given_bytes: bytes) -> None:
        TARGETS[target](given_bytes)

    check()


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_seeds(target: str) -> None:
    """Good inputs with bytes changed, cut out and repeated get further into the code than noise does."""
    choose = random.Random(5)
    originals = list(seeds(target))
    for _ in range(3000):
        damaged = bytearray(choose.choice(originals))
        for _ in range(choose.randint(1, 4)):
            position = choose.randrange(len(damaged) + 1)
            match choose.randrange(3):
                case 0:
                    damaged[position : position + 1] = bytes([choose.randrange(256)])
                case 1:
                    del damaged[position : position + choose.randint(1, 9)]
                case _:
                    damaged[position:position] = damaged[position : position + choose.randint(1, 40)]
        TARGETS[target](bytes(damaged))
