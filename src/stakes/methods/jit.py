"""JiT: make the network locally smooth around the forget images."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.methods.base import ForgetSGD, hyper
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class JiT(ForgetSGD):
    """``L = sum_x E_n ||f(x) - f(x + n)|| / ||n||``, f the logits (Foster et al., 2024).

    "An Information Theoretic Approach to Machine Unlearning": lowers the local Lipschitz constant
    at the forget images, which training on them has raised. n is Gaussian; as in the authors' code,
    x + n stays within the range of the batch, both are of normalised images, and the gradient goes
    through f(x) alone. The loss does not require misclassification.

    Differences from that code: the network is in eval mode, so that f is the same function in both
    places, where their VGG is in train mode, each pass with a dropout of its own; gradients of a
    batch are cleared before the next, where theirs add up; batches are in random order; training
    stops once every forget image is misclassified.
    """

    title: ClassVar[str] = "JiT"

    lr: float = hyper(
        3e-4, "learning rate of SGD", "public code, VGG on CIFAR-10", above=0, high=100
    )
    momentum: float = hyper(0.0, "momentum of SGD", "public code", high=1)
    sigma: float = hyper(
        0.01,
        "standard deviation of the noise, in normalised pixels",
        "public code, VGG on CIFAR-10",
        above=0,
    )
    samples: int = hyper(25, "noisy copies of each image per step", "public code", low=1)
    batch_norm: Literal["eval", "train"] = hyper("eval", "BatchNorm mode during unlearning")
    epochs: int = hyper(
        1, "most passes over the forget set; 0: as many as max_steps allows", "public code"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Smooth the network around the images."""

        def loss(batch: Tensor) -> dict[str, Tensor]:
            images = task.forget.images[batch]
            constant = lipschitz(task.live, images, self.sigma, self.samples, task.generator)
            return {"lipschitz": constant}

        return self.fit(task, loss)


def lipschitz(
    network: Classifier, images: Tensor, sigma: float, samples: int, generator: torch.Generator
) -> Tensor:
    """The sum over images (n, 3, h, w) in [0, 1] of ``||f(x) - f(x + noise)|| / ||noise||``.

    Args:
        network: images to logits.
        images: at least one.
        sigma: of the noise, in units of the normalised images.
        samples: draws of the noise, of which the mean is taken.
        generator: of the noise.
    """
    normal = (images.to(network.mean) - network.mean) / network.std
    low, high = normal.aminmax()
    logits = network(images)
    total = torch.zeros_like(logits[0, 0])
    for _ in range(samples):
        noise = sigma * torch.randn(images.shape, generator=generator).to(normal)
        moved = (normal + noise).clamp(low, high)
        with torch.no_grad():
            other = network(moved * network.std + network.mean)
        distance = (moved - normal).flatten(1).norm(dim=1)
        total = total + ((logits - other).norm(dim=1) / distance).sum()
    return total / samples
