"""Weights divided among processes: for networks whose training does not fit one device.

Each block of a network's body is put together from all processes right before it passes images,
and taken apart right after. Its gradient is averaged and divided in the same way, and so is the
state of the optimiser (``torch.distributed.fsdp.fully_shard``; Zhao et al., "PyTorch FSDP:
Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023). The head stays whole everywhere:
losses read it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.training import distributed

LEAST = 0.01  # of a body's weights: smaller parts are put together with what surrounds them


_state = {"wanted": False}


@contextmanager
def sharded(wanted: bool = True) -> Iterator[None]:
    """Within the block, methods divide the weights that they change and compare with."""
    before, _state["wanted"] = _state["wanted"], wanted
    try:
        with warnings.catch_warnings():  # nothing changes features in place, of which it warns
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            yield
    finally:
        _state["wanted"] = before


def is_wanted() -> bool:
    """Whether methods are to divide weights now."""
    return _state["wanted"]


def shard(classifier: Classifier) -> None:
    """Divide the weights of a classifier's body among the processes, in place.

    A block is an element of an ``nn.Sequential`` or ``nn.ModuleList``; whatever is in none is put
    together for the whole pass.
    """
    from torch.distributed.device_mesh import init_device_mesh  # only here: slow to import
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(classifier.device.type, (distributed.count(),))
    body = classifier.body.to(memory_format=torch.contiguous_format)  # other layouts are refused
    for block in reversed(blocks(body)):  # inner ones first
        fully_shard(block, mesh=mesh)
    fully_shard(body, mesh=mesh, reshard_after_forward=True)


def blocks(body: nn.Module) -> list[nn.Module]:
    """The parts of a network that are put together one at a time, outer ones first.

    >>> body = nn.Sequential(nn.Sequential(nn.Linear(9, 9), nn.ReLU()), nn.Linear(9, 9))
    >>> [type(block).__name__ for block in blocks(body)]
    ['Linear', 'Linear']
    """
    holders = (nn.Sequential, nn.ModuleList)
    least = LEAST * _count(body)
    return [
        element
        for holder in body.modules()
        if isinstance(holder, holders)
        for element in holder
        if not isinstance(element, holders) and _count(element) >= max(1, least)
    ]


@torch.no_grad()
def whole(divided: Classifier, like: Classifier) -> Classifier:
    """A copy of ``like`` with the weights and buffers of ``divided``; in every process."""
    made = like.copy()
    own = dict(made.named_parameters()) | dict(made.named_buffers())
    for name, value in [*divided.named_parameters(), *divided.named_buffers()]:
        given: Any = value
        own[name].copy_(given.full_tensor() if is_divided(given) else given)
    return made


def gathered(state: Any) -> Any:
    """A state whose divided tensors are whole, on the CPU of the writer; others get none of them.

    Every process calls it with its own state, since all of them put each tensor together.
    """
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [gathered(value) for value in state]
    if not is_divided(state):
        return state
    full = state.full_tensor()
    return full.cpu() if distributed.is_writer() else full.new_empty(0)


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A tensor on the device of another one, and divided as that is.

    >>> placed(torch.ones(2), torch.zeros(2, dtype=torch.float64))
    tensor([1., 1.])
    """
    if is_divided(value) or not is_divided(like):
        return value.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor  # only here: slow to import

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def is_divided(value: object) -> bool:
    """Whether it is a tensor of which this process holds a part."""
    return hasattr(value, "full_tensor")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
