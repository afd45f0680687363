"""Fits the distribution of a layer's activations to those for training images."""

import torch
from torch import Tensor

from stakes.data.activations import Activations, Layers, planes

LEAST = 256  # images of a class at least: a mean of few lies nearer to each of them than to others
SHARE = 100  # images for each of its directions, at least
DIRECTIONS = 32  # of a class at most
SPARE, ROUNDS = 8, 4  # of the subspace iteration that finds them
DRAWS = 256  # of each class, whose values the data's are compared with
LEVELS, EXTREME = 64, 3.5  # quantiles, the outermost at so many standard deviations
CHUNK = 256


def fitted(
    outputs: Tensor, labels: Tensor, layers: Layers, *, room: int, generator: torch.Generator
) -> Activations | None:
    """The distribution of what layers give for the images of each class.

    Nothing is kept of a class with fewer than 256 images, and one direction of it for every 100 at
    the most: means and directions of few images lie nearer to these than to others.

    Args:
        outputs: (n, D), what all layers give for an image in a row.
        labels: (n,) the classes of the images.
        layers: names and shapes of the outputs.
        room: bytes that the result may take in a file: directions at 8 bits, the rest at 16.
        generator: for finding directions, and for the draws that values are compared with.

    Returns:
        None where no class has enough images, or the means alone would take too much room.
    """
    counts = torch.bincount(labels)
    classes = (counts >= LEAST).nonzero()[:, 0].tolist()
    if not classes:
        return None
    shapes = [part.shape[1:] for part in planes(outputs[:1], layers)]
    tables = 2 * LEVELS * len(classes) * sum(channels for channels, _ in shapes)
    covariances = sum(channels**2 + places**2 for channels, places in shapes)
    width = outputs.shape[1]
    values = len(classes) * width  # of the means, and of one direction
    most = (room - 2 * (tables + covariances + values)) // values
    if most < 0:
        return None
    most = min(most, DIRECTIONS, width, int(counts.max()) // SHARE)
    means, directions = torch.zeros(len(classes), width), torch.zeros(len(classes), most, width)
    seen = torch.zeros(len(classes), sum(channels for channels, _ in shapes), LEVELS)
    sums = [(torch.zeros(c, c), torch.zeros(p, p)) for c, p in shapes]
    for row, label in enumerate(classes):
        own = outputs[labels == label].float()
        seen[row] = _quantiles(own, layers)
        means[row] = own.mean(0)
        own -= means[row]
        kept = min(most, len(own) // SHARE)
        unit, spread = _principal(own, kept, generator)
        directions[row, :kept] = spread[:, None] * unit
        own -= (own @ unit.T) @ unit
        for chunk in own.split(CHUNK):
            for (between, across), part in zip(sums, planes(chunk, layers), strict=True):
                between += torch.einsum("ncp,ndp->cd", part, part)
                across += torch.einsum("ncp,ncq->pq", part, part)
    n = int(counts[classes].sum())
    roots = tuple(
        (_root(between / n), _root(across / across.trace().clamp_min(1e-12)))
        for between, across in sums
    )
    made = Activations(layers, means, directions, roots, plain=torch.zeros_like(seen), seen=seen)
    for row in range(len(classes)):
        drawn = made.unmapped(torch.full((DRAWS,), row), generator)
        made.plain[row] = _quantiles(drawn, layers)
    return made


def _principal(centred: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The first principal directions (count, D) of rows (n, D), and the deviations along them.

    By subspace iteration (Halko et al. 2011), since D may be too large for a covariance.
    """
    some = min(count + SPARE, *centred.shape)
    basis = torch.randn(centred.shape[1], some, generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, lengths, turned = torch.linalg.svd(centred @ basis, full_matrices=False)
    return turned[:count] @ basis.T, lengths[:count] / len(centred) ** 0.5


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root.float()


def _quantiles(rows: Tensor, layers: Layers) -> Tensor:
    """Of each channel's values over rows (n, D) and places: (channels of all layers, levels)."""
    levels = torch.special.ndtr(torch.linspace(-EXTREME, EXTREME, LEVELS))
    found = []
    for part in planes(rows, layers):
        values = part.transpose(0, 1).flatten(1).sort(dim=1).values
        found.append(values[:, (levels * (values.shape[1] - 1)).round().long()])
    return torch.cat(found)
