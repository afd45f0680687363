"""Steps of gradient descent: every loop with an optimiser makes its steps here."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stakes.training import distributed
from stakes.training.schedule import Schedule

Terms = Callable[[int], Mapping[str, Tensor]]
BeforeStep = Callable[[int], None]


@dataclass(frozen=True)
class Step:
    """A step of descent.

    Attributes:
        number: of the step.
        loss: the sum of the terms, before the step.
        terms: their values by name.
    """

    number: int
    loss: float
    terms: Mapping[str, float]

    @property
    def finite(self) -> bool:
        """Whether the loss is finite; otherwise the weights did not move."""
        return math.isfinite(self.loss)

    def row(self) -> dict[str, float]:
        """Its part of a history row."""
        terms = {f"term_{name}": value for name, value in self.terms.items()}
        return {"step": float(self.number), "loss": self.loss} | terms


def nothing(step: int) -> None:
    """Do nothing before a step."""


def take_steps(
    terms: Terms,
    optimizer: torch.optim.Optimizer,
    numbers: Iterable[int],
    *,
    schedule: Schedule | None = None,
    before_step: BeforeStep = nothing,
) -> Iterator[Step]:
    """Minimise the plain sum of named terms, one step for each item that is taken.

    A step whose loss is not finite is not taken, since it would spoil every weight. The terms
    are therefore read before the backward pass, all of them in one transfer; on an accelerator
    the rest of the step then runs while the next one is prepared.

    Args:
        terms: the step's number to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        numbers: of the steps, counted from 1 over the whole run.
        schedule: sets the learning rate of each step; by default it stays as the optimiser has it.
        before_step: called with the step's number once the gradients are there and before the
            optimiser uses them, to change them or the optimiser's state.

    >>> x = torch.tensor(4.0, requires_grad=True)
    >>> optimizer = torch.optim.SGD([x], lr=0.25)
    >>> for step in take_steps(lambda number: {"square": x.square()}, optimizer, range(1, 3)):
    ...     print(step.number, step.loss, x.item())
    1 16.0 2.0
    2 4.0 1.0
    """
    schedule = schedule or Schedule(optimizer)
    for number in numbers:
        with distributed.stepping():
            parts = terms(number)
        loss = torch.stack(list(parts.values())).sum()
        values = torch.stack([value.detach() for value in (loss, *parts.values())]).tolist()
        step = Step(number, values[0], dict(zip(parts, values[1:], strict=True)))
        if step.finite:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            distributed.mean_over_all(p.grad for g in optimizer.param_groups for p in g["params"])
            schedule.set(number)
            before_step(number)
            optimizer.step()
        yield step


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Compute no gradients of these parameters within the block."""
    live = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in live:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in live:
            parameter.requires_grad_(True)
