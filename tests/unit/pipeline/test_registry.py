import msgspec
import pytest
import torch

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.errors import NotFound
from framehaul_pipeline.models import TINY, TINY_SPEC, ModelKind


def test_tiny_computes_in_float32_on_the_cpu() -> None:
    decoder = load_decoder(TINY, torch.device("cpu"))
    assert (decoder.spec, decoder.dtype) == (TINY_SPEC, torch.float32)


def test_a_kind_without_a_decoder_is_refused() -> None:
    with pytest.raises(NotFound, match="model tiny: this build has no decoder for kind=wan"):
        load_decoder(msgspec.structs.replace(TINY, kind=ModelKind.WAN), torch.device("cpu"))
