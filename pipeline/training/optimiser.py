"""Muon for the large convolution weights, AdamW for the rest, and a running average of all of them.

Every step is made of device operations alone, without a look at any value from the host, so that a whole step can be
recorded in a CUDA graph. Source of Muon: Keller Jordan, https://kellerjordan.github.io/posts/muon/; the scale
`0.2 * sqrt(max(out, in))`, which lets both halves share one learning rate: Liu et al., "Muon is Scalable for LLM
Training", 2025.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

WEIGHT_DECAY: Final = 0.01
ADAM_BETAS: Final = (0.9, 0.99)
MUON_MOMENTUM: Final = 0.95
MUON_MIN_SIDE: Final = 32
MAX_GRADIENT_NORM: Final = 1.0


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices to `[N, rows, columns]`, by five Newton-Schulz steps in bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


class Optimiser:
    """Owns the parameters' momenta and their running average."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        """Take the parameters; which method each gets follows from its shape."""
        self.parameters = parameters
        self._muon_groups: dict[tuple[int, int], list[int]] = {}
        self._adam: list[int] = []
        for i, parameter in enumerate(parameters):
            rows, columns = len(parameter), parameter[0].numel()
            if parameter.ndim == 4 and min(rows, columns) >= MUON_MIN_SIDE:
                self._muon_groups.setdefault((rows, columns), []).append(i)
            else:
                self._adam.append(i)
        self._momenta = [torch.zeros_like(p) for p in parameters]
        self._squares = [torch.zeros_like(parameters[i]) for i in self._adam]
        self.average = [p.detach().clone() for p in parameters]
        self._scalars = torch.zeros(3, device=parameters[0].device)  # rate and both bias corrections
        self._num_steps = 0

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step; call it before every step."""
        self._num_steps += 1
        first, second = (1 - beta**self._num_steps for beta in ADAM_BETAS)
        values = torch.tensor([rate, 1 / first, 1 / math.sqrt(second)], pin_memory=self._scalars.is_cuda)
        self._scalars.copy_(values, non_blocking=True)

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> Tensor:
        """Update every parameter; returns the gradients' norm before it was clipped."""
        rate, first, second = self._scalars.unbind()
        norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (MAX_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0))
        self._adam_step(gradients, rate, first, second)
        for (rows, columns), members in self._muon_groups.items():
            scale = 0.2 * math.sqrt(max(rows, columns))
            chosen = [gradients[i] for i in members]
            momenta = [self._momenta[i] for i in members]
            weights: list[Tensor] = [self.parameters[i] for i in members]
            torch._foreach_mul_(momenta, MUON_MOMENTUM)
            torch._foreach_add_(momenta, chosen)
            ahead = torch._foreach_add(torch._foreach_mul(momenta, MUON_MOMENTUM), chosen)
            updates = orthogonalise(torch.stack([update.reshape(rows, columns) for update in ahead])) * scale
            torch._foreach_mul_(weights, 1 - rate * WEIGHT_DECAY)
            for weight, update in zip(weights, updates, strict=True):
                weight.sub_(rate * update.view(weight.shape))
        return norm

    def _adam_step(self, gradients: list[Tensor], rate: Tensor, first: Tensor, second: Tensor) -> None:
        weights: list[Tensor] = [self.parameters[i] for i in self._adam]
        momenta = [self._momenta[i] for i in self._adam]
        chosen = [gradients[i] for i in self._adam]
        torch._foreach_lerp_(momenta, chosen, 1 - ADAM_BETAS[0])
        torch._foreach_mul_(self._squares, ADAM_BETAS[1])
        torch._foreach_addcmul_(self._squares, chosen, chosen, 1 - ADAM_BETAS[1])
        roots = torch._foreach_sqrt(self._squares)
        torch._foreach_mul_(roots, second)
        torch._foreach_add_(roots, 1e-8)
        updates = list(torch._foreach_div(momenta, roots))
        torch._foreach_mul_(updates, -rate * first)
        torch._foreach_mul_(weights, 1 - rate * WEIGHT_DECAY)
        torch._foreach_add_(weights, updates)

    @torch.no_grad()
    def average_in(self, keep: float) -> None:
        """Move the running average towards the parameters, keeping the share `keep` of it."""
        torch._foreach_lerp_(self.average, list[Tensor](self.parameters), 1 - keep)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, the parameters included."""
        parameters = [p.detach() for p in self.parameters]
        return {
            "parameters": parameters,
            "momenta": self._momenta,
            "squares": self._squares,
            "average": self.average,
            "num_steps": self._num_steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off, in place: a recorded graph keeps its addresses."""
        mine = self.state_dict()
        for name in ("parameters", "momenta", "squares", "average"):
            for tensor, saved in zip(mine[name], state[name], strict=True):
                tensor.copy_(saved)
        self._num_steps = state["num_steps"]
