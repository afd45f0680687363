"""Cohorts: whose turn it is to be forgotten, and whose it is to be held until then."""

from collections.abc import Callable
from typing import ClassVar

from stakes.training.adaptive import FEW
from stakes.training.checkpoint import State

# Steps between the starts of two cohorts that do not wait for each other, without and with copies
# of the images: at half of the steps, copies cost a quarter to a half more accuracy.
STEPS, STEPS_COPIES = 15, 30
# Steps between two checks of the network, each of which costs about as much as a step. Cohorts look
# at those before them right after one, when there is nothing left to wait for.
CHECK_EVERY = 10


class Cohorts(State):
    """How many of the forget images, from the first, have had their turn.

    A cohort starts a fixed number of steps after the one before it, or, where it waits, as soon as
    at most 5 % of the images before it are left. All have started by half of the step budget.

    Args:
        k: number of forget images.
        count: cohorts that they are divided into.
        max_steps: the step budget.
        pace: steps between the starts of two cohorts; None: a cohort waits for those before it.

    Attributes:
        count: as given.
        waits: whether a cohort waits for those before it.

    >>> turns = Cohorts(6, 3, max_steps=12, pace=15)
    >>> [turns.started(step, lambda first: first) for step in range(1, 6)]
    [2, 2, 4, 4, 6]
    """

    saved: ClassVar[tuple[str, ...]] = ("_begun", "_since")

    def __init__(self, k: int, count: int, *, max_steps: int, pace: int | None) -> None:
        self.count, self.waits, self._pace = count, pace is None, pace
        self._k, self._longest = k, max(1, max_steps // (2 * count))
        self._begun, self._since = 1, 1

    def started(self, step: int, left: Callable[[int], int]) -> int:
        """The images whose turn has come by a step; steps are asked for one after the other.

        ``left`` says how many of the first n images are still recognised.
        """
        if self._begun < self.count and self._due(step, left):
            self._begun, self._since = self._begun + 1, step
        return self._images()

    def _due(self, step: int, left: Callable[[int], int]) -> bool:
        waited = step - self._since
        if waited >= self._longest:
            return True
        if self._pace is not None:
            return waited >= self._pace
        now = self._images()
        return waited > 0 and step % CHECK_EVERY == 1 and left(now) <= FEW * now

    def _images(self) -> int:
        return -(-self._begun * self._k // self.count)
