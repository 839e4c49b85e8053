"""Decoders from whatever forms their weights come in: the frames are the model's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLHunyuanVideo
from safetensors.torch import save_file
from torch import Tensor

from framehaul_pipeline.decoders.registry import load_decoder
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import TINY, TINY_SPEC, describe_model
from framehaul_pipeline.spec import Geometry
from tests.support.decoder_checks import decode, one_thread
from tests.support.wan_models import WAN_2_1, WAN_2_2, decode_whole, wan
from tests.unit.pipeline.models.test_wan_names import original_name

CPU = torch.device("cpu")
UPSCALE_2X = {**WAN_2_1, "out_channels": 12}
FILE_NAME = "diffusion_pytorch_model.safetensors"
PREFIXES = ["model.", "vae.", "first_stage_model.", "module.", "vae.decoder.", "a.b.c."]
BESIDE = {
    "model.diffusion_model.blocks.0.weight": torch.zeros(3).to(torch.float8_e4m3fn),
    "model.diffusion_model.decoder.other": torch.zeros(2),
    "text_encoders.t5.position_ids": torch.zeros(2, dtype=torch.int64),
    "decoder.of_something_else": torch.zeros(2),
}
"""What all-in-one checkpoints have besides."""


def pictures() -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).eval()


def hunyuan() -> Any:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    ).eval()


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


@one_thread()
def frames(path: Path) -> Tensor:
    decoder = load_decoder(describe_model(f"m={path}"), CPU)
    latents = torch.randn(5, decoder.spec.channels, 3, 4, generator=torch.Generator().manual_seed(1))
    return decode(decoder, latents, [1, 4] if decoder.spec.receptive_latents else [5])


def test_tiny_computes_in_float32_on_the_cpu() -> None:
    decoder = load_decoder(TINY, CPU)
    assert (decoder.spec, decoder.dtype) == (TINY_SPEC, torch.float32)


@pytest.mark.parametrize("build", [pictures, hunyuan, lambda: wan(WAN_2_1)], ids=["pictures", "hunyuan", "wan"])
def test_names_of_a_folders_tensors_may_have_anything_before_them(tmp_path: Path, build: Any) -> None:
    """Before all of the model's: other models' beside them have something else."""
    vae = build()
    vae.save_pretrained(tmp_path / "plain")
    expected = frames(tmp_path / "plain")
    for prefix in PREFIXES:
        folder = tmp_path / prefix
        saved(folder / FILE_NAME, {prefix + name: tensor for name, tensor in vae.state_dict().items()} | BESIDE)
        (folder / "config.json").write_text((tmp_path / "plain" / "config.json").read_text())
        assert torch.equal(frames(folder), expected), prefix
        assert torch.equal(frames(folder / FILE_NAME), expected), "the config beside a file counts"


@pytest.mark.parametrize("naming", ["authors", "diffusers"])
@pytest.mark.parametrize("config", [WAN_2_1, UPSCALE_2X, WAN_2_2], ids=["2.1", "2.1 2x", "2.2"])
@one_thread()
def test_a_lone_wan_file_gives_the_librarys_frames(tmp_path: Path, config: dict[str, Any], naming: str) -> None:
    """In both namings, with something before the names or not; twelve channels are pixels as users unpack them."""
    vae = wan(config)
    latents = torch.randn(3, config["z_dim"], 2, 3, generator=torch.Generator().manual_seed(1))
    expected = decode_whole(vae, latents)
    tensors = vae.state_dict()
    if naming == "authors":
        tensors = {original_name(name, config): tensor for name, tensor in tensors.items()}
    for prefix in ["", "model.", "vae.", "x.y."]:
        file = saved(tmp_path / "folder" / "file.safetensors", {prefix + n: t for n, t in tensors.items()})
        for path in (file, file.parent):
            model = describe_model(f"m={path}")
            geometry = Geometry(channels=config["z_dim"], height=2, width=3)
            assert geometry.frame_size(model.spec) == tuple(expected.shape[2:])
            torch.testing.assert_close(decode(load_decoder(model, CPU), latents, [1, 2]), expected, rtol=0, atol=2e-5)


def test_twelve_channels_are_unpacked_as_users_do_from_a_folder_with_a_config_too(tmp_path: Path) -> None:
    vae = wan(UPSCALE_2X)
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["out_channels"] == 12
    latents = torch.randn(2, 16, 2, 3, generator=torch.Generator().manual_seed(1))
    decoder = load_decoder(describe_model(f"m={tmp_path}"), CPU)
    assert decoder.spec.spatial_factor == 16
    torch.testing.assert_close(decode(decoder, latents, 1), decode_whole(vae, latents), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"blocks.0.weight": 1, "head.bias": 1}, r"weights=tensors blocks\.\*, head\.\*: must be decoder\.\*, as in a"),
        ({f"{i}.x": 1 for i in range(9)}, r"weights=tensors 0\.\*, 1\.\*, .*7\.\*, \.\.\.: must be decoder"),
        ({"x": 1}, r"weights=tensors x: must be"),
        (
            {"vae.decoder.conv_in.weight": 1, "audio.decoder.conv1.weight": 1},
            r"weights=decoders audio\.decoder, vae\.decoder: must be of one decoder",
        ),
        (
            {"decoder.conv_in.weight": 1},
            r"weights decoder\.conv_in\.weight=shape \[1\]: must be there with 5 dimensions",
        ),
    ],
)
def test_what_was_seen_of_a_file_that_is_no_vae_is_said(tmp_path: Path, tensors: dict[str, int], text: str) -> None:
    file = saved(tmp_path / "f.safetensors", {name: torch.zeros(size) for name, size in tensors.items()})
    with pytest.raises(InvalidInput, match=text):
        describe_model(f"m={file}")


def test_what_was_seen_of_a_folder_that_lacks_a_decoder_is_said(tmp_path: Path) -> None:
    wan(WAN_2_1).save_pretrained(tmp_path)
    saved(tmp_path / FILE_NAME, {"unet.x": torch.zeros(1), "encoder.y": torch.zeros(1)})
    with pytest.raises(
        InvalidInput, match=r"no tensor decoder.conv_in.bias among encoder\.\*, unet\.\*: must be weights"
    ):
        load_decoder(describe_model(f"m={tmp_path}"), CPU)


@pytest.mark.parametrize(
    ("dtype", "refused"),
    [(torch.float64, None), (torch.bfloat16, None), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")],
)
def test_types_of_weights(tmp_path: Path, dtype: torch.dtype, refused: str | None) -> None:
    """Those that hold their values alone; others are named before anything is loaded."""
    vae = wan(WAN_2_1)
    file = saved(tmp_path / "f.safetensors", {name: tensor.to(dtype) for name, tensor in vae.state_dict().items()})
    if refused is None:
        assert frames(file).isfinite().all()
        return
    with pytest.raises(InvalidInput, match=rf"decoder\.\S+ of type {refused}: must be one of F16, BF16, F32, F64"):
        describe_model(f"m={file}")
