"""The only gradient loop and the only stop rule; every method hands it its named loss terms."""

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.rows import Outcome
from stakes.training.checkpoint import Checkpoint, State
from stakes.training.monitor import Monitor
from stakes.training.schedule import Schedule


class StopReason(str):
    """Why a run ended, in a sentence, and the outcome that this is."""

    __slots__ = ("outcome",)
    outcome: Outcome

    def __new__(cls, outcome: Outcome, sentence: str) -> Self:
        """The sentence begins with what kind of ending it is."""
        reason = super().__new__(cls, sentence)
        reason.outcome = outcome
        return reason


FORGOTTEN = StopReason(Outcome.FORGOTTEN, "forgotten: every forget image is misclassified")
History = list[dict[str, float]]


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


def minimise(
    live: Classifier,
    terms: Callable[[int], Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    monitor: Monitor,
    *,
    max_steps: int,
    check_every: int = 1,
    check_now: Callable[[], bool] = lambda: False,
    run_to_budget: bool = False,
    schedule: Schedule | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> tuple[History, StopReason]:
    """Minimise the plain sum of named loss terms until everything is forgotten.

    Args:
        live: the classifier being changed, in the mode (train or eval) it is to be trained in.
        terms: the step's number (from 1) to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        monitor: looks at the deployed path; it alone decides when to stop.
        max_steps: the step budget.
        check_every: steps between two looks.
        check_now: whether a look is worth its time between two of these, since all may be
            forgotten.
        run_to_budget: whether to do all steps, forgotten or not.
        schedule: the learning rate over time, and what to do where it was too large; by default it
            stays as the optimiser has it.
        checkpoint: keeps whatever else ``terms`` changes; the loop adds its own, and goes on
            after the step that it was interrupted at, to the same bits.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        A history row per step (``step``, ``loss``, ``term_<name>`` and, at each look,
        ``forget_accuracy`` in percent, ``drift`` and, where views are watched,
        ``views_accuracy``), and the reason for stopping. The terms of row t are those minimised
        in step t; accuracy and drift are those after it. A step without a finite loss has no row.
    """
    schedule, checkpoint = schedule or Schedule(optimizer), checkpoint or Checkpoint()
    trained = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    checkpoint.keep(live, trained, optimizer, schedule)
    done, history, said = checkpoint.restore(max_steps)
    if said:
        progress("interrupted run", done, max_steps, said)
    check = monitor.check(live)
    history = history or [{"step": 0.0} | check.row()]
    for step in range(done + 1, max_steps + 1):
        checkpoint.save(step - 1, history)
        parts = terms(step)
        loss = torch.stack(list(parts.values())).sum()
        if not bool(loss.isfinite()):
            if schedule.back_off(step):
                continue
            told = f"diverged: the loss is not finite at step {step}"
            return history, StopReason(Outcome.DIVERGED, told)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        schedule.set(step)
        optimizer.step()
        row = {"step": float(step), "loss": float(loss.detach())}
        row |= {f"term_{name}": float(value.detach()) for name, value in parts.items()}
        history.append(row)
        due = schedule.ends(step) if schedule.settling else check_now()
        if step % check_every and step != max_steps and not due:
            continue
        check = monitor.check(live)
        row |= check.row()
        progress("unlearning", step, schedule.total(max_steps), str(check))
        if schedule.too_far(check.drift) and schedule.back_off(step):
            continue
        if schedule.done(step, check.forgotten) and not run_to_budget:
            if not check.forgotten:  # the weights were put back
                row |= monitor.check(live).row()
            return history, FORGOTTEN
    if max_steps in schedule.halved_at:  # the last step was taken back
        check = monitor.check(live)
        history[-1] |= check.row()
    if check.forgotten:
        return history, FORGOTTEN
    told = f"step budget: {max_steps} steps done before every image was forgotten"
    return history, StopReason(Outcome.BUDGET, told)
