"""One run on several processes, each with a device of its own (``torchrun -m stakes unlearn``).

Every process makes the same draws from the same seed and holds the same weights. What costs, the
passes through the network's body, is divided: a process passes its own rows, the features (n, d) of
all come together, and every process computes every loss from all of them, exactly as one process
would. No loss therefore needs to know of it, whether it is a mean over images or not. Dropout in
the body alone differs: each process draws it for its own rows.

Let W processes compute the same loss L. Seen from process r, only its own rows depend on the body's
weights; the gradient of these rows is multiplied by W, so that the mean of the gradients over the
processes, which the step takes as ``DistributedDataParallel`` does, is dL/dw for the weights of the
body as it is for all others. The weights themselves are divided by :mod:`stakes.training.sharding`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.models.classifier import Classifier
from stakes.training.devices import seeded

WAIT = timedelta(minutes=30)  # for another process, which may be writing the report
_state = {"stepping": False, "alone": False}


def asked_for() -> int:
    """How many processes ``torchrun`` started; 1 without it.

    >>> asked_for()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The place of this process among those on this machine, and of its device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined() -> Iterator[None]:
    """Within the block, work with the processes that ``torchrun`` started; alone without it."""
    if asked_for() == 1 or dist.is_initialized():
        yield
        return
    both = torch.cuda.is_available() and dist.is_nccl_available()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=WAIT)
    Classifier.across = staticmethod(_across)
    try:
        yield
    finally:
        Classifier.across = None
        dist.destroy_process_group()


def count() -> int:
    """How many processes work together now."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_writer() -> bool:
    """Whether this process writes and prints; the others only compute."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def stepping() -> Iterator[None]:
    """Within the block, passes are divided: their gradients are going to be averaged."""
    yield from _set("stepping")


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, every process passes all rows: what looks into the body needs them."""
    yield from _set("alone")


def is_alone() -> bool:
    """Whether passes are to be of all rows now."""
    return _state["alone"]


def _set(name: str) -> Iterator[None]:
    before, _state[name] = _state[name], True
    try:
        yield
    finally:
        _state[name] = before


def shard(n: int) -> slice:
    """The rows of this process among n.

    >>> shard(10)
    slice(0, 10, None)
    """
    bounds = _bounds(n)
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice(bounds[rank], bounds[rank + 1])


def mean_over_all(gradients: Iterable[Tensor | None]) -> None:
    """Make each tensor the mean over the processes, in place; all of them in one transfer.

    The gradients of divided weights are so already (see :mod:`stakes.training.sharding`).
    """
    if count() == 1:
        return
    found = [g for g in gradients if g is not None and not hasattr(g, "full_tensor")]
    flat = torch.cat([gradient.reshape(-1) for gradient in found])
    with _peers_checked():
        dist.all_reduce(flat)
    flat /= count()
    for gradient, part in zip(found, flat.split([g.numel() for g in found]), strict=True):
        gradient.copy_(part.view_as(gradient))


def from_writer(content: bytes) -> bytes:
    """What the writer gives, in every process."""
    if count() == 1:
        return content
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    size = torch.tensor([len(content)], device=device)
    with _peers_checked():
        dist.broadcast(size, 0)
        if not int(size):
            return b""
        data = torch.empty(int(size), dtype=torch.uint8, device=device)
        if is_writer():
            data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if count() > 1:
        with _peers_checked():
            dist.barrier()


def _bounds(n: int) -> list[int]:
    """Where the rows of each process begin, and the end: as even as can be."""
    return [i * n // count() for i in range(count() + 1)]


def _across(network: nn.Module, features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The features of images, each process passing its own rows where that can be."""
    if len(images) < count() or _state["alone"] or not _divisible(network):
        return features(images)
    with _own_draws(network, images.device):
        own = features(_Own.apply(images))
    joined_rows: Tensor = _Gather.apply(own, len(images))
    return joined_rows


@contextmanager
def _own_draws(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block, dropout differs from that of other processes, whose rows are others.

    Before and after, PyTorch's own generators are at the same place in every process, so that a
    pass of all rows is the same in all of them, and one process's checkpoint serves for all.
    """
    if not any(part.training for part in network.modules()):
        yield
        return
    with seeded(device, int(torch.randint(2**62, (), device="cpu")) + dist.get_rank()):
        yield


def _divisible(network: nn.Module) -> bool:
    """Whether rows pass apart from each other, and their gradients are averaged if there are any.

    Gradients by the images are always right; those by weights only within a step.
    """
    if any(isinstance(part, _BatchNorm) and part.training for part in network.modules()):
        return False
    if not torch.is_grad_enabled() or _state["stepping"]:
        return True
    return not any(parameter.requires_grad for parameter in network.parameters())


class _Own(torch.autograd.Function):
    """The own rows of images; by all of them, the gradient is that of every process's rows."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return images[shard(len(images))]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.new_zeros(ctx.shape)
        whole[shard(len(whole))] = gradient
        mean_over_all([whole])
        return whole


class _Gather(torch.autograd.Function):
    """Rows of all processes, in order; the gradient of the own ones, times the processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, n: int) -> Tensor:
        ctx.n = n
        sizes = [end - start for start, end in zip(_bounds(n), _bounds(n)[1:], strict=False)]
        padded = own.new_zeros(
            (max(sizes), *own.shape[1:]), dtype=torch.promote_types(own.dtype, torch.float32)
        )
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        with _peers_checked():
            dist.all_gather(parts, padded)
        rows = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return rows.to(own.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[shard(ctx.n)] * count(), None


@contextmanager
def _peers_checked() -> Iterator[None]:
    """Turn the error of a collective operation into one line.

    Raises:
        ConnectionError: another process of the run has ended.
    """
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise ConnectionError("another process of this run has ended") from error


__all__ = [
    "alone", "asked_for", "count", "from_writer", "is_alone", "is_writer", "joined",
    "local_rank", "mean_over_all", "shard", "stepping", "wait_for_all",
]  # fmt: skip
