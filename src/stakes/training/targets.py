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
