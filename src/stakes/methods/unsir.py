"""UNSIR: error-maximising noise, impair, repair."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, retained_batches, set_step_sizes
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.losses import deletion_ce, retention_ce


@dataclass(frozen=True, kw_only=True)
class UNSIR(RetainTraining):
    """Impair with ``L = CE(noise, its class) + CE(x_r, y_r)``, then repair with ``CE(x_r, y_r)``.

    Tarun et al., "Fast Yet Effective Machine Unlearning", TNNLS 2023. The noise maximises the
    error of the original network: ``min -CE(noise, y) + penalty |noise|^2``. Trained on with the
    label y, it overwrites what the network knows of class y.

    It is a method for whole classes. Here noise is made for every class of the forget set, while
    other images of these classes are retained and hold them: single images are forgotten, if
    at all, by what impairing breaks and repairing does not mend. All steps are done.

    The steps of impairing are so large that they take down most of what the network knows, and
    the retained data teaches it anew within an epoch. It takes a thousand images a class and
    the steps of both epochs; with fewer, what is left is a broken network.

    Differences from the authors' code: noise is labelled with its own class, where theirs gives
    the noise of every class the label 0; retained data has images of these classes; every step
    of impairing takes a batch of each set, where theirs shuffles both into one; Adam keeps its
    moments from impairing to repairing.
    """

    title: ClassVar[str] = "UNSIR"

    retain_samples: int = hyper(
        10_000, "retained images used, drawn at random; 0 for all", "public code, 1000 a class"
    )
    noise_images: int = hyper(32, "noise images for each class of the forget set", low=1)
    noise_steps: int = hyper(40, "steps of Adam that the noise is made in", "public code", low=1)
    noise_lr: float = hyper(0.1, "step size of these steps, normalised pixels", "public code")
    noise_penalty: float = hyper(0.1, "weight of the squared length of the noise", "public code")
    noise_batch: int = hyper(128, "noise images a step of impairing", low=1)
    impair_lr: float = hyper(0.02, "step size of Adam while impairing", "public code")
    repair_lr: float = hyper(0.01, "step size of Adam while repairing", "public code")
    max_steps: int = hyper(
        158, "steps, the first half of them impairs; one epoch each", "public code", low=1
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Make the noise, impair, repair."""
        classes = task.forget.labels.unique().repeat_interleave(self.noise_images)
        shape = (len(classes), *task.forget.images.shape[1:])
        start = torch.randn(shape, generator=task.generator).to(task.live.device)
        with task.timed("probes"):
            noise = error_maximising(
                task.original,
                start,
                classes,
                steps=self.noise_steps,
                lr=self.noise_lr,
                penalty=self.noise_penalty,
                progress=lambda done, total: task.progress("noise", done, total),
            )
        impairing = (self.max_steps + 1) // 2
        noisy = task.batches(len(classes), self.noise_batch)
        retain = retained_batches(task, self.retain_batch)
        optimizer = torch.optim.Adam(task.trainable().values())
        set_step_sizes(optimizer, lambda t: self.impair_lr if t <= impairing else self.repair_lr)

        def terms(step: int) -> dict[str, Tensor]:
            images, labels = next(retain)
            if step > impairing:
                return {"retention": retention_ce(task.live(images), labels)}
            batch = next(noisy)
            logits = task.live(torch.cat([noise[batch], images]))
            return {
                "impairing": retention_ce(logits[: len(batch)], classes[batch]),
                "retention": retention_ce(logits[len(batch) :], labels),
            }

        return self.run_to_budget(task, terms, optimizer)


def error_maximising(
    network: Classifier,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    penalty: float,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Move noise to where the network least expects its labels.

    Adam on ``-CE(network(mean + std noise), y) + penalty mean |noise|^2``.

    Args:
        network: frozen, in eval mode.
        noise: (n, 3, h, w) in the units of the network's normalised pixels.
        labels: (n,).
        steps: of Adam.
        lr: of Adam.
        penalty: weight of the mean squared length.
        progress: called with (steps done, steps in all).

    Returns:
        Images (n, 3, h, w) in the units of pixels in [0, 1], which they may leave.
    """
    noise = noise.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([noise], lr=lr)
    for step in range(1, steps + 1):
        logits = network(network.mean + network.std * noise)
        loss = deletion_ce(logits, labels) + penalty * noise.square().flatten(1).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step, steps)
    return (network.mean + network.std * noise).detach()
