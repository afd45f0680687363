"""What the network still knows beneath its answers: features, wrong answers, relearning."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.models.classifier import Classifier

STEP, STEPS = 1e-4, 30  # of relearning: length as a share of the weights' norm, and most steps
RELEARNED = 0.9  # share of the images that must be recognised again


def linear_probe() -> Any:
    """A new last layer: logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression  # only here: it is slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def nearest_mean() -> Any:
    """A nearest-mean classifier, by Euclidean distance of features."""
    from sklearn.neighbors import NearestCentroid  # only here: it is slow to import

    return NearestCentroid()


LINEAR_PROBES: Mapping[str, Callable[[], Any]] = {"probe": linear_probe, "centroid": nearest_mean}
"""Prefix of the measures -> what makes the classifier that reads the features."""


class Reading(NamedTuple):
    """Accuracy of a feature probe in percent, on forget and unseen images, and their numbers.

    Attributes:
        forget: accuracy on the forget images, percent.
        unseen: accuracy on unseen images that it was not fitted to, percent.
        n_fit: unseen images that it was fitted to.
        n_unseen: unseen images that it was scored on.
    """

    forget: float
    unseen: float
    n_fit: int
    n_unseen: int


def read_features(
    probe: Callable[[], Any],
    features: Tensor,
    labels: Tensor,
    forget_features: Tensor,
    forget_labels: Tensor,
) -> Reading | None:
    """Accuracy that a new head, fitted to features of unseen images, has on the forget images.

    The probe is fitted to the first three quarters of the unseen images, and scored on the last
    quarter, for comparison, and on the forget images. The network's own head is not used: a method
    that only misaligns the head (arXiv 2604.08271) leaves the accuracy on forget images unchanged.

    Args:
        probe: makes an estimator, such as one of :data:`LINEAR_PROBES`.
        features: (n, d) of images that were never trained on, in random order.
        labels: int64 (n,), their classes.
        forget_features: (k, d) of the images to forget.
        forget_labels: int64 (k,), their true classes.

    Returns:
        None if the images to fit to are of one class, or lack the class of a forget image.
    """
    n_fit = 3 * len(labels) // 4
    known = set(labels[:n_fit].tolist())
    if len(known) < 2 or not set(forget_labels.tolist()) <= known:
        return None
    reader = probe()
    # what 300 iterations find is what the probe is, and the mean of one image is a mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.fit(features[:n_fit].numpy(), labels[:n_fit].numpy())
    forget = 100.0 * float(reader.score(forget_features.numpy(), forget_labels.numpy()))
    unseen = 100.0 * float(reader.score(features[n_fit:].numpy(), labels[n_fit:].numpy()))
    return Reading(forget, unseen, n_fit, len(labels) - n_fit)


def density(cosines: Tensor, points: int = 101) -> list[tuple[float, float]]:
    """Gaussian kernel density of cosines (n,), as pairs (cosine, density) up to a cosine of 1.

    Silverman's bandwidth, .9 min(sd, IQR / 1.34) n^(-1/5), but at least 1e-4. Density above 1,
    where no cosine can be, is reflected to below 1, so the area is 1.
    """
    x = cosines.double()
    low, high = x.quantile(torch.tensor([0.25, 0.75], dtype=x.dtype)).tolist()
    spread = float(x.std()) if len(x) > 1 else 0.0
    width = max(1e-4, 0.9 * min(spread, (high - low) / 1.34) * len(x) ** -0.2)
    grid = torch.linspace(max(-1.0, float(x.min()) - 3 * width), 1.0, points, dtype=x.dtype)
    kernel = sum(
        torch.exp(-(((grid[:, None] - centre) / width) ** 2) / 2).sum(1) for centre in (x, 2 - x)
    )
    heights = kernel / (len(x) * width * math.sqrt(2 * math.pi))
    return list(zip(grid.tolist(), heights.tolist(), strict=True))


def answer_entropy(answers: Sequence[int]) -> float:
    r"""Entropy of the distribution of answers, -\sum_c q_c log2 q_c, in bits; 0 if all are equal.

    >>> answer_entropy([3, 3, 3, 3]), answer_entropy([0, 1, 2, 3])
    (0.0, 2.0)
    """
    shares = [count / len(answers) for count in Counter(answers).values()]
    return sum(-share * math.log2(share) for share in shares)


def rf_jsd(answers: Tensor, labels: Tensor, expected: Tensor, unseen: Tensor) -> float | None:
    r"""Retrain-free Jensen-Shannon divergence in bits, from 0 (alike) to 1 (disjoint).

    Mean over classes c of JSD(P_c, Q_c) = H((P_c + Q_c) / 2) - (H(P_c) + H(Q_c)) / 2, with P_c the
    mean answer to the images to forget of class c, and Q_c the original's mean answer to unseen
    images of that class (Spartalis et al., LoTUS, CVPR 2025).

    Differences from the authors' code: that sums m log(m / p), m the mean of the two, where the
    divergence has p log(p / m); it is in nats, and divided by the number of classes twice.

    Args:
        answers: logits (k, c) on the images to forget.
        labels: int64 (k,), their classes.
        expected: logits (n, c) of the original on images of no training set.
        unseen: int64 (n,), their classes.

    Returns:
        None if a class of the images to forget has no unseen image.

    >>> sure = 100.0 * torch.eye(2)
    >>> zero, one = torch.tensor([0]), torch.tensor([1])
    >>> [rf_jsd(sure[:1], zero, sure[i : i + 1], zero) for i in range(2)]
    [0.0, 1.0]
    >>> rf_jsd(sure[:1], zero, sure[:1], one) is None
    True
    """
    found = []
    for label in labels.unique():
        if not (unseen == label).any():
            return None
        p, q = (
            logits[truth == label].double().softmax(1).mean(0)
            for logits, truth in ((answers, labels), (expected, unseen))
        )
        entropies = torch.special.entr(torch.stack([(p + q) / 2, p, q])).sum(1) / math.log(2)
        found.append(entropies[0] - entropies[1:].mean())
    return max(0.0, float(torch.stack(found).mean()))


def relearn_steps(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    step: float = STEP,
    limit: int = STEPS,
    share: float = RELEARNED,
) -> int:
    """Gradient steps until the network recognises at least ``share`` of the images.

    Plain gradient descent on the cross-entropy of all the images at once, over all parameters,
    with fixed BatchNorm statistics. Each step follows the negative gradient and is ``step`` times
    as long as the vector of all parameters, so that a number of steps means the same distance in
    every network. A copy is trained; the network itself does not change.

    Args:
        network: the classifier to relearn with.
        images: (n, 3, h, w) in [0, 1], on its device.
        labels: int64 (n,), their true classes.
        step: length of a step, as a share of the norm of all parameters.
        limit: most steps taken.
        share: of the images that must be recognised.

    Returns:
        The number of steps, 0 if they are recognised already; ``limit + 1`` if ``limit`` steps
        were not enough.
    """
    live = network.copy().eval().requires_grad_()
    parameters = list(live.parameters())
    needed = share * len(labels)
    for steps in range(limit + 1):
        logits = live(images)
        if int((logits.argmax(1) == labels).sum()) >= needed:
            return steps
        loss = F.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            length = torch.nn.utils.get_total_norm(gradients)
            if not float(length) > 0:
                break
            factor = step * torch.nn.utils.get_total_norm(parameters) / length
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(factor * gradient)
    return limit + 1
