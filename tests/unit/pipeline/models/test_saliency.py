"""TASED-Net's file, as a server sees it: its header alone."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.saliency import bare_name, describe_saliency


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    """What isn't the network's, and training's counters, aren't counted."""
    counters = {"module.base1.0.bn_s.num_batches_tracked": np.zeros(1, np.int64), "head.weight": np.zeros(7)}
    save_file({"module.base1.0.conv_s.weight": np.zeros((64, 3), np.float32), **counters}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInput, match=r"weights a\.safetensors=192 numbers: must be TASED-Net's 21287237"):
        describe_saliency(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("module.convtsp4.13.bias", "convtsp4.13.bias"),
        ("base4.1.branch0.0.bn.weight", "base4.1.branch0.0.bn.weight"),
        ("base4.1.branch0.0.bn.num_batches_tracked", ""),
        ("optimizer.base1", ""),
    ],
)
def test_names_are_those_in_the_network(stored: str, name: str) -> None:
    assert bare_name(stored) == name
