"""The stop rule for methods without a gradient loop: the weakest change that is enough."""

from collections.abc import Callable, Sequence

from stakes.classifier import Classifier
from stakes.loop import FORGOTTEN, History, Watch
from stakes.progress import Report, silent


def escalate(
    live: Classifier,
    change: Callable[[float], None],
    strengths: Sequence[float],
    watch: Watch,
    *,
    report: Report = silent,
) -> tuple[History, str]:
    """Try one strength after another until every forget image is misclassified.

    Args:
        live: the classifier that is changed.
        change: puts ``live`` at a strength, whatever it was at before.
        strengths: in the order they are tried, the weakest first; at least one.
        watch: looks at the deployed path; it alone decides when to stop.
        report: progress.

    Returns:
        A history row per strength (``step``, ``strength``, ``forget_accuracy`` in percent and
        ``drift``) after a row for the start, and the reason for stopping. ``live`` stays at the
        strength of the last row.
    """
    history: History = [{"step": 0.0} | watch.look(live).row()]
    for step, strength in enumerate(strengths, 1):
        change(strength)
        look = watch.look(live)
        history.append({"step": float(step), "strength": strength} | look.row())
        report("unlearning", step, len(strengths), str(look))
        if look.forget_accuracy == 0:
            return history, FORGOTTEN
    tried = f"{len(strengths)} strengths up to {strengths[-1]:.3g}"
    return history, f"limit: {tried} tried before every image was forgotten"
