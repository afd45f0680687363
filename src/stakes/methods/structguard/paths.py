"""The two paths of a network with a projector: which is watched, which deployed."""

from typing import Any

import torch

from stakes.methods.task import Task, Unlearned
from stakes.models.projector import Projector
from stakes.training.loop import minimise
from stakes.training.steps import Terms


def descend(
    task: Task,
    terms: Terms,
    projector: Projector,
    *,
    lr: float,
    projector_lr: float,
    deploy: str,
    max_steps: int,
    prescribed: bool,
    check_from: int = 1,
) -> Unlearned:
    """Minimise the terms until the deployed path has forgotten all; both paths come back.

    Args:
        task: whose live network, and its forget images.
        terms: the step's number (from 1) to its named scalar loss terms.
        projector: p, trained with the network, both by SGD without momentum.
        lr: learning rate of the network.
        projector_lr: learning rate of p.
        deploy: ``direct``, h(g(x)), or ``projected``, h(p(g(x))).
        max_steps: the step budget.
        prescribed: whether these are all the steps of the method, and not a budget for it.
        check_from: the first step after which forgetting is checked.
    """
    parts: list[dict[str, Any]] = [
        {"params": list(task.trainable().values())},
        {"params": list(projector.parameters()), "lr": projector_lr},
    ]

    task.checkpoint.keep(projector)
    with task.timed("unlearn"):
        history, ending = minimise(
            task.live,
            terms,
            torch.optim.SGD(parts, lr=lr),
            task.monitor(projector if deploy == "projected" else None),
            max_steps=max_steps,
            check_every=max_steps,
            check_now=lambda step: step.number >= check_from,
            prescribed=prescribed,
            checkpoint=task.checkpoint,
            progress=task.progress,
        )
    paths = {"direct": task.live.eval(), "projected": task.live.copy().eval()}
    paths["projected"].projector = projector.eval()
    deployed = paths.pop(deploy)
    return task.result(history, ending, classifier=deployed, other=paths)
