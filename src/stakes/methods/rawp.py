"""RAWP: repeated adversarial weight perturbation from the forget set."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.methods.base import Method, ascent_terms, hyper
from stakes.methods.task import Task, Unlearned


@dataclass(frozen=True, kw_only=True)
class RAWP(Method):
    """``w_l <- w_l + gamma ||w_l|| grad_l / ||grad_l||``, grad_l of CE(h(g(x_f)), y_f) to w_l.

    **Our reconstruction.** "Stake the Points" (App. A) names RAWP as a variant of adversarial
    weight perturbation (AWP; Wu et al., NeurIPS 2020) that perturbs the weights repeatedly by
    forget data until they are misclassified, and has published neither code nor settings. The
    step is that of AWP: each layer is moved by a share gamma of its own norm, so that layers of
    any scale are perturbed alike; as there, only tensors of two or more dimensions are moved.

    Differences from AWP's code: the gradient is that of the images themselves, not of adversarial
    ones; the perturbation stays and is repeated, where AWP takes it back after each training step.
    """

    title: ClassVar[str] = "RAWP (our reconstruction)"

    gamma: float = hyper(
        5e-3,
        "norm of one perturbation of a layer, as a share of its weights' norm",
        "code of TRADES-AWP; AT-AWP's: .01",
    )
    forget_batch: int = hyper(128, "forget images per step", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "BatchNorm mode during unlearning; in eval mode the ascent is unbounded"
    )
    max_steps: int = hyper(500, "step budget", low=1)

    def unlearn(self, task: Task) -> Unlearned:
        """Perturb until everything is forgotten."""
        terms = ascent_terms(task, self.forget_batch)
        layers = [p for p in task.trainable().values() if p.ndim > 1]
        task.live.train(self.batch_norm == "train")
        return task.descend(terms, LayerwiseStep(layers, self.gamma), self.max_steps)


class LayerwiseStep(torch.optim.Optimizer):
    """Move each tensor against its gradient by a share ``lr`` of its own norm.

    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> w.grad = torch.tensor([[0.0, 1e-6]])
    >>> LayerwiseStep([w], lr=0.1).step()
    >>> w.detach()
    tensor([[3.0000, 3.5000]])
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; a tensor whose gradient vanishes stays where it is."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.norm() * p.grad / p.grad.norm().clamp_min(1e-20))
