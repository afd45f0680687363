"""The projector p, between the features and the head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with a ReLU between: p in equation 1 of "Stake the Points".

    It starts at the identity: ``p(f) = W2 relu(W1 f + b1) + b2`` with hidden width 2d,
    ``W1 = [I; -I]`` and ``W2 = [I, -I]``, so that ``p(f) = relu(f) - relu(-f) = f`` for every sign
    of f, and the head meets the features it was fitted to. With a generator it starts where
    PyTorch starts linear layers.

    Args:
        width: of the features, d.
        hidden: width between the two layers; by default 2d.
        batch_norm: whether BatchNorm follows the first layer, as in the authors' code.
        generator: for a random start; without it the projector starts at the identity, which
            needs the default width and no BatchNorm.

    >>> features = torch.randn(3, 8)
    >>> torch.equal(Projector(8)(features), features)
    True
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int | None = None,
        batch_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        hidden = 2 * width if hidden is None else hidden
        # Without their usual start, which would draw from the global generator.
        self.expand = nn.utils.skip_init(nn.Linear, width, hidden)
        self.norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.contract = nn.utils.skip_init(nn.Linear, hidden, width)
        if generator is not None:
            self._start_at_random(generator)
        elif hidden == 2 * width and not batch_norm:
            self._start_at_identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) to features (n, d)."""
        projected: Tensor = self.contract(F.relu(self.norm(self.expand(features))))
        return projected

    @classmethod
    def like(cls, width: int, state: dict[str, Tensor]) -> "Projector":
        """A projector of the kind that a state dict is of, with that state.

        Raises:
            RuntimeError: the state is not a projector's of this width.
        """
        hidden = len(state.get("expand.bias", torch.empty(2 * width)))
        projector = cls(width, hidden=hidden, batch_norm="norm.weight" in state)
        projector.load_state_dict(state)
        return projector

    @torch.no_grad()
    def _start_at_identity(self) -> None:
        eye = torch.eye(self.width)
        self.expand.weight.copy_(torch.cat([eye, -eye]))
        self.contract.weight.copy_(torch.cat([eye, -eye], dim=1))
        self.expand.bias.zero_()
        self.contract.bias.zero_()

    @torch.no_grad()
    def _start_at_random(self, generator: torch.Generator) -> None:
        for layer in (self.expand, self.contract):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                tensor.copy_(bound * (2 * torch.rand(tensor.shape, generator=generator) - 1))
