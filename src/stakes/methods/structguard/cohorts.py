"""Cohorts: whose turn it is to be forgotten, and whose it is to be held until then."""

# Steps between the starts of two cohorts, without and with copies of the images. At half of the
# steps, copies cost a quarter to a half more accuracy; images alone cost no less with many more.
STEPS, STEPS_COPIES = 15, 30


class Cohorts:
    """How many of the forget images, from the first, have had their turn.

    A cohort starts a fixed number of steps after the one before it. All have started by half of
    the step budget.

    Args:
        k: number of forget images.
        count: cohorts that they are divided into.
        max_steps: the step budget.
        pace: steps between the starts of two cohorts.

    Attributes:
        count: as given.

    >>> turns = Cohorts(6, 3, max_steps=12, pace=15)
    >>> [turns.started(step) for step in range(1, 6)]
    [2, 2, 4, 4, 6]
    """

    def __init__(self, k: int, count: int, *, max_steps: int, pace: int) -> None:
        self.count, self._k = count, k
        self._pace = min(pace, max(1, max_steps // (2 * count)))

    def started(self, step: int) -> int:
        """The images whose turn has come by a step, from 1."""
        begun = min(self.count, 1 + (step - 1) // self._pace)
        return -(-begun * self._k // self.count)
