"""A distribution of what layers of a network give for its training data, and draws from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

Shape = tuple[int, ...]
Layers = tuple[tuple[str, Shape], ...]
"""Names of layers, and the shapes of what each gives for one image."""
TABLES = ("means", "directions", "plain", "seen")  # the parts that are one tensor each


@dataclass(frozen=True, eq=False)
class Activations:
    """What layers give for training images, class by class; each has D values in all.

    A draw is the mean of its class, plus a normal combination of the class's main directions, plus
    a normal residual: its covariance is that of channels times that of places (a matrix normal
    distribution), the same for all classes. Each value is then mapped to one that its channel takes
    in the class, since activations have far heavier tails than a normal distribution, and a network
    reacts to these.

    Attributes:
        layers: whose outputs they are.
        means: (m, D) of each of the m classes described.
        directions: (m, r, D) principal directions, each as long as the standard deviation along it.
        roots: square roots of the covariance of channels and of that of places, for each layer.
        plain: (m, channels of all layers, q) quantiles of draws before they are mapped.
        seen: (m, channels of all layers, q) those of the data.
    """

    layers: Layers
    means: Tensor
    directions: Tensor
    roots: tuple[tuple[Tensor, Tensor], ...]
    plain: Tensor
    seen: Tensor

    def __post_init__(self) -> None:
        """Raise a ValueError where the parts do not fit together."""
        m, width = self.means.shape
        if width != sum(_size(shape) for _, shape in self.layers):
            raise ValueError("its activations do not fit their layers")
        shapes = [part.shape[1:] for part in planes(self.means[:1], self.layers)]
        roots = [(len(channels), len(places)) for channels, places in self.roots]
        tables = (m, sum(channels for channels, _ in shapes))
        fit = self.plain.shape == self.seen.shape and self.plain.shape[:2] == tables
        along = (len(self.directions), *self.directions.shape[2:]) == (m, width)
        if not (m and fit and along and roots == [tuple(shape) for shape in shapes]):
            raise ValueError("its activations do not fit together")

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        tables = {name: getattr(self, name) for name in TABLES}
        for i, (channels, places) in enumerate(self.roots):
            tables |= {f"channels.{i}": channels, f"places.{i}": places}
        return tables

    @classmethod
    def of(cls, layers: Layers, tensors: Mapping[str, Tensor]) -> Self:
        """What :meth:`tensors` took apart.

        Raises:
            KeyError, ValueError: a part is missing, or of another shape.
        """
        numbers = range(len(layers))
        roots = tuple((tensors[f"channels.{i}"], tensors[f"places.{i}"]) for i in numbers)
        return cls(layers, roots=roots, **{name: tensors[name] for name in TABLES})

    def draw(self, count: int, generator: torch.Generator, shares: Tensor) -> tuple[Tensor, ...]:
        """What the layers might give for ``count`` images: (count, ...) each.

        Their classes are random, each class described as often as its share (m,) says.
        """
        drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
        classes = drawn.sort().values
        rows = self.unmapped(classes, generator)
        for label in classes.unique().tolist():
            own = classes == label
            rows[own] = self._mapped(rows[own], label)
        return self._by_layer(rows)

    def centres(self) -> tuple[Tensor, ...]:
        """The mean output of each layer for each class described: (m, ...) each."""
        return self._by_layer(self.means)

    def distances(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """How far outputs (n, D) lie from the mean of each class, and from its directions' span.

        Both are (n, m).
        """
        from_means, from_spans = [], []
        for mean, along in zip(self.means, self.directions, strict=True):
            unit = along / along.norm(dim=1, keepdim=True).clamp_min(1e-12)
            apart = rows - mean
            from_means.append(apart.norm(dim=1))
            from_spans.append((apart - (apart @ unit.T) @ unit).norm(dim=1))
        return torch.stack(from_means, dim=1), torch.stack(from_spans, dim=1)

    def unmapped(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Draws (n, D) of sorted classes (n,), before their values are mapped."""
        along = torch.randn(len(classes), self.directions.shape[1], generator=generator)
        rows = self.means[classes]
        for label in classes.unique().tolist():
            own = classes == label
            rows[own] += along[own] @ self.directions[label]
        rest = []
        for (channels, places), (_, shape) in zip(self.roots, self.layers, strict=True):
            normal = torch.randn(len(rows), len(channels), len(places), generator=generator)
            rest.append(as_given(channels @ normal @ places, shape))
        return rows.add_(torch.cat(rest, dim=1))

    def _by_layer(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The output of each layer, of rows (n, D) of all of them."""
        parts = rows.split([_size(shape) for _, shape in self.layers], dim=1)
        return tuple(
            part.view(len(rows), *shape)
            for part, (_, shape) in zip(parts, self.layers, strict=True)
        )

    def _mapped(self, rows: Tensor, label: int) -> Tensor:
        """Draws (n, D) of one class, with values that its channels take."""
        tables = self.plain[label], self.seen[label]
        first, made = 0, []
        for part, (_, shape) in zip(planes(rows, self.layers), self.layers, strict=True):
            channels = part.shape[1]
            plain, seen = (table[first : first + channels] for table in tables)
            first += channels
            values = part.transpose(0, 1)
            flat = values.flatten(1)
            above = torch.searchsorted(plain, flat).clamp(1, plain.shape[1] - 1)
            low, high = plain.gather(1, above - 1), plain.gather(1, above)
            share = ((flat - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
            new = torch.lerp(seen.gather(1, above - 1), seen.gather(1, above), share)
            made.append(as_given(new.view(values.shape).transpose(0, 1), shape))
        return torch.cat(made, dim=1)


def planes(rows: Tensor, layers: Layers) -> Iterator[Tensor]:
    """The outputs of each layer (n, channels, places), of rows (n, D) of all of them.

    >>> one, two = planes(torch.zeros(2, 54), (("conv", (2, 3, 4)), ("tokens", (10, 3))))
    >>> one.shape, two.shape
    (torch.Size([2, 2, 12]), torch.Size([2, 3, 10]))
    """
    sizes = [_size(shape) for _, shape in layers]
    for part, (_, shape) in zip(rows.split(sizes, dim=1), layers, strict=True):
        full = shape if len(shape) > 1 else (*shape, 1)
        yield part.reshape(-1, *full).movedim(1 + channel_axis(shape), 1).flatten(2)


def as_given(parts: Tensor, shape: Shape) -> Tensor:
    """Rows (n, values) of a layer whose outputs have this shape, from (n, channels, places)."""
    axis = channel_axis(shape)
    places = [side for i, side in enumerate(shape) if i != axis]
    return parts.reshape(*parts.shape[:2], *places).movedim(1, 1 + axis).flatten(1)


def channel_axis(shape: Sequence[int]) -> int:
    """Where a layer's channels are: last in tokens (n, c) and in (h, h, c), else first.

    >>> [channel_axis(shape) for shape in ((32, 16, 16), (14, 14, 384), (197, 192), (64,))]
    [0, 2, 1, 0]
    """
    if len(shape) == 3:
        return 2 if shape[0] == shape[1] != shape[2] else 0
    return len(shape) - 1


def _size(shape: Shape) -> int:
    return torch.Size(shape).numel()
