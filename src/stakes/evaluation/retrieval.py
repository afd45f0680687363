"""Image-to-image retrieval: does a query image find others of its class by features?"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RANKS = (1, 5, 10)
CHUNK = 256  # queries ranked at once


class Retrieval(NamedTuple):
    """How well queries retrieve images of their class, in percent.

    Attributes:
        r1, r5, r10: R@k, here the hit rate of metric learning: queries with at least one image of
            their class among the first k. (The R@k of text retrieval divides by the number of
            relevant images, and cannot come near 100 with hundreds of images per class.)
        map: mean average precision over the whole ranking.
        n: number of queries; those without an image of their class in the gallery are left out.
    """

    r1: float
    r5: float
    r10: float
    map: float
    n: int


def retrieve(
    queries: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor
) -> Retrieval | None:
    """Rank the gallery by cosine similarity for every query; images of its class are relevant.

    Args:
        queries: (n, d) features.
        labels: int64 (n,), their classes.
        gallery: (m, d) features of other images.
        gallery_labels: int64 (m,), their classes.

    Returns:
        None if no query has an image of its class in the gallery.

    >>> found = retrieve(
    ...     torch.tensor([[1.0, 0.0]]), torch.tensor([7]),
    ...     torch.tensor([[0.9, 0.1], [-1.0, 0.0]]), torch.tensor([8, 7]),
    ... )
    >>> found.r1, found.r5, found.map
    (0.0, 100.0, 50.0)
    """
    return _mean(*_rankings(queries, labels, gallery, gallery_labels, among=False))


def retrieve_among(features: Tensor, labels: Tensor) -> Retrieval | None:
    """:func:`retrieve` with every image as a query among all the others.

    Args:
        features: (n, d).
        labels: int64 (n,), the classes.
    """
    return _mean(*_rankings(features, labels, features, labels, among=True))


def nearest(queries: Tensor, gallery: Tensor, count: int, *, among: bool = False) -> Tensor:
    """Indices of the gallery images nearest to each query, nearest first.

    Args:
        queries: (n, d) features.
        gallery: (m, d) features.
        count: how many for each query, or all if the gallery has fewer.
        among: whether query i is image i of the gallery, which is then left out.

    Returns:
        int64 (n, count).

    >>> nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 1.0]]), 1)
    tensor([[1]])
    """
    similarities = F.normalize(queries.double()) @ F.normalize(gallery.double()).T
    if among:
        similarities.fill_diagonal_(-torch.inf)
    return similarities.topk(min(count, len(gallery) - among)).indices


def average_precision(similarities: Tensor, relevant: Tensor) -> Tensor:
    r"""Average precision of each ranking, AP = \sum_i (R_i - R_{i-1}) P_i over its distinct scores.

    P_i and R_i are precision and recall of all entries that score at least the i-th highest
    score, so tied entries count as one step, in whatever order they are listed. Only the order of
    the scores counts, not their sign. Minus infinity leaves an entry out.

    Args:
        similarities: (n, m).
        relevant: bool (n, m).

    Returns:
        float64 (n,), NaN where nothing is relevant.

    >>> average_precision(torch.tensor([[-0.1, -0.5, -0.9]]), torch.tensor([[True, False, True]]))
    tensor([0.8333], dtype=torch.float64)
    """
    scores, order = similarities.sort(dim=1, descending=True, stable=True)
    hits = relevant.gather(1, order) & scores.isfinite()
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    last = F.pad(scores[:, 1:] != scores[:, :-1], (0, 1), value=True)  # of those that tie
    # each place reads the precision where its tie ends: the nearest such place from it on
    ends = torch.where(last, places, len(places)).flip(1).cummin(1).values.flip(1)
    precision = hits.cumsum(1).gather(1, ends - 1).double() / ends
    return (precision * hits).sum(1) / hits.sum(1)


def _rankings(
    queries: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, *, among: bool
) -> tuple[Tensor, Tensor]:
    """Rank of the first hit (n,) and AP (n,) of each query with an image of its class."""
    unit, stock = (F.normalize(part.double()) for part in (queries, gallery))
    first, precision = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(unit), CHUNK):
        part = slice(start, start + CHUNK)
        similarities = unit[part] @ stock.T
        relevant = labels[part, None] == gallery_labels
        if among:
            rows = torch.arange(len(similarities))
            similarities[rows, start + rows] = -torch.inf
            relevant[rows, start + rows] = False
        can = relevant.any(1)
        similarities, relevant = similarities[can], relevant[can]
        best = similarities.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
        # a hit that ties with images of other classes counts as behind them
        first.append((similarities.ge(best) & ~relevant).sum(1) + 1)
        precision.append(average_precision(similarities, relevant))
    return torch.cat(first), torch.cat(precision)


def _mean(first: Tensor, precision: Tensor) -> Retrieval | None:
    if not len(first):
        return None
    r1, r5, r10 = (100.0 * float((first <= rank).double().mean()) for rank in RANKS)
    return Retrieval(r1, r5, r10, 100.0 * float(precision.mean()), len(first))
