"""A sidecar made from training data: one pass for the statistics, then images fitted to them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from stakes.data.activations import Activations
from stakes.data.images import Images, batches
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.sidecar.contents import Sidecar
from stakes.sidecar.fit import fitted
from stakes.sidecar.layers import UnchangedLayers
from stakes.training.inversion import Whitening, inverted
from stakes.training.moments import observed
from stakes.training.precision import autocast

IMAGES, LEAST = 256, 32  # synthetic images, and as few as that where they are large
ROOM = 4 * 2**20  # bytes for images, and as many values of covariances at half width
SAMPLE = 2048  # training images that the spectrum is taken over
STEPS = 100  # of fitting
BATCH = 256


def make(
    classifier: Classifier,
    train: Images,
    *,
    count: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = silent,
) -> Sidecar:
    """Summarise training data for the day when it is gone.

    One pass over the data gives the mean and covariance of each class's features, and the moments
    of the inputs of every normalising layer; another, over as many images as memory allows, the
    distribution of what the layers give that unlearning leaves as they are. Synthetic images are
    then fitted to features and moments, beginning with noise of the data's mean spectrum (see
    :func:`stakes.training.inversion.inverted`): each is to have features drawn from the normal
    distribution of its class, and each batch the layers' moments. No training image, and no
    mixture of any, is in them.

    Args:
        classifier: the trained network.
        train: its training images.
        count: synthetic images; by default 256, or as many as fit into 4 MiB, at the least 32.
        steps: of fitting them.
        seed: of every random choice.
        progress: called with phase, steps done, steps in all and a note.

    Raises:
        InputError: a damaged image.
    """
    network = classifier.copy().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    gathered = _Features(network.num_classes, network.feature_width)
    moments = observed(network, _shown(network, train, gathered, progress), gathered.add)
    means, covariances = gathered.moments()
    some = torch.randperm(len(train), generator=generator)[:SAMPLE]
    sample = train.load(some)
    whitening = Whitening(sample.to(network.device))
    each = sample[0].numel()
    count = count or max(LEAST, min(IMAGES, ROOM // each))
    order = torch.randperm(network.num_classes, generator=generator)
    labels = order.repeat(-(-count // len(order)))[:count]
    shape = whitening.coefficients(sample[:1].to(network.device)).shape[1:]
    noise = torch.randn(count, *shape, generator=generator) / 2**0.5
    images = inverted(
        network,
        whitening.images(noise.to(network.device)).clamp(0, 1),
        labels.to(network.device),
        whitening,
        steps=steps,
        generator=generator,
        batch_size=BATCH,
        passes=autocast("auto", network.device),
        moments=moments,
        features=_drawn(means, covariances, labels, generator).to(network.device),
        progress=lambda done, total: progress("fitting images", done, total),
    )
    activations = _activations(network, train, seed, progress)
    card = {
        "weights_digest": classifier.digest(),
        "training_images": len(train),
        "class_names": list(classifier.class_names),
        "seed": seed,
        "steps": steps,
    }
    pixels = (images * 255).round().to(torch.uint8).cpu()
    counts = gathered.counts
    return Sidecar(pixels, labels, means, covariances, counts, moments, card, activations)


class _Features:
    """Sums over the features of each class; each image counts for its label."""

    def __init__(self, classes: int, width: int) -> None:
        self.labels = torch.empty(0, dtype=torch.int64)
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self._own = classes * width * width <= ROOM // 2
        self._sums = torch.zeros(classes, width, dtype=torch.float64)
        self._squares = torch.zeros(classes if self._own else 1, width, width, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        rows, labels = features.double().cpu(), self.labels
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self._sums.index_add_(0, labels, rows)
        if not self._own:
            self._squares[0] += rows.T @ rows
            return
        for label in labels.unique().tolist():
            own = rows[labels == label]
            self._squares[label] += own.T @ own

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (c, d), and covariances (c, d, d) or the one within all classes (1, d, d)."""
        n = self.counts.clamp_min(1).double()
        means = self._sums / n[:, None]
        outer = torch.einsum("ci,cj->cij", means, means)
        if self._own:
            return means.float(), (self._squares / n[:, None, None] - outer).float()
        within = self._squares[0] - (outer * n[:, None, None]).sum(0)
        return means.float(), (within / n.sum())[None].float()


def _activations(
    network: Classifier, train: Images, seed: int, progress: Progress
) -> Activations | None:
    """What the layers that unlearning leaves as they are give for training images."""
    layers = UnchangedLayers(network, train.load(range(1))[0])
    if not layers.read:
        return None
    some = layers.sample(len(train), seed)
    outputs = layers.outputs(train, some, progress)
    generator = torch.Generator().manual_seed(seed)
    return fitted(outputs, train.labels[some], layers.read, room=ROOM, generator=generator)


def _shown(
    network: Classifier, train: Images, gathered: _Features, progress: Progress
) -> Iterator[Tensor]:
    """Batches of training images, whose labels the features will be counted for."""
    for number, (images, labels) in enumerate(batches(train, batch_size=BATCH), 1):
        gathered.labels = labels
        yield images.to(network.device)
        progress("reading training data", min(number * BATCH, len(train)), len(train))


def _drawn(
    means: Tensor, covariances: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Features (n, d) from the normal distributions of the classes, none of a negative variance."""
    values, vectors = torch.linalg.eigh(covariances.double())
    roots = vectors * values.clamp_min(0).sqrt()[:, None]
    own = roots[labels] if len(roots) > 1 else roots.expand(len(labels), -1, -1)
    normal = torch.randn(len(labels), means.shape[1], generator=generator, dtype=torch.float64)
    return (means[labels] + torch.einsum("nij,nj->ni", own, normal)).float()
