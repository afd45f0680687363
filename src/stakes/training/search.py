"""Searches for the weakest change that suffices, and for the most of it that can be taken back."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.rows import Outcome
from stakes.training.loop import FORGOTTEN, Ending, History
from stakes.training.monitor import Monitor

MOST_RAISED = 0.2  # logits for each image; further up, other classes lose what these gain


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
        strength of the last row.
    """
    history: History = [{"step": 0.0} | monitor.check(live).row()]
    for step, strength in enumerate(strengths, 1):
        change(strength)
        check = monitor.check(live)
        history.append({"step": float(step), "strength": strength} | check.row())
        progress("unlearning", step, len(strengths), str(check))
        if check.forget_accuracy == 0:
            return history, FORGOTTEN
    count = len(strengths)
    tried = f"{count} strength{'s' * (count != 1)} up to {strengths[-1]:.3g}"
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

    def held(share: float) -> bool:
        move(share)
        return holds()

    least = _bisected(1.0, 0.0, held, bisections)
    if least == 1.0:
        for name, parameter in live.named_parameters():
            parameter.copy_(end[name])
    else:
        move(least)
    return least


@torch.no_grad()
def rebalance(
    head: nn.Linear, counts: Tensor, holds: Callable[[], bool], bisections: int = 8
) -> float:
    """Raise the biases of classes by how many images were forgotten of each, while ``holds()``.

    Copies of an image leave its class, and whatever resembles them goes along: the class answers to
    fewer images than before, the more of its images were to be forgotten. That is a shift of the
    classes' frequencies, which a head answers by its biases (Menon et al., "Long-tail learning via
    logit adjustment", ICLR 2021). Bisection over the logits for each image, up to ``MOST_RAISED``;
    the largest raise known to hold is kept. The mean of the biases stays.

    Args:
        head: whose biases are raised; one without biases is left as it is.
        counts: (c,) forget images of each class.
        holds: whether all is still forgotten.
        bisections: of the interval that the largest raise lies in.

    Returns:
        Logits by which a class was raised for each of its images.
    """
    if head.bias is None:
        return 0.0
    before, each = head.bias.detach().clone(), counts.to(head.bias)
    shares = each - each.mean()

    def held(raised: float) -> bool:
        head.bias.copy_(before + raised * shares)
        return holds()

    if held(MOST_RAISED):
        return MOST_RAISED
    most = _bisected(0.0, MOST_RAISED, held, bisections)
    head.bias.copy_(before + most * shares)
    return most


def _bisected(good: float, bad: float, held: Callable[[float], bool], bisections: int) -> float:
    """The number nearest to ``bad`` that is known to hold, ``good`` at first."""
    for _ in range(bisections):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if held(middle) else (good, middle)
    return good
