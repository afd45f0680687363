"""SalUn: wrong labels for the forget set, on the weights that matter most to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, in_first_pass, retained_batches
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import deletion_ce, retention_ce
from stakes.training.targets import wrong_labels


@dataclass(frozen=True, kw_only=True)
class SalUn(RetainSGD):
    """A pass of ``L = CE(x_f, y')``, then one of ``CE(x_r, y_r)``, on the salient weights alone.

    Fan et al., ICLR 2024. The mask is the share of all weights with the largest gradient
    magnitude ``|dCE(D_f)/dtheta|`` in the original network; the others stay bit-identical. An
    epoch goes over the forget set once and then over the retained data once, each batch in a pass
    of its own. y' is a wrong class, drawn anew for each forget image in each epoch. All epochs
    are done, since the retained data continues to repair once everything is forgotten.

    Differences from the authors' code: a random label is never the true one, as in the paper's
    equation; the mask is taken from the images as they are and weights them alike, where theirs
    crops and mirrors them and counts a last, smaller batch as a full one. Until 2026, weight
    decay shrank the weights outside the mask in theirs. For CIFAR-100 and Tiny ImageNet theirs
    shuffles both sets into one.
    """

    title: ClassVar[str] = "SalUn"

    epochs: int = hyper(10, "passes over both sets", "public code", low=1)
    lr: float = hyper(0.013, "learning rate of SGD", "public code", above=0, high=100)
    saliency: float = hyper(
        0.5, "share of the weights that are trained", "public code", above=0, high=1
    )
    forget_batch: int = hyper(256, "forget images per step", "public code", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Find the salient weights, then train them with wrong labels and right ones in turns."""
        with task.timed("importance"):
            masks = salient(forget_gradient(task), self.saliency)
        optimizer = self.sgd(task)
        hold(optimizer, task.trainable(), masks)
        truth, classes = task.forget.labels, task.original.num_classes
        forget = task.batches(len(truth), self.forget_batch)
        retain = retained_batches(task, self.retain_batch)
        first = ceil(len(truth) / self.forget_batch)
        second = ceil(len(task.retain) / self.retain_batch)

        def terms(step: int) -> dict[str, Tensor]:
            if in_first_pass(step, first, second, self.epochs):
                batch = next(forget)
                logits = task.live(self.shown(task, task.forget.images[batch]))
                wrong = wrong_labels(truth[batch], classes, task.generator)
                return {"relabelling": retention_ce(logits, wrong)}
            images, labels = next(retain)
            return {"retention": retention_ce(task.live(self.shown(task, images)), labels)}

        return self.run_to_budget(task, terms, optimizer, self.epochs * (first + second))


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
    mask[flat.topk(max(1, int(share * len(flat)))).indices] = True
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
