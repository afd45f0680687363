"""Which layers of a network are trained: those nearest the head."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from stakes.errors import InputError
from stakes.training.steps import frozen

DEPTH = 1 / 3  # share of the layers, by default
FEWEST_LAYERS = 6  # a shallow network needs all it has


@contextmanager
def shallow(network: nn.Module, depth: float) -> Iterator[None]:
    """Let only the layers nearest the head change within the block.

    A layer is a module with a weight of two dimensions or more that is not frozen; layers count in
    the order in which the network registers them, and what lies between two of them goes with the
    first.

    Args:
        network: whose layers.
        depth: their share of all layers, in (0, 1]; six layers may change at the least.

    Raises:
        InputError: every layer is frozen.
    """
    own = [
        [p for p in module.parameters(recurse=False) if p.requires_grad]
        for module in network.modules()
    ]
    layers = [i for i, found in enumerate(own) if any(p.ndim > 1 for p in found)]
    if not layers:
        raise InputError(
            "every layer of the network is frozen: nothing can be unlearned; "
            "unfreeze some (requires_grad)"
        )
    saved = max(FEWEST_LAYERS, math.ceil(depth * len(layers)))
    first = layers[-min(len(layers), saved)]
    with frozen([p for found in own[:first] for p in found]):
        yield
