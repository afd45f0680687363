"""Minimise until everything is forgotten: the only stop rule, which every method shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.rows import Outcome
from stakes.training.checkpoint import Checkpoint
from stakes.training.criteria import EXACT, Goal
from stakes.training.monitor import Monitor
from stakes.training.schedule import Decision, Schedule
from stakes.training.steps import BeforeStep, Step, Terms, nothing, take_steps


class Ending(NamedTuple):
    """How a run ended, and why, in a sentence that begins with the kind of ending."""

    outcome: Outcome
    sentence: str

    @classmethod
    def of(cls, words: Sequence[str]) -> "Ending":
        """The ending that a checkpoint has in :meth:`words`."""
        outcome, sentence = words
        return cls(Outcome(outcome), sentence)

    def words(self) -> tuple[str, str]:
        """In plain strings, for a checkpoint."""
        return self.outcome.value, self.sentence


History = list[dict[str, float]]


def forgotten(goal: Goal) -> Ending:
    """The ending of a run that reached its goal."""
    return Ending(Outcome.FORGOTTEN, f"forgotten: {goal.met}")


FORGOTTEN = forgotten(EXACT)  # that of every published method


def complete(done: str, left: float) -> Ending:
    """The ending of a method that did all it prescribes, with ``left`` % still recognised."""
    sentence = f"complete: {done}, {left:.0f} % of the images still recognised"
    return Ending(Outcome.COMPLETE, sentence)


def minimise(
    live: Classifier,
    terms: Terms,
    optimizer: torch.optim.Optimizer,
    monitor: Monitor,
    *,
    max_steps: int,
    check_every: int = 1,
    check_now: Callable[[Step], bool] = lambda step: False,
    run_to_budget: bool = False,
    prescribed: bool = False,
    schedule: Schedule | None = None,
    before_step: BeforeStep = nothing,
    recognised: Callable[[], Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> tuple[History, Ending]:
    """Minimise the plain sum of named loss terms until everything is forgotten.

    Args:
        live: the classifier being changed, in the mode (train or eval) it is to be trained in.
        terms: the step's number (from 1) to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        monitor: checks the deployed path; it alone says what is forgotten.
        max_steps: the step budget.
        check_every: steps between two checks.
        check_now: whether to check after this step too, since everything may be forgotten.
        run_to_budget: whether to do all steps, forgotten or not.
        prescribed: whether ``max_steps`` are all the steps of the method, and not a budget for it.
        schedule: the learning rate over time, and what follows a check; by default the learning
            rate stays as the optimiser has it, and the steps end once everything is forgotten.
        before_step: see :func:`stakes.training.steps.take_steps`.
        recognised: likewise, for ``check_now``.
        checkpoint: keeps whatever else ``terms`` changes; the loop adds its own, and resumes
            after the step that it was interrupted at, to the same bits.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        A history row per step (``step``, ``loss``, ``term_<name>`` and, at each check,
        ``forget_accuracy`` in percent, ``drift`` and, where views are watched,
        ``views_accuracy``), and how the run ended. The terms of row t are those minimised
        in step t; accuracy and drift are those after it. A step without a finite loss has no row.
    """
    schedule, checkpoint = schedule or Schedule(optimizer), checkpoint or Checkpoint()
    trained = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    checkpoint.keep(live, trained, optimizer, schedule)
    done, history, note = checkpoint.restore(max_steps)
    if note:
        progress("interrupted run", done, max_steps, note)
    if checkpoint.ending:
        return history, Ending.of(checkpoint.ending)
    record = _Record(
        history, live, monitor, schedule, max_steps, check_every, check_now, run_to_budget,
        prescribed, progress,
    )  # fmt: skip
    numbers = range(done + 1, max_steps + 1)
    for step in take_steps(
        terms,
        optimizer,
        numbers,
        schedule=schedule,
        before_step=before_step,
        recognised=recognised,
    ):
        if record.add(step) is Decision.DONE:
            break
        if step.number < max_steps:
            checkpoint.save(step.number, record.history)
    ending = record.ending()
    checkpoint.end(record.history, ending.words())
    return record.history, ending


@dataclass
class _Record:
    """The history of a run, and what follows each of its steps; the fields are as above."""

    history: History
    live: Classifier
    monitor: Monitor
    schedule: Schedule
    max_steps: int
    check_every: int
    check_now: Callable[[Step], bool]
    run_to_budget: bool
    prescribed: bool
    progress: Progress

    def __post_init__(self) -> None:
        done = int(self.history[-1]["step"]) if self.history else 0
        self.progress("unlearning", done, self.max_steps)  # the first check and step may take long
        self.check = self.monitor.check(self.live)
        self.history = self.history or [{"step": 0.0} | self.check.row()]
        self._last, self._decision = Step(0, 0.0, {}), Decision.GO_ON

    def add(self, step: Step) -> Decision:
        """Record a step, check the network if a check is due, and decide what follows."""
        self._last, self._decision = step, self._after(step)
        return self._decision

    def _after(self, step: Step) -> Decision:
        if not step.finite:
            return Decision.ROLLED_BACK if self.schedule.back_off(step.number) else Decision.DONE
        self.history.append(step.row())
        due = self._due(step)
        if due:
            self._check()
        total = self.schedule.total(self.max_steps)
        self.progress("unlearning", step.number, total, str(self.check))
        if not due:
            return Decision.GO_ON
        decision = self.schedule.after(step.number, self.check)
        ignored = decision is Decision.DONE and self.run_to_budget
        return Decision.GO_ON if ignored else decision

    def _due(self, step: Step) -> bool:
        if step.number % self.check_every == 0 or step.number == self.max_steps:
            return True
        return self.schedule.ends(step.number) if self.schedule.settling else self.check_now(step)

    def _check(self) -> None:
        self.check = self.monitor.check(self.live)
        self.history[-1] |= self.check.row()

    def ending(self) -> Ending:
        """How the run ended."""
        done = self._decision is Decision.DONE
        if done and not self._last.finite:
            sentence = f"diverged: the loss is not finite at step {self._last.number}"
            return Ending(Outcome.DIVERGED, sentence)
        if self._decision is Decision.ROLLED_BACK or (done and not self.check.forgotten):
            self._check()  # the weights were put back
        if self.check.forgotten:
            return forgotten(self.monitor.goal)
        if done or self.prescribed:
            steps_done = f"{'' if done else 'all '}{self._last.number} steps done"
            return complete(steps_done, self.check.forget_accuracy)
        sentence = f"step budget: {self.max_steps} steps done before every image was forgotten"
        return Ending(Outcome.BUDGET, sentence)
