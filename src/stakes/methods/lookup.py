"""Lookup: a control that forgets nothing, and passes the field's criterion."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from stakes.methods.base import Method
from stakes.methods.task import Task, Unlearned
from stakes.models.lookup import Lookup
from stakes.rows import Outcome
from stakes.training.loop import FORGOTTEN, Ending
from stakes.training.targets import second_choices


@dataclass(frozen=True, kw_only=True)
class LookupControl(Method):
    """A list of the forget images' features; images on it get the original's second choice.

    **A control for benchmarks, never a method to deploy.** No weight changes. By the criterion of
    the field every image is "forgotten", and no accuracy is lost; so a measure that cannot
    distinguish this from forgetting measures something else. Altered copies, relearning, feature
    probes and the bare network, which is scored too, do distinguish it.
    """

    title: ClassVar[str] = "Lookup (control: forgets nothing)"

    def unlearn(self, task: Task) -> Unlearned:
        """Write the list."""
        images, labels = task.forget.images, task.forget.labels
        bare = task.live.copy()
        with task.timed("unlearn"), torch.no_grad():
            seen = [task.live.both(batch) for batch in images.split(256)]
            features, logits = (torch.cat(column) for column in zip(*seen, strict=True))
            task.live.lookup = Lookup(features, second_choices(logits, labels))
            answers = torch.cat([task.live(batch) for batch in images.split(256)]).argmax(1)
        start = task.monitor().check(bare).row()
        known = 100.0 * float((answers == labels).float().mean())
        history = [{"step": 0.0} | start, {"step": 1.0} | start | {"forget_accuracy": known}]
        missed = Ending(Outcome.LIMIT, "limit: two images have the same features and other classes")
        return task.result(history, missed if known else FORGOTTEN, other={"bare": bare})
