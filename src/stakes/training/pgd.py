"""Targeted L2-PGD: adversarial images, with the labels they were pushed to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.training.losses import margins


class Network(Protocol):
    """Anything that turns images (n, 3, h, w) in [0, 1] into logits (n, c)."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Logits (n, c)."""
        ...


@dataclass(frozen=True)
class Probes:
    """Fixed probes: images (n, 3, h, w), the labels they were pushed to (n,), and success (n,)."""

    images: Tensor
    labels: Tensor
    reached: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def pgd(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    margin: float = 0.0,
    generator: torch.Generator,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probes:
    """Targeted L2-PGD (Madry et al. 2018) over all (image, target) pairs in batches.

    Each iteration moves an image by ``step`` along the unit gradient of the target's
    log-probability, then back into the L2 ball of radius ``eps`` around the original and into
    [0, 1]. A sample leaves the batch as soon as its target leads every other class by
    ``margin`` (logits), so the work shrinks as samples finish; without a margin they would stop
    on the decision boundary. No gradient reaches the network's parameters.

    Args:
        network: images in [0, 1] to logits (n, c), in eval mode.
        images: (n, 3, h, w) starting points.
        targets: (n,) classes to reach.
        eps: radius in L2 distance of [0, 1] pixels.
        step: length of one move, same unit.
        iterations: moves at most.
        margin: lead in logits at which a sample is finished.
        generator: for the random start: a random direction, a length uniform in [0, eps].
        batch_size: pairs attacked at a time.
        progress: called at each move with (pairs done, pairs in all).
    """
    done_images, done_flags = [], []
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)

        def notice(done: int, start: int = start) -> None:
            progress(start + done, len(images))

        result, reached = _pgd_batch(
            network, images[chunk], targets[chunk], eps, step, iterations, margin, generator, notice
        )
        done_images.append(result)
        done_flags.append(reached)
        notice(len(result))
    return Probes(torch.cat(done_images), targets, torch.cat(done_flags))


def _pgd_batch(
    network: Network,
    origin: Tensor,
    targets: Tensor,
    eps: float,
    step: float,
    iterations: int,
    margin: float,
    generator: torch.Generator,
    notice: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """The images of one batch, and which reach their targets; ``notice`` is given how many."""
    direction = _unit(torch.randn(origin.shape, generator=generator).to(origin))
    # Uniform in length, not in volume: in many dimensions nearly all volume lies at the surface.
    radius = torch.rand(len(origin), 1, 1, 1, generator=generator).to(origin)
    result = (origin + eps * radius * direction).clamp(0, 1)
    reached = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
    active = torch.arange(len(origin), device=origin.device)
    for iteration in range(iterations + 1):
        notice(len(origin) - len(active))
        x = result[active].requires_grad_()
        logits = network(x)
        lead = margins(logits.detach(), targets[active])
        finished = lead >= margin if margin > 0 else lead > 0
        reached[active[finished]] = True
        if iteration == iterations or bool(finished.all()):
            break
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(logits, targets[active], reduction="sum"), x
        )
        active = active[~finished]
        moved = result[active] - step * _unit(gradient[~finished])
        offset = moved - origin[active]
        length = offset.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
        result[active] = (origin[active] + offset * (eps / length).clamp_max(1)).clamp(0, 1)
    return result, reached


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return x / length.clamp_min(1e-12).reshape(-1, 1, 1, 1)
