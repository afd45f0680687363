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
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targeted L2-PGD with steps of .1: probes (n, 3, h, w) and their targets (n,).

    Every image once, then every image again, ``per_image`` times; targets uniform over the wrong
    classes; all steps are taken, whether the target is reached before or not.
    """
    generator = torch.Generator().manual_seed(SEED) if generator is None else generator
    images, labels = forget.images.repeat(per_image, 1, 1, 1), forget.labels.repeat(per_image)
    offset = torch.randint(1, network.num_classes, labels.shape, generator=generator)
    targets = (labels + offset) % network.num_classes
    directions = torch.randn(images.shape, generator=generator)
    lengths = torch.rand(len(images), 1, 1, 1, generator=generator)
    made = images + eps * lengths * torch.stack([d / d.norm() for d in directions])
    made = made.clamp(0, 1)
    for _ in range(iterations):
        made.requires_grad_()
        loss = F.cross_entropy(network(made), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, made)
        step = made.detach() - 0.1 * torch.stack([g / g.norm() for g in gradient]) - images
        step = torch.stack([s * min(1.0, eps / float(s.norm())) for s in step])
        made = (images + step).clamp(0, 1)
    return made, targets
