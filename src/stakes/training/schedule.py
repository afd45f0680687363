"""The learning rate over time: warm-up, decay at the end, and halving after a step too far."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from stakes.training.checkpoint import State


class Schedule(State):
    """The learning rates of an optimiser, step by step.

    They grow over the warm-up. Once all is forgotten the run settles: it continues while they
    decay to nothing, so that the rest recovers. If some images are recognised again by the end,
    the weights return to the last check at which all was forgotten, if there was one in the
    second half; otherwise the run continues as before. If the structure drifts too far at a check,
    or the loss is not finite, the weights return to the last sound check and the learning rates
    are halved.

    Args:
        optimizer: whose learning rates are set.
        warmup: steps over which they grow to their full value.
        settle: how many steps settling takes, as a share of those done; 0 stops at once.
        settle_least: the fewest steps that settling takes.
        max_drift: structural drift, in [0, 2], beyond which a learning rate is too large.
        backoffs: how many times it may be halved.
        buffers: what goes back with the weights, such as the statistics of BatchNorm.

    Attributes:
        halved_at: the steps after which the learning rates were halved.
    """

    saved: ClassVar[tuple[str, ...]] = (
        "halved_at",
        "_left",
        "_start",
        "_end",
        "_begun",
        "_kept",
        "_settled",
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        warmup: int = 0,
        settle: float = 0.0,
        settle_least: int = 0,
        max_drift: float = math.inf,
        backoffs: int = 0,
        buffers: Iterable[Tensor] = (),
    ) -> None:
        self._optimizer = optimizer
        self._sizes = [group["lr"] for group in optimizer.param_groups]
        self._warmup, self._settle, self._least = warmup, settle, settle_least
        self._max_drift, self._left = max_drift, backoffs
        self._start: int | None = None
        self._end = 0
        self._begun = 0
        self.halved_at: list[int] = []
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        self._tensors = [*weights, *buffers]
        self._kept = self._copied() if backoffs else []
        self._settled: list[Tensor] = []

    @property
    def settling(self) -> bool:
        """Whether all was forgotten at the last look, and the learning rates decay."""
        return self._start is not None

    def total(self, budget: int) -> int:
        """The last step as far as it is known now: the end of the settling, else the budget."""
        return min(self._end, budget) if self.settling else budget

    def set(self, step: int) -> None:
        """Set the learning rates of this step, counted from 1."""
        factor = 0.5 ** len(self.halved_at)
        if self._warmup:
            factor *= min(1.0, (step - self._begun) / self._warmup)
        if self._start is not None:
            factor *= max(0.0, (self._end - step + 1) / (self._end - self._start + 1))
        for group, size in zip(self._optimizer.param_groups, self._sizes, strict=True):
            group["lr"] = size * factor

    def ends(self, step: int) -> bool:
        """Whether settling ends with this step."""
        return self._start is not None and step >= self._end

    def done(self, step: int, forgotten: bool) -> bool:
        """Whether to stop after this look; begins, or breaks off, the settling.

        Where it stops although not all is ``forgotten``, the weights have just been put back to
        an earlier look, at which it was.
        """
        if self._start is None:
            if forgotten and self._settle:
                length = max(self._least, math.ceil(self._settle * step))
                self._start, self._end = step, step + length
            return forgotten and not self._settle
        if forgotten and 2 * step >= self._start + self._end:
            self._settled = self._copied()
        if not self.ends(step):
            return False
        self._start = None
        if not forgotten and self._settled:
            self._put_back(self._settled)
        return forgotten or bool(self._settled)

    def too_far(self, drift: float) -> bool:
        """Whether the structure has drifted too far; where it is well within, weights are kept."""
        if self._left and drift <= self._max_drift / 2:
            for kept, tensor in zip(self._kept, self._tensors, strict=True):
                kept.copy_(tensor.detach())
        return not drift <= self._max_drift

    def back_off(self, step: int) -> bool:
        """Go back to the weights last kept and halve the learning rates; False where it may not."""
        if not self._left:
            return False
        self._left -= 1
        self.halved_at.append(step)
        self._start, self._begun = None, step
        self._settled = []
        self._put_back(self._kept)
        self._optimizer.state.clear()
        return True

    def _copied(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def _put_back(self, copies: list[Tensor]) -> None:
        for kept, tensor in zip(copies, self._tensors, strict=True):
            tensor.copy_(kept)
