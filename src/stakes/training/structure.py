"""Structure: the affinities between features and semantic anchors (Sec. 3.2 of the paper)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MapKind = Literal["auto", "identity", "procrustes", "random"]


def place_anchors(
    anchors: Tensor, head_weight: Tensor, *, kind: MapKind = "auto", seed: int = 0
) -> Tensor:
    """Carry anchors (c, a) into the feature space (d): the stakes (c, d), unit rows.

    The paper multiplies features and anchors of equal width as they stand. A linear map of the
    features, the same before and after, is the same thing as its transpose on the anchors; so
    one matrix of stakes defines the structure for any two widths, and is saved with the result.

    Args:
        anchors: (c, a) unit rows; or (c m, a), where m rows of a class follow each other.
        head_weight: (c, d), the rows of the classifier's own head.
        kind: ``identity`` needs a = d (the paper). ``procrustes`` is the partial isometry that
            best turns the centred anchors towards the centred head rows (Schoenemann 1966); it
            uses nothing but the network and the anchors. ``random`` is a random
            semi-orthogonal matrix. ``auto`` is ``identity`` where the widths agree, else
            ``procrustes``.
        seed: of the random map.

    Raises:
        ValueError: ``identity`` with unequal widths.
    """
    width, anchor_width = head_weight.shape[1], anchors.shape[1]
    if kind == "auto":
        kind = "identity" if width == anchor_width else "procrustes"
    if kind == "identity":
        if width != anchor_width:
            raise ValueError(
                f"the identity map needs equal widths: features {width}, anchors {anchor_width}"
            )
        return F.normalize(anchors, dim=1)
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        gaussian = torch.randn(
            max(width, anchor_width), min(width, anchor_width), generator=generator
        )
        basis = torch.linalg.qr(gaussian)[0]
        basis = basis if anchor_width >= width else basis.T
        return F.normalize(anchors @ basis.to(anchors), dim=1)
    centred = anchors - anchors.mean(0)
    rows = F.normalize(head_weight - head_weight.mean(0), dim=1)
    rows = rows.repeat_interleave(len(anchors) // len(rows), dim=0)
    left, values, right = torch.linalg.svd((centred.T @ rows).double().cpu(), full_matrices=False)
    rank = int((values > 1e-6 * values[0]).sum())
    turn = (left[:, :rank] @ right[:rank]).to(anchors)
    return F.normalize(centred @ turn, dim=1)


def affinities(features: Tensor, stakes: Tensor) -> Tensor:
    """S = norm(V) A^T (equation 1): cosines of features (n, d) with stakes (c, d) -> (n, c)."""
    return F.normalize(features, dim=1) @ stakes.T


def drift(before: Tensor, after: Tensor) -> float:
    """How far a structure has moved: 1 - mean row cosine of two affinity matrices (n, c).

    Rows are images, as in the code of "Stake the Points"; as printed, equation 2 takes columns.

    >>> s = torch.eye(3)
    >>> drift(s, s), drift(s, s.roll(1, 0))
    (0.0, 1.0)
    """
    return float(1.0 - F.cosine_similarity(before, after, dim=1).mean())
