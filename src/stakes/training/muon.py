"""Muon: an optimiser whose step in a matrix of weights is as long in every direction."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from stakes.training.sharding import is_divided, placed

BETAS = 0.9, 0.999  # of Adam; the first is Muon's momentum too
RMS = 0.2  # of a step's entries in units of the learning rate, as Adam's have in practice
ROUNDS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
EPS = 1e-8


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices and kernels of convolutions, Adam for all else.

    A gradient of a matrix has few large singular values: gradient descent, and Adam hardly less,
    move the weights along these alone. Muon (Jordan et al. 2024, "Muon: an optimizer for hidden
    layers in neural networks") takes the momentum's nearest orthogonal matrix instead, so that the
    other directions move as far. The root mean square of a step's entries is ``rms`` times the
    learning rate; 0.2 is the size of Adam's (Liu et al. 2025, arXiv 2502.16982). A kernel
    (out, in, h, w) counts as a matrix (out, in h w).

    PyTorch's own ``torch.optim.Muon`` takes matrices alone.

    Args:
        parameters: to be trained; vectors among them are moved by Adam.
        head: of these, what Adam moves whatever its shape, by custom; it may hold others too.
        lr: the learning rate, that of Adam.
        rms: size of a step in a matrix or kernel, in units of the learning rate.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> weight.grad = torch.tensor([[100.0, 0.0], [0.0, 1.0]])
    >>> Muon([weight], [], lr=1.0).step()
    >>> bool((weight.diagonal() < -0.15).all())  # gradient descent would move one of them alone
    True
    """

    def __init__(
        self, parameters: Iterable[Tensor], head: Iterable[Tensor], *, lr: float, rms: float = RMS
    ) -> None:
        given, of_head = list(parameters), set(head)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in given if p not in of_head], "rms": rms},
            {"params": [p for p in given if p in of_head], "rms": None},
        ]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step by the gradients; a parameter without one stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.ndim > 1 and group["rms"] is not None:
                    size = group["lr"] * group["rms"]
                    weight.add_(self._orthogonal(weight, weight.grad), alpha=-size)
                else:
                    weight.add_(self._adam(weight, weight.grad), alpha=-group["lr"])
        return loss

    def _orthogonal(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The direction of a matrix or kernel, by Nesterov's momentum; its mean square is 1."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - BETAS[0])
        ahead = gradient.lerp(state["momentum"], BETAS[0])
        whole = ahead.full_tensor() if is_divided(ahead) else ahead  # type: ignore[attr-defined]
        matrix = orthogonalised(whole.flatten(1))
        return placed(matrix.view(whole.shape) * math.sqrt(max(matrix.shape)), weight)

    def _adam(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """The direction of a vector, by Adam (Kingma and Ba 2015)."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        done = float(state["step"])
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        root = (state["square"] / (1 - BETAS[1] ** done)).sqrt_() + EPS
        direction: Tensor = state["mean"] / (1 - BETAS[0] ** done) / root
        return direction


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal matrix nearest to one (m, n).

    By five rounds of a Newton-Schulz iteration, whose coefficients raise small singular values
    fast (Jordan et al. 2024): all but the smallest end between 0.7 and 1.2.

    >>> made = orthogonalised(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
    >>> torch.linalg.svdvals(made).round(decimals=1)
    tensor([1.1000, 0.7000])
    """
    first, second, third = QUINTIC
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(EPS)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = first * x + (second * gram + third * gram @ gram) @ x
    made: Tensor = x.T if tall else x
    return made
