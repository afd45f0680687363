"""Passes in parts, where the memory of a step is short: the same computation, more slowly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stakes.models.classifier import Classifier
from stakes.training import distributed


@contextmanager
def passing_at_most(rows: int | None) -> Iterator[None]:
    """Within the block, pass at most so many images through a network at once.

    What a layer needs for its gradient is not kept: each part passes once more when its gradient
    is computed (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016), so that only
    one part's activations are held at any time. Losses see the features of all images, as ever.
    A step is the same up to rounding, whose differences grow over the steps; it takes about a third
    longer.

    Args:
        rows: images at once; None passes all of them.
    """
    before = Classifier.across
    if rows is not None:

        def across(
            network: nn.Module, features: Callable[[Tensor], Tensor], images: Tensor
        ) -> Tensor:
            if _needs_all(network):
                return features(images)

            def parts(some: Tensor) -> Tensor:
                return torch.cat([_part(features, part) for part in some.split(rows)])

            return parts(images) if before is None else before(network, parts, images)

        Classifier.across = staticmethod(across)
    try:
        yield
    finally:
        Classifier.across = before


def _part(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return features(images)
    passed: Tensor = checkpoint(features, images, use_reentrant=False)
    return passed


def _needs_all(network: nn.Module) -> bool:
    """Whether something in the pass, or what looks into it, is of the whole batch."""
    trained = (part for part in network.modules() if isinstance(part, _BatchNorm) and part.training)
    return distributed.is_alone() or any(True for _ in trained)
