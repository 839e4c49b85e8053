"""PSNR and SSIM mean what the model card says."""

import pytest
import torch

from training.metrics import psnr_db, ssim


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(9, 3, 24, 32, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error() -> None:
    reference = torch.full((2, 3, 8, 8), 0.5)
    decoded = reference.clone()
    decoded[1] += 0.1
    first, second = psnr_db(reference, decoded).tolist()
    assert first == pytest.approx(100)
    assert second == pytest.approx(20)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    reference = pictures(0)
    assert ssim(reference, reference).tolist() == pytest.approx([1.0] * 9)
    little, much = (ssim(reference, reference + share * (pictures(1) - 0.5)) for share in (0.1, 0.6))
    assert (much < little).all()
    assert (little < 1).all()


def test_ssim_of_flat_pictures_follows_the_formula() -> None:
    """Without contrast only the luminance term is left: `(2ab + C1) / (a^2 + b^2 + C1)`."""
    first, second = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(first, second).item() == pytest.approx(expected, abs=1e-4)
