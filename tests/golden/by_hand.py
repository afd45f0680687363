"""Plain, slow pieces of the golden loops; nothing of the package's mathematics is used here."""

import torch
from torch import nn
from torch.nn import functional as F

from stakes import Classifier, ForgetSet

SEED = 5


def apart(one: nn.Module, other: nn.Module) -> float:
    """The greatest difference of two networks' weights and BatchNorm statistics."""
    others = other.state_dict()
    assert one.state_dict().keys() == others.keys()
    pairs = [(value, others[name]) for name, value in one.state_dict().items()]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def moved(one: nn.Module, other: nn.Module) -> float:
    """The greatest difference of two networks' weights, without statistics and batch counters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def all_misclassified(network: nn.Module, forget: ForgetSet) -> bool:
    """Whether the network, in eval mode, gives no forget image its class."""
    network.eval()
    with torch.no_grad():
        wrong = network(forget.images).argmax(1) != forget.labels
    network.train()
    return bool(wrong.all())


def pgd_by_hand(
    network: Classifier,
    forget: ForgetSet,
    *,
    eps: float,
    per_image: int,
    iterations: int,
    together: int,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targeted L2-PGD as AdverTorch makes it, with steps of .1: probes (n, 3, h, w), targets (n,).

    Of each batch of ``together`` forget images, every image once, then every image again,
    ``per_image`` times; targets uniform over the wrong classes; from the ball's edge towards an
    image of noise; all steps are taken, whether the target is reached before or not.
    """
    generator = torch.Generator().manual_seed(SEED) if generator is None else generator
    places = range(len(forget))
    batches = [places[at : at + together] for at in range(0, len(forget), together)]
    order = [i for batch in batches for _ in range(per_image) for i in batch]
    images, labels = forget.images[order], forget.labels[order]
    offset = torch.randint(1, network.num_classes, labels.shape, generator=generator)
    targets = (labels + offset) % network.num_classes
    made = inside(torch.rand(images.shape, generator=generator), images, eps)
    for _ in range(iterations):
        made.requires_grad_()
        loss = F.cross_entropy(network(made), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, made)
        moves = torch.stack([0.1 * g / max(1e-6, float(g.norm())) for g in gradient])
        made = inside(made.detach() - moves, images, eps)
    return made, targets


def inside(made: torch.Tensor, images: torch.Tensor, eps: float) -> torch.Tensor:
    """First into [0, 1], then each one into the ball around its image."""
    shifts = made.clamp(0, 1) - images
    return images + torch.stack([s * min(1.0, eps / float(s.norm())) for s in shifts])
