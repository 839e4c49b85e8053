import torch

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.models.model import TINY, TINY_SPEC


def test_tiny_computes_in_float32_on_the_cpu() -> None:
    decoder = load_decoder(TINY, torch.device("cpu"))
    assert (decoder.spec, decoder.dtype) == (TINY_SPEC, torch.float32)
