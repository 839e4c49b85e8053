"""AutoencoderKL through the contract, against the library: small random configurations, float32, on the CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from framehaul_pipeline.decoders.autoencoder_kl import AutoencoderKLDecoder, load_autoencoder_kl
from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import check_starts_anywhere, one_thread
from tests.support.live_memory import peak_bytes
from tests.unit.pipeline.decoders.interpreted_diffusers import interpreted

CPU = torch.device("cpu")
STABLE_DIFFUSION = {"latent_channels": 4, "scaling_factor": 0.18215}
FLUX = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


def random_vae(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(3)
    widths = (8, 16, 16)
    blocks: dict[str, Any] = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "norm_num_groups": 4,
    }
    return AutoencoderKL(**{**blocks, **changes}).eval()


def load(vae: AutoencoderKL, folder: Path) -> AutoencoderKLDecoder:
    vae.save_pretrained(folder)
    decoder = load_decoder(describe_model(f"pictures={folder}"), CPU)
    assert isinstance(decoder, AutoencoderKLDecoder)
    return decoder


@torch.inference_mode()
def library_frames(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """What the library decodes of one latent after the other."""
    return torch.cat([vae.decode(latent[None]).sample for latent in latents])


@pytest.mark.parametrize("kind", [STABLE_DIFFUSION, FLUX], ids=["4 channels", "16 channels"])
def test_every_chunking_equals_the_library_bit_by_bit(kind: dict[str, Any], tmp_path: Path) -> None:
    """Difference 0 in chunks of 1, 2, 3 and 5, and a frame for each latent."""
    vae = random_vae(**kind)
    decoder = load(vae, tmp_path)
    latents = torch.randn(8, kind["latent_channels"], 6, 9)
    expected = library_frames(vae, latents)
    assert expected.shape == (decoder.spec.num_frames(8), 3, 24, 36)
    for size in (1, 2, 3, 5):
        state = decoder.open(Geometry(channels=kind["latent_channels"], height=6, width=9), None)
        frames = []
        for chunk in latents.split(size):
            assert decoder.next_chunk(0, len(chunk), size, ended=False) == len(chunk)
            decoded, state = decoder.step(chunk, state)
            frames.append(decoded)
        assert torch.equal(torch.cat(frames), expected)
        assert decoder.flush(state) is None


def test_a_decode_that_starts_in_the_middle_gives_the_clips_frames_bit_for_bit(tmp_path: Path) -> None:
    """From the first one on: nothing is remembered."""
    decoder = load(random_vae(**STABLE_DIFFUSION), tmp_path)
    assert decoder.spec.history_latents == 0
    check_starts_anywhere(decoder, torch.randn(8, 4, 6, 9), (1, 3, 2, 2))


@pytest.mark.parametrize(
    ("kind", "undone"),
    [
        (STABLE_DIFFUSION, lambda z: z / 0.18215),
        (FLUX, lambda z: z / 0.3611 + 0.1159),
        (
            {
                "latent_channels": 4,
                "scaling_factor": 0.5,
                "latents_mean": [0.0, 1.0, 2.0, 3.0],
                "latents_std": [2.0] * 4,
            },
            lambda z: z * 2.0 / 0.5 + torch.arange(4.0)[:, None, None],
        ),
    ],
    ids=["scaling", "scaling and shift", "mean and std"],
)
def test_normalisation_is_undone_as_the_pipelines_do(kind: dict[str, Any], undone: Any, tmp_path: Path) -> None:
    """Stable Diffusion's, Flux's and SDXL's rule, as mean and standard deviation of each channel."""
    spec = load(random_vae(**kind), tmp_path).spec
    latents = torch.randn(kind["latent_channels"], 2, 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.latent_mean, spec.latent_std))
    torch.testing.assert_close(latents * std + mean, undone(latents))


def test_the_encoder_is_neither_built_nor_kept(tmp_path: Path) -> None:
    """A folder whose encoder is missing serves as well, and no parameter of one is there."""
    vae = random_vae()
    decoder = load(vae, tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name.startswith(("decoder", "post"))}, path)
    smaller = load_autoencoder_kl(describe_model(f"pictures={tmp_path}"), CPU, None)
    latents = torch.randn(1, 4, 4, 4)
    assert torch.equal(smaller.step(latents, [])[0], decoder.step(latents, [])[0])
    names = {name.partition(".")[0] for name, _ in decoder._vae.named_parameters()}
    assert names == {"decoder", "post_quant_conv"}
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in decoder._vae.parameters())


def test_attention_under_its_old_names_is_read(tmp_path: Path) -> None:
    """Stable Diffusion's files from before diffusers 0.17."""
    vae = random_vae()
    expected = load(vae, tmp_path).step(torch.ones(1, 4, 4, 4), [])[0]
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(path)
    for new_part, old_part in old.items():
        tensors = {name.replace(new_part, old_part): tensor for name, tensor in tensors.items()}
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, path)
    decoder = load_decoder(describe_model(f"pictures={tmp_path}"), CPU)
    assert torch.equal(decoder.step(torch.ones(1, 4, 4, 4), [])[0], expected)


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of our extra."""
    random_vae().save_pretrained(tmp_path)
    model = describe_model(f"pictures={tmp_path}")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InvalidInput, match=r"model pictures=AutoencoderKL: .*pip install 'framehaul\[diffusers\]'"):
        load_decoder(model, CPU)


def test_no_state_and_memory_of_one_picture(tmp_path: Path) -> None:
    """The estimate is within half of what the library's tensors take at most, at Stable Diffusion's widths."""
    decoder = load(random_vae(), tmp_path)
    geometry = Geometry(channels=4, height=60, width=104)
    assert (decoder.state_bytes(geometry), decoder.spec.state_bytes_per_pixel) == (0, 0.0)
    widths = (128, 256, 512, 512)
    with torch.device("meta"):
        vae = random_vae(
            block_out_channels=widths,
            layers_per_block=2,
            norm_num_groups=32,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        latents = torch.empty(1, 4, 60, 104)
    spec = describe_model(f"pictures={_saved_config(vae, tmp_path)}").spec
    real = AutoencoderKLDecoder(spec, vae, widths, torch.float32)
    measured = peak_bytes(vae, latents, lambda z: real.step(z, []))
    assert measured <= real.workspace_bytes(geometry, 1) <= 1.5 * measured


def _saved_config(vae: AutoencoderKL, folder: Path) -> Path:
    vae.save_config(folder)
    return folder


def test_the_gpus_engine_equals_the_library() -> None:
    """Within 2e-5 in float32: with and without attention and quantisation, other widths, means far from zero."""
    differences = interpreted()["pictures"]
    assert len(differences) == 3
    assert max(differences) < 2e-5, differences
