"""The terms an unlearning objective is made of: pure functions of tensors, each a scalar.

A deletion, retention or structural loss that a method lets its user choose is a function here and
a line in DELETION, RETENTION or STRUCTURAL.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

AlignOver = Literal["anchors", "probes"]


class Push(NamedTuple):
    """What a deletion loss is given: the forget images of a step.

    Attributes:
        logits: (n, c).
        labels: (n,) true classes y.
        lead: (n,) what has to fall below 0 by the criterion of the run, in logits.
        margin: how far below 0, in logits; one for all, or (n,).
        towards: (n,) wrong classes that the images are sent to, where they are sent to one.
    """

    logits: Tensor
    labels: Tensor
    lead: Tensor
    margin: float | Tensor = 0.0
    towards: Tensor | None = None


class Answers(NamedTuple):
    """What a retention loss compares the probes' logits with.

    Attributes:
        labels: (n,) their hard labels.
        logits: (n, c) of the original network.
        temperature: at which soft answers are compared.
    """

    labels: Tensor
    logits: Tensor
    temperature: float = 4.0


def deletion_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """-CE(logits (k, c), true labels (k,)): gradient ascent on the forget set (Sec. 3.3)."""
    return -F.cross_entropy(logits, labels)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_y - max over other classes of z, for each row (n,): positive where y is predicted.

    >>> margins(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([1]))
    tensor([-2.])
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return true - others


def deletion_hinge(
    logits: Tensor, labels: Tensor, margin: float | Tensor, towards: Tensor | None = None
) -> Tensor:
    """Sum over n of relu(z_y - max other z + margin), divided by sqrt(n m); m of them are above 0.

    It stops pushing an image that is clearly forgotten, and is bounded below by 0, where -CE is
    unbounded and continues to destroy the network. A mean over all n would push the last few
    images ever more weakly, and a mean over the m that are left as hard as all of them at the
    start: the divisor is the geometric mean of the two.

    Args:
        logits: (n, c).
        labels: (n,) true classes y.
        margin: lead of a wrong class, in logits, at which an image is no longer pushed; for all,
            or (n,).
        towards: (n,) wrong classes t; the m are then pushed by z_y - z_t + margin, so that they
            go where they are sent and not where the others have gone.

    >>> logits = torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    >>> deletion_hinge(logits, torch.tensor([0, 0, 0, 0]), 0.5)
    tensor(1.2500)
    """
    return hinge(Push(logits, labels, margins(logits, labels), margin, towards))


def hinge(push: Push) -> Tensor:
    """:func:`deletion_hinge` by the lead of any criterion in place of the margins."""
    left = push.lead + push.margin
    known = left.detach() > 0
    if push.towards is not None:
        own, wrong = (
            push.logits.gather(1, to[:, None])[:, 0] for to in (push.labels, push.towards)
        )
        left = own - wrong + push.margin
    return (left * known).sum() / (len(left) * known.sum().clamp_min(1)).sqrt()


DELETION: dict[str, Callable[[Push], Tensor]] = {
    "hinge": hinge,
    "ce": lambda push: deletion_ce(push.logits, push.labels),
}
"""What moves forget images out of their class, by name."""


def retention_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(logits (n, c), the probes' labels (n,)) (Sec. 3.3)."""
    return F.cross_entropy(logits, labels)


