"""Plain pieces of the slow loops; nothing of the package's losses or methods is used here."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


def index_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Each pass over ``count`` images in a new random order, in batches of at most ``size``."""
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, size):
            yield torch.tensor(order[start : start + size])


def one_pass(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A single pass over ``count`` images in a random order, in batches of at most ``size``."""
    order = torch.randperm(count, generator=generator)
    return [order[start : start + size] for start in range(0, count, size)]


def flipped_and_cropped(images: Tensor, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Half of the images mirrored, each moved by up to an eighth of its side over black."""
    count, _, side, _ = images.shape
    pad = side // 8
    coins = torch.rand(count, generator=generator).tolist() if flip else [1.0] * count
    corners = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator).tolist()
    made = torch.zeros_like(images)
    for n, (coin, (top, left)) in enumerate(zip(coins, corners, strict=True)):
        for row in range(side):
            for column in range(side):
                y, x = row + top - pad, column + left - pad
                if 0 <= y < side and 0 <= x < side:
                    made[n, :, row, column] = images[n, :, y, side - 1 - x if coin < 0.5 else x]
    return made


class PlainSGD:
    """``v <- momentum v + g + weight_decay p``, ``p <- p - lr v``."""

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, momentum: float = 0, weight_decay: float = 0
    ) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities = [torch.zeros_like(p) for p in self.parameters]

    def step(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            for p, v, g in zip(self.parameters, self.velocities, gradients, strict=True):
                v.copy_(self.momentum * v + g + self.weight_decay * p)
                p.sub_(self.lr * v)


def assert_same(
    before: nn.Module, after: nn.Module, slow: nn.Module, rounding: float = 1e-13
) -> None:
    """Weights and BatchNorm statistics have moved alike, to 1e-5 of how far the slow ones moved.

    Adam moves a bias before BatchNorm by rounding alone, and then needs a larger ``rounding``.
    """
    old, new, expected = (module.state_dict() for module in (before, after, slow))
    assert old.keys() == new.keys() == expected.keys()
    moves = {name: float((expected[name] - old[name]).abs().max()) for name in old}
    assert max(moves.values()) > 0
    for name, move in moves.items():
        error = float((new[name] - expected[name]).abs().max())
        assert error <= 1e-5 * move + rounding, (
            f"{name} is off by {error:.3g}, having moved {move:.3g}"
        )
