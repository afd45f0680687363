"""Membership inference: do the network's answers tell training images from unseen ones?"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SCORES = ("loss", "entropy", "modified entropy")
FOLDS = 5
FALSE_ALARMS = 0.01
LEAST = 100  # unseen images: with fewer, a false-alarm rate of 1 % has no meaning
Floats = NDArray[np.float64]


class Separation(NamedTuple):
    """How well an attack separates m members from n unseen images.

    Attributes:
        auc: area under the ROC curve: the probability that a member scores higher than an unseen
            image, ties counting half; .5 is chance, 0 is perfect in the wrong direction.
        low, high: 95 % interval of the AUC.
        found: percent of the members identified at a false-alarm rate of at most 1 %; None with
            fewer than 100 unseen images.
        unlikely: the same with the scores negated: percent of the members that look less like
            members than 99 % of the unseen images.
        m: number of members.
        n: number of unseen images.
    """

    auc: float
    low: float
    high: float
    found: float | None
    unlikely: float | None
    m: int
    n: int


def answer_scores(logits: Tensor, labels: Tensor) -> Floats:
    r"""Loss, entropy and modified entropy of each answer, in nats; members score low.

    With p the softmax of an image's logits and y its class: loss = -log p_y,
    entropy = -\sum_i p_i log p_i, and modified entropy (Song & Mittal, USENIX Security 2021)
    = -(1 - p_y) log p_y - \sum_{i != y} p_i log(1 - p_i), which unlike the entropy is low only for
    an answer that is both confident and correct.

    Args:
        logits: (n, c).
        labels: int64 (n,), the true classes.

    Returns:
        float64 (n, 3), in the order of :data:`SCORES`.

    Differences from public code: 1 - p is at least the machine epsilon of float64, and the sum of
    each image leaves out its own class only. (The code of SalUn leaves out the classes of all rows
    from each row, and has log p_i in place of log(1 - p_i).)
    """
    log_p = logits.detach().cpu().double().log_softmax(1)
    p, rest = log_p.exp(), (-torch.expm1(log_p)).clamp_min(torch.finfo(torch.float64).eps)
    own = torch.nn.functional.one_hot(labels.cpu(), logits.shape[1]).bool()
    loss = -log_p[own]
    entropy = -(p * log_p).sum(1)
    modified = -torch.where(own, rest * log_p, p * rest.log()).sum(1)
    return torch.stack([loss, entropy, modified], 1).numpy()


def learned_scores(retained: Floats, unseen: Floats, forget: Floats) -> tuple[Floats, ...]:
    """Score all three groups by logistic regression that is never fitted to what it scores.

    Five-fold cross-fitting: each of five classifiers learns to separate retained training images
    from unseen ones, both groups weighted equally, on four fifths of them, and scores the other
    fifth. The forget images are never fitted to; their score is the mean over the five. If nothing
    separates retained from unseen images, the classifier has no direction, and the single scores
    say more.

    Args:
        retained: (m, 3) scores of retained training images, m at least 5, in random order.
        unseen: (n, 3) scores of images that were never trained on, n at least 5, likewise.
        forget: (k, 3) scores of the images to forget.

    Returns:
        The log odds of having been trained on: (m,), (n,) and (k,).
    """
    from sklearn.linear_model import LogisticRegression  # only here: it is slow to import
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.concatenate([retained, unseen])
    trained_on = np.repeat([1, 0], [len(retained), len(unseen)])
    odds, forget_odds = np.zeros(len(scores)), np.zeros(len(forget))
    for fitted, held_out in StratifiedKFold(FOLDS).split(scores, trained_on):
        attack = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        attack.fit(scores[fitted], trained_on[fitted])
        odds[held_out] = attack.decision_function(scores[held_out])
        forget_odds += attack.decision_function(forget) / FOLDS
    return odds[: len(retained)], odds[len(retained) :], forget_odds


def separation(members: Floats, unseen: Floats) -> Separation:
    """How well scores separate members (m,), expected to score higher, from unseen images (n,)."""
    from sklearn.metrics import auc, roc_curve  # only here: it is slow to import

    m, n = len(members), len(unseen)
    truth, scores = np.repeat([1, 0], [m, n]), np.concatenate([members, unseen])
    curves = [roc_curve(truth, sign * scores, drop_intermediate=False) for sign in (1, -1)]
    area = float(auc(*curves[0][:2]))
    shares = (100.0 * float(true[false <= FALSE_ALARMS].max()) for false, true, _ in curves)
    found, unlikely = shares if n >= LEAST else (None, None)
    return Separation(area, *auc_interval(area, m, n), found, unlikely, m, n)


def auc_interval(auc: float, m: int, n: int, z: float = 1.96) -> tuple[float, float]:
    r"""Confidence interval of an AUC of m members and n unseen images; 95 % by default.

    All values A with |auc - A| <= z sd(A), by the variance of Hanley & McNeil (Radiology
    1982): m n sd(A)^2 = A (1 - A) + (m - 1) (A / (2 - A) - A^2) + (n - 1) (2 A^2 / (1 + A) - A^2).
    The variance is taken at A, not at the measured AUC, so an AUC of 0 or 1 has an interval too.
    Below .5 it is that of 1 - A, so that negated scores have the mirrored interval.

    >>> [round(end, 2) for end in auc_interval(0.5, 16, 1000)]
    [0.35, 0.65]
    >>> [round(end, 2) for end in auc_interval(1.0, 16, 1000)]
    [0.9, 1.0]
    """
    grid = np.linspace(0, 1, 2001)
    a = np.maximum(grid, 1 - grid)
    pairs = a * (1 - a) + (m - 1) * (a / (2 - a) - a**2) + (n - 1) * (2 * a**2 / (1 + a) - a**2)
    inside = grid[np.abs(auc - grid) <= z * np.sqrt(pairs / (m * n))]
    return min(float(inside.min(initial=1)), auc), max(float(inside.max(initial=0)), auc)
