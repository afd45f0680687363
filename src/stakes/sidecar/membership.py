"""Whether a sidecar gives away which images it was made from."""

import torch
from torch import Tensor

from stakes.data.images import Images, batches
from stakes.models.classifier import Classifier
from stakes.sidecar.contents import Sidecar
from stakes.sidecar.layers import UnchangedLayers


def membership(
    sidecar: Sidecar,
    classifier: Classifier,
    members: Images,
    others: Images,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """How well the nearest synthetic image tells members from others: AUC, 0.5 is chance.

    An image is taken for a member the nearer the nearest synthetic image lies to it, by the
    distance of features (``features``) and of pixels (``pixels``). A network knows its training
    images, so that their features lie nearer their class than those of others do, whatever the
    sidecar holds; ``means`` is the AUC of the distance to the nearest class mean, to compare with.

    Args:
        sidecar: to test.
        classifier: the network that it was made for.
        members: the images that it was made from, in the order that :func:`make` was given.
        others: images of the same kind that it was not made from.
        samples: as many are drawn of each.
        seed: of the draw.

    Returns:
        The areas under the curve, and ``n``, images of each kind. Where the sidecar describes
        activations, ``activations`` is the greater of two: that of the distance to the nearest
        class, its mean and what its directions span, and that of the share of the distance to its
        mean that these directions explain. Members are then images that they were found from.
    """
    generator = torch.Generator().manual_seed(seed)
    n = min(samples, len(members), len(others))
    shown = [_seen(classifier, images, n, generator) for images in (members, others)]
    synthetic = sidecar.images.float() / 255
    own = _features(classifier, synthetic)
    found = {}
    for name, place, centres in (
        ("features", 0, own),
        ("pixels", 1, synthetic.flatten(1)),
        ("means", 0, sidecar.means),
    ):
        near, far = (torch.cdist(part[place], centres).amin(1) for part in shown)
        found[name] = auc(-near, -far)
    if sidecar.activations is not None:
        found["activations"] = _by_activations(sidecar, classifier, members, others, n)
    return found | {"n": float(n)}


@torch.no_grad()
def _by_activations(
    sidecar: Sidecar, classifier: Classifier, members: Images, others: Images, n: int
) -> float:
    """How well the description of activations tells members from others: the better of two."""
    described = sidecar.activations
    assert described is not None
    network = classifier.copy().eval().requires_grad_(False)
    layers = UnchangedLayers(network, members.load(range(1))[0])
    chosen = layers.sample(len(members), sidecar.card["seed"])[:n]
    generator = torch.Generator().manual_seed(sidecar.card["seed"])
    other = torch.randperm(len(others), generator=generator)[:n]
    scores = []
    for images, some in ((members, chosen), (others, other)):
        from_means, from_spans = described.distances(layers.outputs(images, some).float())
        rest, nearest = from_spans.min(1)
        whole = from_means.gather(1, nearest[:, None])[:, 0]
        scores.append((-rest, -rest / whole.clamp_min(1e-12)))
    return max(auc(*pair) for pair in zip(*scores, strict=True))


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive's score exceeds a negative's; ties count half.

    >>> auc(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
    0.875
    """
    order = torch.cat([positive, negative]).double()
    ranks = order.unique(return_inverse=True, return_counts=True)
    ends = ranks[2].cumsum(0).double()
    middle = (ends - (ranks[2] - 1) / 2)[ranks[1]]
    n, m = len(positive), len(negative)
    return float((middle[:n].sum() - n * (n + 1) / 2) / (n * m))


@torch.no_grad()
def _seen(
    classifier: Classifier, images: Images, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features and pixels, each flat, of n of the images."""
    chosen = torch.randperm(len(images), generator=generator)[:n]
    shown = torch.cat([part for part, _ in batches(images, chosen)])
    return _features(classifier, shown), shown.flatten(1)


@torch.no_grad()
def _features(classifier: Classifier, images: Tensor) -> Tensor:
    parts = images.to(classifier.device).split(256)
    return torch.cat([classifier.features(part) for part in parts]).cpu()
