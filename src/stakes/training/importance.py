"""How much each weight matters: per-sample gradients (equation 4, MAS, the Fisher information)."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mean_gradient_magnitude(
    parameters: Mapping[str, Tensor],
    loss: Callable[[Tensor], Tensor],
    samples: Tensor,
    progress: Callable[[int, int], None] | None = None,
    *,
    batch_size: int = 1,
) -> dict[str, Tensor]:
    """Mean over samples of |d loss(x) / d psi_i|, one backward pass per sample (equation 4).

    Gradients of a batch would cancel before the magnitude is taken; on a CPU this plain loop is
    also faster than a vectorised map over samples. Public code takes batches all the same: with
    a ``batch_size`` each batch's magnitude counts as often as it has samples.

    Args:
        parameters: named tensors that ``loss`` depends on.
        loss: maps ``batch_size`` samples (b, 3, h, w), fewer at the end, to a scalar.
        samples: (n, 3, h, w), n >= 1.
        progress: called with (samples done, samples in all).
        batch_size: samples that are differentiated together.
    """
    batches = samples.split(batch_size)
    sizes = [len(batch) for batch in batches]
    return _mean(parameters, lambda i: loss(batches[i]), torch.abs, sizes, progress)


def squared_gradients(
    parameters: Mapping[str, Tensor],
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """Mean over batches of (d CE(batch) / d psi_i)^2, with the true labels.

    Of batches of one image each it is the diagonal of the empirical Fisher information. Public
    code takes larger ones for it: something else, smaller by about their size where the gradients
    of different images are independent, and not where they agree.

    Args:
        parameters: named tensors of ``network``.
        network: images to logits, in eval mode.
        batches: pairs of images (n, 3, h, w) and labels (n,), at least one.
    """
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for images, labels in batches:
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for accumulated, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                accumulated += gradient.square()
        count += 1
    return {name: value / count for name, value in total.items()}


def _mean(
    parameters: Mapping[str, Tensor],
    loss: Callable[[int], Tensor],
    of: Callable[[Tensor], Tensor],
    sizes: Sequence[int],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Tensor]:
    """Mean over samples of ``of`` the gradient, one backward pass per batch of these sizes."""
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count, done = sum(sizes), 0
    if progress is not None:
        progress(0, count)
    for index, size in enumerate(sizes):
        gradients = torch.autograd.grad(loss(index), list(parameters.values()), allow_unused=True)
        for accumulated, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                accumulated += size * of(gradient)
        done += size
        if progress is not None:
            progress(done, count)
    return {name: value / count for name, value in total.items()}


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
