"""What every decoder must hold, whatever its kind: called by each decoder's own tests."""

import torch

from framehaul_pipeline.decoders.base import Decoder, State
from framehaul_pipeline.spec import Geometry


def tensor_bytes(state: State) -> int:
    """Memory that a state holds alive: storages, each once, so that a slice counts with what it is a slice of."""
    return sum({each.data_ptr(): each.nbytes() for tensor in state for each in [tensor.untyped_storage()]}.values())


@torch.inference_mode()
def check_state_bytes(decoder: Decoder, geometry: Geometry, chunks: tuple[int, ...]) -> None:
    """`state_bytes` is what a state holds, or at most 10 % more, at open and after each of these chunks.

    Never less: host pages for parking are counted by it.
    """
    told = decoder.state_bytes(geometry)
    state = decoder.open(geometry, None)
    held = [tensor_bytes(state)]
    for num_latents in chunks:
        shape = (num_latents, geometry.channels, geometry.height, geometry.width)
        _, state = decoder.step(torch.zeros(shape, dtype=decoder.dtype), state)
        held.append(tensor_bytes(state))
    assert max(held) <= told <= 1.1 * min(held), f"state_bytes={told}: the state holds {held}"
