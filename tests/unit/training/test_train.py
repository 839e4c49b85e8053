"""The training program: a run that stops goes on, and what it writes is what the pipeline reads."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from framehaul_pipeline.decoders.tiny import WEIGHTS_PREFIX, TinyDecoderNet
from framehaul_pipeline.decoders.weights import load_weights
from training import train
from training.media import Bank
from training.optimiser import Optimiser, orthogonalise
from training.textures import TILE


@pytest.fixture
def toy_media(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of noise and three tiles instead of a film and photographs."""
    generator = torch.Generator().manual_seed(0)

    def film(folder: Path, split: str) -> Tensor:
        assert split == "train"
        return torch.randint(0, 256, (1, 16, 3, 64, 72), dtype=torch.uint8, generator=generator)

    def bank(folder: Path, device: torch.device, *, test: bool, num_made: int) -> Bank:
        assert not test
        tiles = torch.randint(0, 256, (3, 3, TILE, TILE), dtype=torch.uint8, generator=generator)
        return Bank(tiles=tiles, counts=(1, 1, 1))

    monkeypatch.setattr(train, "read_film", film)
    monkeypatch.setattr(Bank, "load", bank)
    monkeypatch.setattr("training.batches.SMALL_HEIGHT", 40)
    monkeypatch.setattr("training.batches.SMALL_WIDTH", 48)


def run_of(out: Path, steps: int) -> train.Run:
    toy = ["--batch", "2", "--frames", "4", "--crop", "32", "--device", "cpu"]
    arguments = train.parse(["--media", "none", "--out", str(out), "--steps", str(steps), *toy])
    return train.Run(arguments, torch.device("cpu"))


@pytest.mark.usefixtures("toy_media")
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = run_of(tmp_path, 2)
    fresh = [parameter.clone() for parameter in first.optimiser.parameters]
    first.train()
    trained = [parameter.clone() for parameter in first.optimiser.parameters]
    assert not any(torch.equal(a, b) for a, b in zip(fresh, trained, strict=True) if a.ndim == 4)

    again = run_of(tmp_path, 3)
    assert again.step_index == 2
    assert again.elapsed_s == first.elapsed_s
    assert all(torch.equal(a, b) for a, b in zip(again.optimiser.parameters, trained, strict=True))
    again.train()
    assert again.step_index == 3

    again.export(tmp_path / "tiny.safetensors")
    decoder = TinyDecoderNet()
    load_weights(decoder, tmp_path / "tiny.safetensors", WEIGHTS_PREFIX)
    mine = dict(again.decoder.state_dict())
    assert all(torch.equal(tensor, mine[name].half().float()) for name, tensor in decoder.state_dict().items())


@pytest.mark.usefixtures("toy_media")
def test_equal_seeds_start_equal_runs(tmp_path: Path) -> None:
    first, second = (run_of(tmp_path / name, 1) for name in ("a", "b"))
    for a, b in zip(first.optimiser.parameters, second.optimiser.parameters, strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("toy_media")
def test_learning_rate_rises_then_falls_to_almost_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2000)
    rates = []
    for run.step_index in (0, 300, 1000, 1999):
        rates.append(run.rate)
    assert rates[0] < rates[2] < rates[1] <= train.PEAK_RATE + 1e-6
    assert rates[3] < 0.001 * train.PEAK_RATE


def toy_parameters() -> list[torch.nn.Parameter]:
    """One for each method: a large convolution weight, and a bias."""
    generator = torch.Generator().manual_seed(2)
    shapes: list[tuple[int, ...]] = [(32, 8, 3, 3), (32,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def steps(optimiser: Optimiser, indices: range) -> None:
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        optimiser.set_rate(0.01)
        optimiser.step([torch.randn(p.shape, generator=generator) for p in optimiser.parameters])
        optimiser.average_in(0.9)


def test_optimiser_resumes_bit_for_bit() -> None:
    whole, begun, resumed = (Optimiser(toy_parameters()) for _ in range(3))
    steps(whole, range(5))
    steps(begun, range(3))
    resumed.load_state_dict(begun.state_dict())
    steps(resumed, range(3, 5))
    for name in ("parameters", "momenta", "squares", "average"):
        for a, b in zip(whole.state_dict()[name], resumed.state_dict()[name], strict=True):
            assert torch.equal(a, b)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(2, 24, 60, generator=torch.Generator().manual_seed(1))
    for shape in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(shape))
        assert values.min() > 0.5
        assert values.max() < 1.4
