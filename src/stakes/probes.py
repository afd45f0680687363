"""Probes: images made from the forget set alone that stand in for the data that is gone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.losses import margins


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


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """A class other than the true one for each label (n,), uniformly at random.

    >>> y = torch.zeros(5, dtype=torch.long)
    >>> bool((wrong_labels(y, 2, torch.Generator().manual_seed(0)) == 1).all())
    True
    """
    offset = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels + offset.to(labels.device)) % classes


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
    progress: Callable[[int, int], None] | None = None,
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
        progress: called with (pairs done, pairs in all).
    """
    done_images, done_flags = [], []
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        result, reached = _pgd_batch(
            network, images[chunk], targets[chunk], eps, step, iterations, margin, generator
        )
        done_images.append(result)
        done_flags.append(reached)
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
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
) -> tuple[Tensor, Tensor]:
    direction = _unit(torch.randn(origin.shape, generator=generator).to(origin))
    # Uniform in length, not in volume: in many dimensions nearly all volume lies at the surface.
    radius = torch.rand(len(origin), 1, 1, 1, generator=generator).to(origin)
    result = (origin + eps * radius * direction).clamp(0, 1)
    reached = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
    active = torch.arange(len(origin), device=origin.device)
    for iteration in range(iterations + 1):
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


def mixed(
    images: Tensor,
    count: int,
    generator: torch.Generator,
    least: float = 0.15,
    labels: Tensor | None = None,
) -> Tensor:
    """Draw ``count`` fresh mixtures (count, 3, h, w) of the forget images (k, 3, h, w).

    Two images, each mirrored or not, moved by up to an eighth of the side and slightly scaled,
    are joined: half of the mixtures by mixup (Zhang et al. 2018) with a share in [least,
    1 - least], half by CutMix (Yun et al. 2019) with a box whose sides are that share's root, at
    the least .3 and at the most .8 of the image's. Such images lie near the data, are made by the
    million from a few, and so cannot be memorised as fixed probes are. The larger ``least``, the
    further they are from views of a single image. With ``labels`` (k,) half of the mixtures are
    of two images of one class, which lie where that class is at home. Draws come from the CPU
    generator, so a seed means the same on every device.

    >>> x = torch.rand(3, 3, 8, 8)
    >>> mixed(x, 5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    one = _draw(len(images), count, generator)
    first = jitter(images, one, generator)
    other = _draw(len(images), count, generator)
    if labels is not None:
        mates = _mates(labels.cpu(), one, generator)
        other = torch.where(torch.rand(count, generator=generator) < 0.5, mates, other)
    second = jitter(images, other, generator)
    height, width = images.shape[2:]
    share = torch.rand(count, 1, 1, 1, generator=generator) * (1 - 2 * least) + least
    low, high = max(0.3, least**0.5), min(0.8, (1 - least) ** 0.5)
    box = _boxes(count, height, width, low, high, generator)
    use_box = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).to(share)
    weight = (use_box * box + (1 - use_box) * share).to(images)
    return torch.lerp(first, second, weight)


def _mates(labels: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """For each index in ``chosen`` (n,), one of an image with the same label, at random."""
    alike = labels[chosen][:, None] == labels[None]
    keys = torch.rand(alike.shape, generator=generator)
    return torch.where(alike, keys, -1.0).argmax(dim=1)


def jitter(images: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, move and scale ``images[indices]`` at random: (n, 3, h, w), edges reflected."""
    count = len(indices)
    flip = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    scale = 1 + 0.2 * (torch.rand(count, generator=generator) - 0.5)
    move = 0.5 * (torch.rand(count, 2, generator=generator) - 0.5)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = flip * scale
    theta[:, 1, 1] = scale
    theta[:, :, 2] = move
    chosen = images[indices.to(images.device)]
    if not count:
        return chosen
    grid = F.affine_grid(theta.to(images), list(chosen.shape), align_corners=False)
    return F.grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 3, h, w) turned by one to three quarters, their colours in a random order.

    So they keep what is real in a picture (its edges, textures and light), and are no copies of
    it. Oblong images are turned by a half. Draws come from the CPU generator.

    >>> turned(torch.rand(5, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    count, _, height, width = images.shape
    order = torch.rand(count, 3, generator=generator).argsort(dim=1)[:, :, None, None]
    quarters = torch.randint(1, 4, (count,), generator=generator)
    if height != width:
        quarters = torch.full_like(quarters, 2)
    recoloured = images.gather(1, order.to(images.device).expand_as(images))
    made = recoloured
    for turn in quarters.unique().tolist():
        chosen = (quarters == turn).to(images.device)[:, None, None, None]
        made = torch.where(chosen, recoloured.rot90(turn, (2, 3)), made)
    return made


def _draw(size: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, size, (count,), generator=generator)


def _boxes(
    count: int, height: int, width: int, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """Masks (count, 1, h, w) of one random box each, its sides that share of the image's."""
    sides = low + (high - low) * torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (1 - sides)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= corners[:, :1]) & (rows < corners[:, :1] + sides[:, :1])
    inside_columns = (columns >= corners[:, 1:]) & (columns < corners[:, 1:] + sides[:, 1:])
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).float()[:, None]
