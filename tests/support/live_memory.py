"""Counts the memory of a computation's tensors without running it: on torch's meta device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """Watches each operation's results until nobody holds them any more."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes: int = 0
        self._known = known
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in _pytree.tree_leaves(results):
            if isinstance(result, torch.Tensor) and _storage(result) not in self._known:
                storage = result.untyped_storage()
                self._live[_storage(result)] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(num_bytes for _, num_bytes in self._live.values()))
        return results


@torch.no_grad()
def peak_bytes(
    module: torch.nn.Module,
    latents: torch.Tensor,
    decode: Callable[[torch.Tensor], object],
    state: Sequence[torch.Tensor] = (),
) -> int:
    """The most that `decode(latents)` holds at once, beyond `latents`, the parameters of `module` and `state`."""
    with LiveTensors({_storage(each) for each in (*module.parameters(), latents, *state)}) as live:
        decode(latents)
        peak: int = live.peak_bytes
    return peak


def _storage(tensor: torch.Tensor) -> int:
    identity: int = tensor.untyped_storage()._cdata
    return identity
