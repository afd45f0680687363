"""Retrain: the same architecture trained from fresh weights, without the forget set."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stakes.errors import InputError, some
from stakes.methods.base import hyper
from stakes.methods.retaining import RetainSGD, retained_batches, set_step_sizes
from stakes.methods.task import Task, Unlearned
from stakes.training.losses import retention_ce


@dataclass(frozen=True, kw_only=True)
class Retrain(RetainSGD):
    """``L = CE(x_r, y_r)`` from fresh weights: exact unlearning, the yardstick of the field.

    The network never sees the forget set, and yet recognises most of it where it generalises: it
    shows how much of "forgotten" is more than not having seen an image. All steps are done
    whatever is recognised. It takes all retained data and as many steps as training did: with
    fewer (``retain_samples``, ``max_steps``) it is a worse network, not a worse method.

    Fresh weights are PyTorch's own initialisation of each layer; frozen parameters stay. The step
    size falls along a half cosine to nothing. How the network was trained is not known, so there
    is no augmentation, which costs accuracy beside a network that had it.

    Raises:
        InputError: a parameter of a layer that cannot be made afresh.
    """

    title: ClassVar[str] = "Retrain"

    retain_samples: int = hyper(0, "retained images used, drawn at random; 0 for all")
    lr: float = hyper(0.1, "step size of SGD at the start", "He et al. 2016")
    max_steps: int = hyper(
        12_000, "steps, all of them done; 30 epochs of CIFAR", "a compromise for a CPU", low=1
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Make the weights afresh, then train on the retained data."""
        fresh(task.live, task.generator)
        retain = retained_batches(task, self.retain_batch)
        optimizer = self.sgd(task)
        set_step_sizes(optimizer, self.step_size)

        def terms(step: int) -> dict[str, Tensor]:
            images, labels = next(retain)
            return {"retention": retention_ce(task.live(images), labels)}

        return self.run_to_budget(task, terms, optimizer)

    def step_size(self, step: int) -> float:
        """``lr (1 + cos(pi (t - 1) / n)) / 2`` for step t, from 1 to n."""
        return self.lr * (1 + math.cos(math.pi * (step - 1) / self.max_steps)) / 2


@torch.no_grad()
def fresh(network: nn.Module, generator: torch.Generator) -> None:
    """Give every layer the weights it starts with, but for frozen parameters.

    Raises:
        InputError: a parameter that is not frozen belongs to a layer that cannot be reset.
    """
    stuck = [
        f"{name}.{own}" if name else own
        for name, module in network.named_modules()
        if not callable(getattr(module, "reset_parameters", None))
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    if stuck:
        raise InputError(
            f"Retrain cannot make {some(stuck)} afresh: this layer has no reset_parameters(); "
            "freeze it, or take another network"
        )
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    with torch.random.fork_rng():  # layers draw from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    parameters = dict(network.named_parameters())
    for name, value in frozen.items():
        parameters[name].copy_(value)