def retention_kl(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher/T) || softmax(logits/T)), mean over rows (n, c) (Hinton 2015)."""
    student = F.log_softmax(logits / temperature, dim=1)
    target = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(student, target, log_target=True, reduction="batchmean")


RETENTION: dict[str, Callable[[Tensor, Answers], Tensor]] = {
    "kl": lambda logits, answers: retention_kl(logits, answers.logits, answers.temperature),
    "ce": lambda logits, answers: retention_ce(logits, answers.labels),
}
"""What holds the probes' logits (n, c) to the original's answers, by name."""


def alignment(before: Tensor, after: Tensor, over: AlignOver = "anchors") -> Tensor:
    """Minus the mean cosine of two structures (n, c) (equation 2), in [-1, 1].

    ``over="anchors"`` is the paper's sum over its b anchors: cosines of columns, taken over the
    probes of the batch. ``over="probes"`` is what the authors' code averages: cosines of rows.
    """
    return -F.cosine_similarity(before, after, dim=0 if over == "anchors" else 1).mean()


def structural_mse(before: Tensor, after: Tensor) -> Tensor:
    """Mean squared difference of two structures, over all their entries (n, c) (Table 6)."""
    return F.mse_loss(after, before)


def structural_kl(before: Tensor, after: Tensor, temperature: float = 0.1) -> Tensor:
    """KL(softmax(before/T) || softmax(after/T)) of rows (n, c), their mean (Table 6).

    The paper says neither how affinities become probabilities nor over which axis or in which
    direction they are compared. Here those of a probe with all anchors are a distribution, and T
    spreads cosines, which lie so close together that T = 1 would make every row nearly uniform.
    """
    return retention_kl(after, before, temperature) / temperature**2


def structural_mmd(before: Tensor, after: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of rows (n, c) (Table 6; Gretton 2012).

    ``mean k(b_i, b_j) + mean k(a_i, a_j) - 2 mean k(b_i, a_j)`` over all i, j, with
    ``k(x, y) = exp(-|x - y|^2 / w)``. Which row became which does not count.

    The paper names no kernel. Here it is Gaussian, and w is the mean squared distance of two
    different rows of ``before``; a single row has none, and its discrepancy is 0.
    """

    def squared(x: Tensor, y: Tensor) -> Tensor:
        # By differences: through the matrix product, small ones drown in rounding.
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.square()

    n = len(before)
    if n == 1:
        return 0 * after.sum()
    within = squared(before, before).detach()
    width = (within.sum() / (n * n - n)).clamp_min(1e-12)
    pairs = (within, squared(after, after), squared(before, after))
    old, new, across = (torch.exp(-distances / width).mean() for distances in pairs)
    return old + new - 2 * across


def structural_wasserstein(before: Tensor, after: Tensor) -> Tensor:
    """1-Wasserstein distance of the n affinities with an anchor, mean over c anchors (Table 6).

    In one dimension it is the mean distance of sorted values, so which row became which does not
    count. The paper, which cites WGAN, does not say between what it is taken; between whole rows
    it would need an optimal assignment at every step, and is never less than this.
    """
    return (after.sort(dim=0).values - before.sort(dim=0).values).abs().mean()


STRUCTURAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": alignment,
    "mse": structural_mse,
    "kl": structural_kl,
    "mmd": structural_mmd,
    "wasserstein": structural_wasserstein,
}
"""What Table 6 compares: least where two structures (n, c), before and after, are the same."""

if TYPE_CHECKING:
    DeletionLoss: TypeAlias = str
    RetentionLoss: TypeAlias = str
    StructuralLoss: TypeAlias = str
else:  # the names above, for the fields of methods
    DeletionLoss = Literal[*DELETION]
    RetentionLoss = Literal[*RETENTION]
    StructuralLoss = Literal[*STRUCTURAL]


def feature_shift(before: Tensor, after: Tensor) -> Tensor:
    """Mean squared distance of features (n, d) from what they were, in units of their variance.

    >>> f = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> feature_shift(f, f + 1)
    tensor(1.)
    """
    spread = before.var(dim=0, correction=0).sum().clamp_min(1e-12)
    return (after - before).square().sum(dim=1).mean() / spread


def quadratic(
    parameters: Mapping[str, Tensor], origin: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Tensor:
    """1/2 sum_i w_i (psi_i - psi_i_origin)^2 over the named parameters of ``weights`` (eq. 3)."""
    terms = [(weights[n] * (parameters[n] - origin[n]).square()).sum() for n in weights]
    return 0.5 * torch.stack(terms).sum()


def elastic_net(parameters: Iterable[Tensor], phi: float) -> Tensor:
    """Phi L1 + (1 - phi)/2 squared L2 of the parameters (Zou and Hastie 2005)."""
    flat = torch.cat([p.reshape(-1) for p in parameters])
    return phi * flat.abs().sum() + (1 - phi) / 2 * flat.square().sum()
