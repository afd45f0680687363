"""How much each weight matters: per-sample gradient magnitudes (equation 4 and MAS)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def mean_gradient_magnitude(
    parameters: Mapping[str, Tensor],
    loss: Callable[[Tensor], Tensor],
    samples: Tensor,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Mean over samples of |d loss(x) / d psi_i|, one backward pass per sample (equation 4).

    Gradients of a batch would cancel before the magnitude is taken; on a CPU this plain loop is
    also faster than a vectorised map over samples.

    Args:
        parameters: named tensors that ``loss`` depends on.
        loss: maps one sample (1, 3, h, w) to a scalar.
        samples: (n, 3, h, w), n >= 1.
        progress: called with (samples done, samples in all).
    """
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for index in range(len(samples)):
        gradients = torch.autograd.grad(
            loss(samples[index : index + 1]), list(parameters.values()), allow_unused=True
        )
        for accumulated, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                accumulated += gradient.abs()
        if progress is not None:
            progress(index + 1, len(samples))
    return {name: value / len(samples) for name, value in total.items()}


def min_max(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scale each tensor to [0, 1]; a constant tensor becomes zeros, not NaN.

    >>> min_max({"w": torch.tensor([1.0, 3.0]), "b": torch.ones(2)})
    {'w': tensor([0., 1.]), 'b': tensor([0., 0.])}
    """
    scaled = {}
    for name, value in importance.items():
        low, high = value.min(), value.max()
        scaled[name] = (value - low) / (high - low) if high > low else torch.zeros_like(value)
    return scaled
