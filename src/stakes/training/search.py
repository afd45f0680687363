"""Searches for the weakest change that suffices."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.rows import Outcome
from stakes.training.loop import FORGOTTEN, Ending, History, complete
from stakes.training.monitor import Monitor


def escalate(
    live: Classifier,
    change: Callable[[float], None],
    strengths: Sequence[float],
    monitor: Monitor,
    *,
    progress: Progress = silent,
) -> tuple[History, Ending]:
    """Try one strength after another until every forget image is misclassified.

    Args:
        live: the classifier that is changed.
        change: sets ``live`` to a strength, whatever its strength before.
        strengths: in the order they are tried, the weakest first; at least one.
        monitor: checks the deployed path; it alone decides when to stop.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        A history row per strength (``step``, ``strength``, ``forget_accuracy`` in percent and
        ``drift``) after a row for the start, and how the search ended. ``live`` stays at the
        strength of the last row. A single strength is all that the method prescribes, and no limit.
    """
    history: History = [{"step": 0.0} | monitor.check(live).row()]
    for step, strength in enumerate(strengths, 1):
        change(strength)
        check = monitor.check(live)
        history.append({"step": float(step), "strength": strength} | check.row())
        progress("unlearning", step, len(strengths), str(check))
        if check.forget_accuracy == 0:
            return history, FORGOTTEN
    if len(strengths) == 1:
        return history, complete(f"its one strength, {strengths[0]:.3g}", check.forget_accuracy)
    tried = f"{len(strengths)} strengths up to {strengths[-1]:.3g}"
    sentence = f"limit: {tried} tried before every image was forgotten"
    return history, Ending(Outcome.LIMIT, sentence)


@torch.no_grad()
def pull_back(
    live: nn.Module, original: nn.Module, holds: Callable[[], bool], bisections: int = 8
) -> float:
    """Move ``live`` back along the line to ``original`` as far as ``holds()`` stays true.

    Bisection over the share of the way; the last share known to hold is kept.

    Returns:
        The share in (0, 1] of the distance from ``original`` that was needed.
    """
    origin = dict(original.named_parameters())
    end = {name: p.detach().clone() for name, p in live.named_parameters()}

    def move(share: float) -> None:
        for name, parameter in live.named_parameters():
            parameter.copy_(torch.lerp(origin[name], end[name], share))

    low, high = 0.0, 1.0
    for _ in range(bisections):
        middle = (low + high) / 2
        move(middle)
        low, high = (low, middle) if holds() else (middle, high)
    if high == 1.0:
        for name, parameter in live.named_parameters():
            parameter.copy_(end[name])
    else:
        move(high)
    return high
