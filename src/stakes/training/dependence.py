"""Which variables a response depends on: the coefficient CODEC and the selection FOCI.

Azadkia and Chatterjee, "A Simple Measure of Conditional Dependence", Annals of Statistics 2021.
"""

import torch
from torch import Tensor


def foci(variables: Tensor, response: Tensor) -> list[int]:
    """The columns of (n, p) on which the response (n,) depends, the strongest first.

    Each is the one that tells most about the response given those before it; it ends where none
    tells more. Ranks of the response and nearest neighbours among the variables are all it takes.

    >>> x = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    >>> foci(x, x[:, 2] ** 2)
    [2]
    """
    n, count = variables.shape
    rank = torch.empty(n)
    rank[response.cpu().argsort()] = torch.arange(1.0, n + 1)
    columns = variables.cpu().float()
    chosen: list[int] = []
    distance = torch.zeros(n, n).fill_diagonal_(torch.inf)
    least, room = torch.zeros(n), torch.empty(n, n)
    while len(chosen) < count:
        coefficients = torch.full((count,), -torch.inf)
        for column in range(count):
            if column not in chosen:
                nearest = _squares(columns[:, column], room).add_(distance).argmin(dim=1)
                lower = torch.minimum(rank, rank[nearest])
                coefficients[column] = (
                    _conditional(rank, lower, least) if chosen else _codec(rank, lower)
                )
        best = int(coefficients.nan_to_num(-torch.inf).argmax())
        if chosen and not coefficients[best] > 0:
            break
        chosen.append(best)
        distance += _squares(columns[:, best], room)
        least = torch.minimum(rank, rank[distance.argmin(dim=1)])
    return chosen


def _squares(values: Tensor, room: Tensor) -> Tensor:
    """Squared distances (n, n) of values (n,), written where there is room for them."""
    torch.sub(values[:, None], values[None], out=room)
    return room.square_()


def _codec(rank: Tensor, lower: Tensor) -> float:
    n, above = len(rank), len(rank) + 1 - rank
    return float((n * lower - above.square()).sum() / (above * (n - above)).sum())


def _conditional(rank: Tensor, lower: Tensor, least: Tensor) -> float:
    return float((lower - least).sum() / (rank - least).sum())
