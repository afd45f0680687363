"""SalUn: wrong labels for the forget set, on the weights that matter most to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, relabelling_terms
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import deletion_ce


@dataclass(frozen=True, kw_only=True)
class SalUn(RetainSGD):
    """``L = CE(x_f, y') + alpha CE(x_r, y_r)`` over the weights with a large |dCE(D_f)/dtheta|.

    Fan et al., ICLR 2024. The mask is the share of all weights with the largest gradient
    magnitude of the forget loss in the original network; the others stay bit-identical. y' is a
    wrong class, drawn once for each forget image. All steps are done, since the retained
    data goes on repairing once all is forgotten. With ``saliency=1`` it is ``amnesiac``.

    Differences from the authors' code: a random label is never the true one; weight decay and
    momentum never move a masked weight; the gradient is taken at one point, where theirs moves
    the network while it sums; a batch of each set in every step, where theirs passes over one set
    and then over the other.
    """

    title: ClassVar[str] = "SalUn"

    saliency: float = hyper(
        0.5, "share of the weights that may move", "public code", above=0, high=1
    )
    retention_weight: float = hyper(1.0, "alpha, weight of the retained data", "public code")
    forget_batch: int = hyper(128, "forget images a step", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Find the salient weights, then train them with wrong labels."""
        parameters = task.trainable()
        with task.timed("importance"):
            masks = salient(forget_gradient(task), self.saliency)
        optimizer = self.sgd(task)
        hold(optimizer, parameters, masks)
        terms = relabelling_terms(task, self.retain_batch, self.forget_batch, self.retention_weight)
        return self.run_to_budget(task, terms, optimizer)


def forget_gradient(task: Task, batch_size: int = 256) -> dict[str, Tensor]:
    """The gradient of the summed CE of the forget set, one tensor for each parameter."""
    parameters = task.trainable()
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    parts = zip(
        task.forget.images.split(batch_size), task.forget.labels.split(batch_size), strict=True
    )
    for images, labels in parts:
        loss = len(labels) * deletion_ce(task.live(images), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for accumulated, gradient in zip(total.values(), gradients, strict=True):
            if gradient is not None:
                accumulated += gradient
    return total


def salient(gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """True for the share of all weights, at least one, with the largest gradient magnitude.

    >>> salient({"w": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0, 0.0])}, 0.5)
    {'w': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    flat = torch.cat([g.flatten() for g in gradients.values()]).abs()
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = mask.split([g.numel() for g in gradients.values()])
    return {
        name: part.view(g.shape) for (name, g), part in zip(gradients.items(), parts, strict=True)
    }


def hold(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
) -> None:
    """Put the weights outside the masks back after every step, so that nothing moves them."""
    origin = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def after_step(*_: object) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(torch.where(masks[name], parameter, origin[name]))

    optimizer.register_step_post_hook(after_step)
