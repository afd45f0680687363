"""Copies of networks, also of those that keep what they computed last."""

import copy
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from stakes.errors import InputError, first_line

T = TypeVar("T")


def copied(thing: T, name: str) -> T:
    """A deep copy of a network, or of what holds one.

    A tensor that it computed and keeps, such as its last features, is copied without the graph that
    it came from, which :func:`copy.deepcopy` alone refuses.

    Args:
        thing: to copy.
        name: what an error calls it.

    Raises:
        InputError: it holds something that cannot be copied, such as a lock.

    >>> layer = torch.nn.Linear(2, 2)
    >>> layer.last = layer(torch.ones(1, 2))
    >>> copied(layer, "layer").last.requires_grad
    False
    """
    try:
        with _WithoutGraph():
            return copy.deepcopy(thing)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise InputError(
            f"{name} cannot be copied ({first_line(error)}); keep such objects out of the module"
        ) from error


class _WithoutGraph(TorchFunctionMode):
    """Within the block, tensors that were computed can be copied."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]
