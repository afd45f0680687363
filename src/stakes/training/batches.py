"""Batches of indices, epoch after epoch, whose place a checkpoint keeps."""

from typing import Self

import torch
from torch import Tensor

from stakes.training.checkpoint import State


class Batches(State):
    """Batches of indices below ``size``, epoch after epoch, without end; the last is the rest.

    Each epoch is shuffled; without a generator all of them are in ascending order.

    >>> batches = Batches(5, 2, torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([next(batches) for _ in range(3)]).tolist())
    [0, 1, 2, 3, 4]
    >>> in_order = Batches(3, 2)
    >>> [next(in_order).tolist() for _ in range(3)]
    [[0, 1], [2], [0, 1]]
    """

    saved = ("_left",)

    def __init__(
        self, size: int, batch_size: int, generator: torch.Generator | None = None
    ) -> None:
        self._size, self._batch_size, self._generator = size, batch_size, generator
        self._left = torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self._size // self._batch_size)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        if not len(self._left):
            if self._generator is None:
                self._left = torch.arange(self._size)
            else:
                self._left = torch.randperm(self._size, generator=self._generator)
        batch, self._left = self._left[: self._batch_size], self._left[self._batch_size :]
        return batch
