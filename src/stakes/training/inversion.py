"""Surrogate data made from the BatchNorm statistics of a trained network."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stakes.training import distributed
from stakes.training.moments import Layers, Moments, mismatch, placed, running, watched
from stakes.training.schedule import Schedule
from stakes.training.steps import take_steps

STEP, DECAYS = 0.1, 0.3  # Adam's learning rate, and the last part of the steps, in which it decays
STATISTICS_WEIGHT, RANGE_WEIGHT = 10.0, 100.0
FEATURES_WEIGHT = 1.0  # of the squared distance from the features asked for, in variances
FAINTEST = 1e-3  # of the strongest frequency: a fainter one counts as strong as this


class Whitening:
    """A linear map between images (n, 3, h, w) and coefficients of about unit variance.

    Coefficients (n, 3, h, w // 2 + 1, 2) are those of the Fourier transform, each divided by the
    root mean square it has over some natural images, of colours that are uncorrelated over them.
    Gradient steps on such coefficients change an image as natural images differ, mostly at low
    frequencies, where steps on its pixels would add noise (Olah et al., "Feature Visualization",
    Distill 2017).

    >>> x = torch.rand(4, 3, 8, 6)
    >>> whitening = Whitening(x)
    >>> torch.allclose(whitening.images(whitening.coefficients(x)), x, atol=1e-4)
    True
    """

    def __init__(self, images: Tensor) -> None:
        self._size = images.shape[-2:]
        self._mean = images.mean((0, 2, 3), keepdim=True)
        colours = (images - self._mean).transpose(0, 1).flatten(1)
        covariance = colours @ colours.T / colours.shape[1]
        ridge = 1e-5 * torch.eye(len(covariance)).to(covariance)  # grey images have one colour
        self._mix = torch.linalg.cholesky(covariance + ridge)
        self._unmix = torch.linalg.inv(self._mix)
        power = self._transform(images).abs().square().mean((0, 1))
        self._amplitude = power.sqrt().clamp_min(FAINTEST * float(power.max().sqrt()))

    def coefficients(self, images: Tensor) -> Tensor:
        """The coefficients of images of the given ones' height and width."""
        return torch.view_as_real(self._transform(images) / self._amplitude).contiguous()

    def images(self, coefficients: Tensor) -> Tensor:
        """The images that have these coefficients, beyond [0, 1] in places."""
        spectrum = torch.view_as_complex(coefficients) * self._amplitude
        colours = torch.fft.irfft2(spectrum, s=self._size)
        return self._mean + torch.einsum("ij,njhw->nihw", self._mix, colours)

    def _transform(self, images: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft2(
            torch.einsum("ij,njhw->nihw", self._unmix, images - self._mean)
        )
        return spectrum


def inverted(
    network: nn.Module,
    start: Tensor,
    targets: Tensor,
    whitening: Whitening,
    *,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 256,
    passes: AbstractContextManager[object] | None = None,
    moments: Moments | None = None,
    features: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Optimise images until their BatchNorm statistics match those of the training data.

    Each batch minimises, by Adam over ``steps`` steps::

        CE(logits, targets) + 10 mean_l (|m_l - M_l|^2 + |s_l - S_l|^2) / S_l^2 + 100 beyond

    with m_l, s_l the batch's mean and standard deviation at the input of layer l, M_l, S_l those
    that the layer keeps (means over channels are taken), and the mean square by which pixels lie
    beyond [0, 1]. In every step the images are moved by up to an eighth of the side and mirrored
    or not, alike for the batch, so that no pixel counts by itself. After Yin et al., "Dreaming to
    Distill" (CVPR 2020, DeepInversion), and different in what is varied (see :class:`Whitening`)
    and where it starts.

    Args:
        network: images in [0, 1] to logits (n, c), in eval mode, its weights frozen.
        start: (n, 3, h, w) in [0, 1]; the more natural, the more natural is what comes out.
        targets: (n,) classes.
        whitening: of natural images of the same height and width.
        steps: for each batch.
        generator: a CPU generator, for the moves.
        batch_size: images whose statistics are matched together.
        passes: entered around each pass through the network (see :mod:`stakes.training.precision`).
        moments: of layers, where they were kept beside the network (see
            :func:`stakes.training.moments.observed`), in place of what BatchNorm layers keep.
        features: (n, d) that the head is to read in each image, where such are given: their
            squared distance, in variances, is then added. The network has to be a classifier.
        progress: called with (steps done, steps in all).

    Returns:
        (n, 3, h, w) in [0, 1].

    Raises:
        ValueError: no layer keeps statistics, and no moments are given.
    """
    layers = running(network) if moments is None else placed(network, moments)
    if not layers:
        raise ValueError("no BatchNorm layer of the network keeps running statistics")
    spread = 1.0 if features is None else float(features.var(0, correction=0).sum())
    batches = list(zip(start.split(batch_size), targets.split(batch_size), strict=True))
    made = []
    progress(0, len(batches) * steps)
    for index, (images, classes) in enumerate(batches):
        coefficients = whitening.coefficients(images).requires_grad_()
        first = index * batch_size
        aim = None if features is None else features[first : first + len(images)]
        terms = _Terms(
            network, coefficients, classes, whitening, generator, passes, layers, aim, spread
        )
        optimizer = torch.optim.Adam([coefficients], lr=STEP, betas=(0.5, 0.9))
        schedule = Schedule(
            optimizer, size=lambda step: STEP * min(1.0, (steps - step + 1) / (DECAYS * steps))
        )
        for step in take_steps(terms, optimizer, range(1, steps + 1), schedule=schedule):
            progress(index * steps + step.number, len(batches) * steps)
        made.append(whitening.images(coefficients.detach()).clamp(0, 1))
    return torch.cat(made)


@dataclass
class _Terms:
    """The loss terms of one batch, already weighted; the fields are as above."""

    network: nn.Module
    coefficients: Tensor
    classes: Tensor
    whitening: Whitening
    generator: torch.Generator
    passes: AbstractContextManager[object] | None
    layers: Layers
    aim: Tensor | None
    spread: float

    def __call__(self, step: int) -> dict[str, Tensor]:
        shown = self.whitening.images(self.coefficients)
        found: list[Tensor] = []

        def see(layer: nn.Module, x: Tensor) -> None:
            found.append(mismatch(layer, x, self.layers[layer]))

        # Every process passes all rows: statistics are of all of them.
        with distributed.alone(), self.passes or nullcontext(), watched(self.layers, see):
            moved = _moved(shown, self.generator)
            if self.aim is None:
                logits = self.network(moved)
            else:
                features, logits = _both(self.network, moved)
        terms = {
            "class": F.cross_entropy(logits.float(), self.classes),
            "statistics": STATISTICS_WEIGHT * torch.stack(found).mean(),
            "range": RANGE_WEIGHT * (shown - shown.clamp(0, 1)).square().mean(),
        }
        if self.aim is not None:
            far = (features - self.aim).square().sum(1).mean() / self.spread
            terms["features"] = FEATURES_WEIGHT * far
        return terms


def _both(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits, of a classifier that gives both."""
    features, logits = network.both(images)  # type: ignore[operator]
    return features.float(), logits


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images moved by one random distance, the gap filled by reflection, mirrored or not."""
    height, width = images.shape[2:]
    reach = max(1, min(height, width) // 8)
    top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    moved = padded[:, :, top : top + height, left : left + width]
    return moved.flip(3) if int(torch.randint(0, 2, (1,), generator=generator)) else moved
