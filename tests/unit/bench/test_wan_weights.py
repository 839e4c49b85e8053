from pathlib import Path

import pytest
import torch
from bench.wan_contender import difference
from bench.wan_decoders import DiffusersDecoder, decode_in_chunks, load_decode
from bench.wan_weights import make_vae, write_weights

from framehaul_pipeline.models.model import describe_model

LATENTS = 4


@pytest.mark.parametrize("model", ["wan2.1", "wan2.2"])
def test_frames_of_random_weights_are_not_clamped(model: str) -> None:
    """Else errors of a bfloat16 decode would say nothing."""
    vae = make_vae(model, toy=True).eval()
    with torch.inference_mode():
        frames = vae.decode(torch.randn(1, vae.config.z_dim, 2, 4, 4)).sample
    assert 0.2 < frames.std() < 0.5
    assert (frames.abs() >= 1).float().mean() < 0.02


@pytest.mark.parametrize("model", ["wan2.1", "wan2.2"])
def test_a_written_folder_is_what_the_product_and_diffusers_read(model: str, tmp_path: Path) -> None:
    """The product describes it, and diffusers' loop behind our contract equals its decode, in steps of any size."""
    write_weights(tmp_path, model, toy=True)
    spec = describe_model(f"wan={tmp_path}").spec
    latents = torch.randn(1, spec.channels, LATENTS, 4, 4)
    with torch.inference_mode():
        whole = load_decode("diffusers", str(tmp_path), "cpu")(latents)
    assert whole.shape[2] == spec.num_frames(LATENTS)
    decoder = DiffusersDecoder(describe_model(f"diffusers={tmp_path}"), torch.device("cpu"))
    for count in (1, 3):
        chunks = decode_in_chunks(decoder, latents[0].movedim(0, 1), count)
        assert difference(chunks, whole)["relative"] < 1e-6


def test_difference_of_a_known_error() -> None:
    """A tenth off everywhere: a relative error of 0.2 against halves, and 26 dB over a range of 2."""
    reference = torch.full((2, 3), 0.5)
    found = difference(reference + 0.1, reference)
    assert found["relative"] == pytest.approx(0.2, rel=1e-4)
    assert found["psnr_db"] == pytest.approx(26.02, abs=0.01)
