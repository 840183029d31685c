"""Muon for the matrices (experts one by one), AdamW for everything else, and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ADAM_MATRICES = ("embed_tokens", "lm_head", "mhc_module", "mlp.gate.weight", "weights_proj", "param_sink")


def _expert_parts(name: str, value: Tensor) -> list[Tensor]:
    """A stacked expert tensor cut into the 2-D matrices that Muon orthogonalises one at a time."""
    if name.endswith("experts.gate_up_proj"):
        half = value.shape[1] // 2
        return [part for expert in value for part in (expert[:half], expert[half:])]
    return list(value)


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a constant phase, then linear decay to zero over the last `decay` of `steps` steps."""

    steps: int
    warmup: int
    decay: int

    def factor(self, step: int) -> float:
        """The learning-rate factor of step 0, 1, ..."""
        return min(1.0, (step + 1) / self.warmup, max(0.0, (self.steps - step) / self.decay))

    def decayed(self, step: int) -> float:
        """How much of the decay phase is over: 0 .. 1."""
        return min(1.0, max(0.0, 1 - (self.steps - step) / self.decay))


class Optimiser:
    """Steps float32 parameters in place; stacked experts are optimised through 2-D views of the same memory."""

    def __init__(self, params: dict[str, Tensor], muon_lr: float, adam_lr: float, weight_decay: float) -> None:
        self.params = {n: p for n, p in params.items() if p.requires_grad}
        self.views: list[tuple[str, list[nn.Parameter]]] = []
        matrices: list[nn.Parameter | Tensor] = []
        self.rest: list[Tensor] = []
        for name, p in self.params.items():
            if ".experts." in name and p.ndim == 3:
                parts = [nn.Parameter(part) for part in _expert_parts(name, p.data)]
                self.views.append((name, parts))
                matrices += parts
            elif p.ndim == 2 and not any(word in name for word in ADAM_MATRICES):
                matrices.append(p)
            else:
                self.rest.append(p)
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, momentum=0.95)
        self.adam = torch.optim.AdamW(self.rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, foreach=True)
        self.rates = (muon_lr, adam_lr)

    def step(self, factor: float) -> None:
        """One update with both learning rates times `factor`; clears the gradients."""
        for name, parts in self.views:
            grad = self.params[name].grad
            assert grad is not None, name
            for part, piece in zip(parts, _expert_parts(name, grad), strict=True):
                part.grad = piece
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0, foreach=True)
        for optimiser, rate in ((self.muon, self.rates[0]), (self.adam, self.rates[1])):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()  # type: ignore[no-untyped-call]
        for p in self.params.values():
            p.grad = None

    def state(self) -> list[dict[str, object]]:
        """A resumable state."""
        return [self.muon.state_dict(), self.adam.state_dict()]

    def load(self, state: list[dict[str, object]]) -> None:
        """Restores what state() returned."""
        self.muon.load_state_dict(state[0])
        self.adam.load_state_dict(state[1])
