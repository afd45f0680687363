"""Classes that a forget image may be pushed to."""

import torch
from torch import Tensor


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """A class other than the true one for each label (n,), uniformly at random.

    >>> y = torch.zeros(5, dtype=torch.long)
    >>> bool((wrong_labels(y, 2, torch.Generator().manual_seed(0)) == 1).all())
    True
    """
    offset = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels + offset.to(labels.device)) % classes


def second_choices(logits: Tensor, labels: Tensor) -> Tensor:
    """The most likely class other than its own (n,) of each row of logits (n, c).

    >>> second_choices(torch.tensor([[5.0, 1.0, 2.0], [1.0, 0.0, 3.0]]), torch.tensor([0, 0]))
    tensor([2, 2])
    """
    return logits.scatter(1, labels[:, None], float("-inf")).argmax(1)


def next_choices(logits: Tensor, labels: Tensor, among: int, generator: torch.Generator) -> Tensor:
    """One of the ``among`` most likely classes other than its own (n,), uniformly at random.

    Whoever has the network that gave the logits (n, c) can then foretell the class that a row is
    sent to no more than once in ``among`` times; of fewer other classes, once in as many as there
    are.

    >>> z = torch.tensor([[5.0, 1.0, 2.0, 0.0]]).repeat(90, 1)
    >>> drawn = next_choices(z, torch.zeros(90).long(), 2, torch.Generator().manual_seed(0))
    >>> sorted(set(drawn.tolist()))
    [1, 2]
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    nearest = others.topk(min(among, logits.shape[1] - 1), dim=1).indices
    pick = torch.randint(nearest.shape[1], (len(nearest), 1), generator=generator)
    return nearest.gather(1, pick.to(nearest.device))[:, 0]
