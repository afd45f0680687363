"""NPO: make the true class less likely than the original network finds it, ever more gently."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class NPO(ForgetSGD):
    """``L = -2/beta E log sigmoid(-beta log(p(y_f|x_f) / p_0(y_f|x_f)))``, p_0 the original's.

    Negative preference optimisation (Zhang et al., 2024, equation 3), with an image's class in
    place of a text. Its gradient is that of gradient ascent, weighted by
    ``2 p^beta / (p^beta + p_0^beta)``: an image that is already unlikely is pushed no further.

    Differences from the authors' code: theirs is for language models, from which only beta is
    taken (on a synthetic problem of two classes it has beta 1); learning rate, momentum, batch size
    and BatchNorm mode are those of NegGrad here, without its weight decay; training stops once
    every forget image is misclassified.
    """

    title: ClassVar[str] = "NPO"
    divisible: ClassVar[bool] = True

    lr: float = hyper(1e-3, "learning rate of SGD", "as NegGrad", above=0, high=100)
    beta: float = hyper(
        0.1,
        "how soon an unlikely image is no longer pushed; near 0: gradient ascent",
        "paper",
        above=0,
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Descend until everything is forgotten."""
        images, labels = task.forget.images, task.forget.labels
        with torch.no_grad():
            parts = zip(images.split(256), labels.split(256), strict=True)
            before = torch.cat([-surprise(task.original(x), y) for x, y in parts])

        def loss(batch: Tensor) -> dict[str, Tensor]:
            ratio = -surprise(task.live(images[batch]), labels[batch]) - before[batch]
            return {"preference": -2 / self.beta * F.logsigmoid(-self.beta * ratio).mean()}

        return self.fit(task, loss)


def surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(y) of each row (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")
