"""The projector p, between the features and the head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with a ReLU between, starting at the identity (p in equation 1).

    ``p(f) = W2 relu(W1 f + b1) + b2`` with hidden width 2d, ``W1 = [I; -I]`` and
    ``W2 = [I, -I]``, so that ``p(f) = relu(f) - relu(-f) = f`` for every sign of f.

    Differences from the authors' code: no BatchNorm, and no random start, so the head meets
    the features it was fitted to.

    >>> features = torch.randn(3, 8)
    >>> torch.equal(Projector(8)(features), features)
    True
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        # Without their usual start, which would draw from the global generator.
        self.expand = nn.utils.skip_init(nn.Linear, width, 2 * width)
        self.contract = nn.utils.skip_init(nn.Linear, 2 * width, width)
        with torch.no_grad():
            eye = torch.eye(width)
            self.expand.weight.copy_(torch.cat([eye, -eye]))
            self.contract.weight.copy_(torch.cat([eye, -eye], dim=1))
            self.expand.bias.zero_()
            self.contract.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) to features (n, d)."""
        projected: Tensor = self.contract(F.relu(self.expand(features)))
        return projected
