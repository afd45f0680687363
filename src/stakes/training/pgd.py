"""Targeted L2-PGD: adversarial images, with the labels they were pushed to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.training.losses import margins

Start = Literal["ball", "noise"]
LEAST = 1e-6  # norm that a gradient is divided by, as in AdverTorch: rounding moves no image


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
    start: Start = "ball",
    generator: torch.Generator,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probes:
    """Targeted L2-PGD (Madry et al. 2018) over all (image, target) pairs in batches.

    Each iteration moves an image by ``step`` along the unit gradient of the target's
    log-probability, then back into [0, 1] and into the L2 ball of radius ``eps`` around the
    original. A sample leaves the batch as soon as its target leads every other class by
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
        start: ``ball``: a random direction, a length uniform in [0, eps]; ``noise``: up to ``eps``
            towards an image of uniform noise, as AdverTorch does.
        generator: for the random start.
        batch_size: pairs attacked at a time.
        progress: called at each move with (pairs done, pairs in all).
    """
    done_images, done_flags = [], []
    for first in range(0, len(images), batch_size):
        chunk = slice(first, first + batch_size)

        def notice(done: int, first: int = first) -> None:
            progress(first + done, len(images))

        origin = images[chunk]
        begun = _started(origin, eps, start, generator)
        result, reached = _pgd_batch(
            network, origin, begun, targets[chunk], eps, step, iterations, margin, notice
        )
        done_images.append(result)
        done_flags.append(reached)
        notice(len(result))
    return Probes(torch.cat(done_images), targets, torch.cat(done_flags))


def _pgd_batch(
    network: Network,
    origin: Tensor,
    result: Tensor,
    targets: Tensor,
    eps: float,
    step: float,
    iterations: int,
    margin: float,
    notice: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """The images of one batch, from where they start, and which reach their targets.

    ``notice`` is given how many do.
    """
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
        result[active] = _within(moved, origin[active], eps)
    return result, reached


def _started(origin: Tensor, eps: float, start: Start, generator: torch.Generator) -> Tensor:
    """Where the attack on each image starts."""
    if start == "noise":
        return _within(torch.rand(origin.shape, generator=generator).to(origin), origin, eps)
    direction = _unit(torch.randn(origin.shape, generator=generator).to(origin))
    # Uniform in length, not in volume: in many dimensions nearly all volume lies at the surface.
    radius = torch.rand(len(origin), 1, 1, 1, generator=generator).to(origin)
    begun: Tensor = (origin + eps * radius * direction).clamp(0, 1)
    return begun


def _within(images: Tensor, origin: Tensor, eps: float) -> Tensor:
    """The images moved into [0, 1], then to a distance of at most ``eps`` from their origins."""
    offset = images.clamp(0, 1) - origin
    length = offset.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
    inside: Tensor = origin + offset * (eps / length).clamp_max(1)
    return inside.clamp(0, 1)  # against rounding


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return x / length.clamp_min(LEAST).reshape(-1, 1, 1, 1)
