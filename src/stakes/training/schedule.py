"""The learning rate over time, which nothing else sets, and what follows each check."""

import math
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from stakes.training.checkpoint import State
from stakes.training.monitor import Check
from stakes.training.sharding import placed


class Decision(Enum):
    """What follows a step."""

    GO_ON = "go on"
    ROLLED_BACK = "rolled back"  #: the weights are those of an earlier check
    DONE = "done"


class Schedule(State):
    """The learning rates of an optimiser, step by step, and when the steps end.

    They grow over the warm-up. Once everything is forgotten the run settles: it continues while
    they decay to nothing, so that the rest recovers. If some images are recognised again by the
    end, the weights return to the last check at which everything was forgotten, if there was one
    in the second half; otherwise the run continues as before. If the structure drifts too far at a
    check, or the loss is not finite, the weights return to the last sound check and the learning
    rates are halved.

    Args:
        optimizer: whose learning rates are set.
        size: the step's number, from 1, to the learning rate of all its parameters, before the
            factors of warm-up, settling and halving; by default as the optimiser has it.
        warmup: steps over which they grow to their full value.
        settle: steps of the settling, as a share of those done before it; 0: stop at once.
        settle_least: the fewest steps of the settling.
        max_drift: structural drift, in [0, 2], beyond which a learning rate is too large.
        backoffs: how many times it may be halved.
        buffers: what returns with the weights, such as the statistics of BatchNorm.

    Attributes:
        halved_at: the steps after which the learning rates were halved.
    """

    saved: ClassVar[tuple[str, ...]] = (
        "halved_at",
        "_left",
        "_start",
        "_end",
        "_begun",
        "_saved",
        "_settled",
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        size: Callable[[int], float] | None = None,
        warmup: int = 0,
        settle: float = 0.0,
        settle_least: int = 0,
        max_drift: float = math.inf,
        backoffs: int = 0,
        buffers: Iterable[Tensor] = (),
    ) -> None:
        self._optimizer = optimizer
        self._size, self._sizes = size, [group["lr"] for group in optimizer.param_groups]
        self._warmup, self._settle, self._least = warmup, settle, settle_least
        self._max_drift, self._left = max_drift, backoffs
        self._start: int | None = None
        self._end = 0
        self._begun = 0
        self.halved_at: list[int] = []
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        self._tensors = [*weights, *buffers]
        self._saved = self._copied() if backoffs else []
        self._settled: list[Tensor] = []

    @property
    def settling(self) -> bool:
        """Whether everything was forgotten at a check, and the learning rates decay."""
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
            group["lr"] = factor * (size if self._size is None else self._size(step))

    def ends(self, step: int) -> bool:
        """Whether settling ends with this step."""
        return self._start is not None and step >= self._end

    def after(self, step: int, check: Check) -> Decision:
        """What follows a check of the network after ``step``.

        Done although not everything is forgotten by the check: the weights have just been put
        back to an earlier check, at which it was.
        """
        if self._too_far(check.bounded_drift) and self.back_off(step):
            return Decision.ROLLED_BACK
        return Decision.DONE if self._done(step, check) else Decision.GO_ON

    def _done(self, step: int, check: Check) -> bool:
        """Whether to stop after a check; begins, or breaks off, the settling.

        At the full learning rate the last of many images cross the boundary back and forth.
        Settling brings these, or some more views, so that the first one begins where nearly all
        are forgotten.
        """
        forgotten = check.forgotten
        if self._start is None:
            if (forgotten or (check.nearly and not self._end)) and self._settle:
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

    def _too_far(self, drift: float) -> bool:
        """Whether the structure has drifted too far; where it is well within, save the weights."""
        if self._left and drift <= self._max_drift / 2:
            for saved, tensor in zip(self._saved, self._tensors, strict=True):
                saved.copy_(tensor.detach())
        return not drift <= self._max_drift

    def back_off(self, step: int) -> bool:
        """Go back to the saved weights and halve the learning rates; False if none are left."""
        if not self._left:
            return False
        self._left -= 1
        self.halved_at.append(step)
        self._start, self._begun = None, step
        self._settled = []
        self._put_back(self._saved)
        self._optimizer.state.clear()
        return True

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Set the state; saved weights go where the weights are, and are divided as they are."""
        copies = {
            name: [placed(*both) for both in zip(state[name], self._tensors, strict=True)]
            for name in ("_saved", "_settled")
            if state[name]
        }
        super().load_state_dict(state | copies)

    def _copied(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def _put_back(self, copies: list[Tensor]) -> None:
        for saved, tensor in zip(copies, self._tensors, strict=True):
            tensor.copy_(saved)


class OneCycle(Schedule):
    """PyTorch's one-cycle policy, momentum included: up to ``peak``, then down to nothing.

    Args:
        optimizer: whose learning rates are set.
        peak: the largest learning rate.
        total: steps in all.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, peak: float, total: int) -> None:
        super().__init__(optimizer)
        self._policy = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=total)

    def set(self, step: int) -> None:
        """Set the learning rates, and the momentum, of this step, counted from 1."""
        while self._policy.last_epoch < step - 1:
            self._policy.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of the policy."""
        return self._policy.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Bring the policy to a state."""
        self._policy.load_state_dict(state)
