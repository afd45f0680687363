"""UNSIR: error-maximising noise, impair, repair."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainTraining, retained_batches, union_batches
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.losses import deletion_ce, retention_ce
from stakes.training.schedule import Schedule
from stakes.training.steps import frozen, take_steps


@dataclass(frozen=True, kw_only=True)
class UNSIR(RetainTraining):
    """An epoch of ``L = mean CE`` on noise and retained data, then one on retained data alone.

    Tarun et al., "Fast Yet Effective Machine Unlearning", TNNLS 2023. The noise maximises the
    error of the network: ``min -CE(noise, y) + penalty |noise|^2``. Trained on with the label y,
    it impairs what the network knows of class y, and the second epoch repairs the rest. Copies of
    the noise and the retained images are shuffled into one set, in which the noise of a single
    class is a third. Adam begins each epoch with fresh moments.

    It is a method for whole classes. Here noise is made for every class of the forget set, while
    other images of these classes are retained: single images are forgotten, if at all, where
    repairing does not restore what impairing broke. The steps are so large that they destroy most
    of what the network has learned, and the second epoch relearns it. For a pretrained ResNet-18,
    later code of the same authors (that of "Bad teacher") has 1e-4 in both epochs, 250 noise steps,
    80 copies and 500 retained images of each class.

    Differences from the authors' code: noise is labelled with its own class, where theirs gives
    the noise of every class the label 0; retained data has images of these classes, and is drawn
    at random, where theirs takes the first 1,000 images of each other class.
    """

    title: ClassVar[str] = "UNSIR"

    retain_samples: int = hyper(
        10_000, "retained images used, drawn at random; 0: all", "public code, 1000 a class"
    )
    retain_batch: int = hyper(256, "images per step, noise included", "public code", low=1)
    max_steps: int = hyper(0, "most steps, divided between both epochs in proportion; 0: all")
    noise_images: int = hyper(256, "noise images for each class", "public code", low=1)
    noise_copies: int = hyper(
        20, "times that an epoch shows each noise image", "public code", low=1
    )
    noise_steps: int = hyper(40, "Adam steps that optimise the noise", "public code", low=1)
    noise_lr: float = hyper(
        0.1, "learning rate of these steps, in normalised pixels", "public code", above=0, high=100
    )
    noise_penalty: float = hyper(0.1, "weight of the squared length of the noise", "public code")
    impair_lr: float = hyper(
        0.02, "learning rate of Adam while impairing", "public code", above=0, high=100
    )
    repair_lr: float = hyper(
        0.01, "learning rate of Adam while repairing", "public code", above=0, high=100
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Make the noise, impair, repair."""
        classes = task.forget.labels.unique().repeat_interleave(self.noise_images)
        task.live.train(self.batch_norm == "train")
        with task.timed("probes"):
            noise = self._noise(task)
        shown = self.noise_copies * len(noise) + len(task.retain)
        first = ceil(shown / self.retain_batch)
        second = ceil(len(task.retain) / self.retain_batch)
        steps = self.budget(first + second)
        impairing = ceil(steps * first / (first + second))
        labels = torch.cat(
            [classes.repeat(self.noise_copies), task.retain.labels.to(classes.device)]
        )
        both = union_batches(task, self.retain_batch, noise, copies=self.noise_copies)
        retain = retained_batches(task, self.retain_batch)

        def terms(step: int) -> dict[str, Tensor]:
            if step <= impairing:
                images, places = next(both)
                return {"impairing": retention_ce(task.live(images), labels[places])}
            images, truth = next(retain)
            return {"retention": retention_ce(task.live(images), truth)}

        optimizer = torch.optim.Adam(task.trainable().values())
        rates = Schedule(
            optimizer, size=lambda t: self.impair_lr if t <= impairing else self.repair_lr
        )

        def before_step(step: int) -> None:
            if step == impairing + 1:  # fresh moments
                optimizer.state.clear()

        return self.run_to_budget(
            task, terms, optimizer, steps, schedule=rates, before_step=before_step
        )

    def _noise(self, task: Task) -> Tensor:
        """Noise for each class, classes in their order: (classes x noise_images, 3, h, w)."""
        classes = task.forget.labels.unique().tolist()
        shape = (self.noise_images, *task.forget.images.shape[1:])
        made = []
        for done, label in enumerate(classes, 1):
            start = torch.randn(shape, generator=task.generator).to(task.live.device)
            made.append(
                error_maximising(
                    task.live,
                    start,
                    torch.full((len(start),), label, device=start.device),
                    steps=self.noise_steps,
                    lr=self.noise_lr,
                    penalty=self.noise_penalty,
                )
            )
            task.progress("noise", done, len(classes))
        return torch.cat(made)


def error_maximising(
    network: Classifier,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    penalty: float,
) -> Tensor:
    """Optimise noise to maximise the error of the network on its labels.

    Adam on ``-CE(network(mean + std noise), y) + penalty mean |noise|^2``.

    Args:
        network: no weight of it changes; in train mode, as in the authors' code, its BatchNorm
            normalises the noise by the noise's own statistics, and keeps them.
        noise: (n, 3, h, w) in the units of the network's normalised pixels.
        labels: (n,).
        steps: of Adam.
        lr: of Adam.
        penalty: weight of the mean squared length.

    Returns:
        Images (n, 3, h, w) in the units of pixels in [0, 1], which they may leave.
    """
    noise = noise.clone().requires_grad_(True)

    def terms(step: int) -> dict[str, Tensor]:
        logits = network(network.mean + network.std * noise)
        length = noise.square().flatten(1).sum(1).mean()
        return {"error": deletion_ce(logits, labels), "length": penalty * length}

    with frozen(network.parameters()):
        for _ in take_steps(terms, torch.optim.Adam([noise], lr=lr), range(1, steps + 1)):
            pass
    return (network.mean + network.std * noise).detach()
