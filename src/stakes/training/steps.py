"""Steps of gradient descent: every loop with an optimiser makes its steps here."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stakes.data.transfer import Fetched
from stakes.errors import InputError
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
        recognised: share of the forget images that were recognised when a step last passed them;
            None where the objective does not count them.
    """

    number: int
    loss: float
    terms: Mapping[str, float]
    recognised: float | None = None

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
    recognised: Callable[[], Tensor] | None = None,
) -> Iterator[Step]:
    """Minimise the plain sum of named terms, one step for each item that is taken.

    A step whose loss is not finite is not taken, since it would spoil every weight: its gradients
    are not used. All values of a step are read in one transfer that is queued before its backward
    pass and awaited after it is queued, so that an accelerator always has something to do.

    Args:
        terms: the step's number to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        numbers: of the steps, counted from 1 over the whole run.
        schedule: sets the learning rate of each step; by default it stays as the optimiser has it.
        before_step: called with the step's number once the gradients are there and before the
            optimiser uses them, to change them or the optimiser's state.
        recognised: a scalar on the terms' device, for the step's attribute of this name.

    Raises:
        InputError: the terms are no dict of scalar tensors, or depend on no parameter; or the
            optimiser takes several passes for a step.

    >>> x = torch.tensor(4.0, requires_grad=True)
    >>> optimizer = torch.optim.SGD([x], lr=0.25)
    >>> for step in take_steps(lambda number: {"square": x.square()}, optimizer, range(1, 3)):
    ...     print(step.number, step.loss, x.item())
    1 16.0 2.0
    2 4.0 1.0
    """
    schedule = schedule or Schedule(optimizer)
    _check_one_pass(optimizer)
    for number in numbers:
        with distributed.stepping():
            parts = terms(number)
        _check_terms(parts, number)
        loss = torch.stack(list(parts.values())).sum()
        counted = [recognised()] if recognised else []
        values = Fetched(torch.stack([v.detach() for v in (loss, *parts.values(), *counted)]))
        if not loss.requires_grad:
            raise InputError(
                f"step {number}: the loss depends on no weight that is trained; compute it "
                "from the output of task.live"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.mean_over_all(p.grad for g in optimizer.param_groups for p in g["params"])
        step = _step(number, list(parts), values.tolist())
        if step.finite:
            schedule.set(number)
            before_step(number)
            optimizer.step()
        yield step


def _check_one_pass(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that asks for the loss itself, with an InputError."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"{type(optimizer).__name__} passes the images several times in a step; use an "
            "optimiser that needs no closure, such as torch.optim.SGD"
        )


def _check_terms(terms: object, number: int) -> None:
    """Refuse, with an InputError, what is no dict of names and scalar tensors."""
    wanted = 'return a dict of names and scalar tensors, such as {"forget": loss}'
    if not isinstance(terms, Mapping):
        raise InputError(f"step {number}: the loss is a {type(terms).__name__}; {wanted}")
    if not terms:
        raise InputError(f"step {number}: the loss has no terms; {wanted}")
    for name, value in terms.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"step {number}: the loss term {name} is a {type(value).__name__}; {wanted}"
            )
        if value.ndim:
            raise InputError(
                f"step {number}: the loss term {name} has the shape {tuple(value.shape)}; {wanted}"
            )


def _step(number: int, names: list[str], values: list[float]) -> Step:
    """The step of these values: its loss, its terms, and what was counted."""
    loss, *rest = values
    terms = dict(zip(names, rest, strict=False))
    return Step(number, loss, terms, rest[len(names)] if len(rest) > len(names) else None)


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
