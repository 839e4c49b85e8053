"""`state_bytes` of the built-in decoder; other decoders' tests call the same check."""

import pytest
import torch

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.models.model import TINY
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_state_bytes, tensor_bytes


@pytest.mark.parametrize(("height", "width"), [(8, 8), (15, 26), (1, 1)])
def test_tiny_says_exactly_what_its_state_holds(height: int, width: int) -> None:
    """At open and after chunks of any size: no activation is kept alive by a slice of it."""
    decoder = load_decoder(TINY, torch.device("cpu"))
    geometry = Geometry(channels=16, height=height, width=width)
    check_state_bytes(decoder, geometry, (1, 3, 2))
    assert tensor_bytes(decoder.open(geometry, None)) == decoder.state_bytes(geometry)


def test_tinys_spec_says_the_same_for_a_gpu() -> None:
    """The number that clients see is that of float16."""
    decoder = load_decoder(TINY, torch.device("cpu"))
    geometry = Geometry(channels=16, height=60, width=104)
    per_pixel = decoder.state_bytes(geometry) / (480 * 832)
    assert per_pixel / 2 == pytest.approx(TINY.spec.state_bytes_per_pixel, rel=0.01)
