"""Whether a classifier, as it reads images, gives what the service's own code gives."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from PIL import Image

from stakes.errors import InputError
from stakes.models.classifier import Classifier
from stakes.models.heads import logits_of
from stakes.models.transforms import Transform, given
from stakes.preprocessing import unit_range


class Agreement(NamedTuple):
    """The largest differences between two readings of the same images."""

    images: int
    """how many were compared"""
    pixels: float
    """of pixels in [0, 1]"""
    logits: float
    answers: int
    """images that the two give another class"""

    def __str__(self) -> str:
        """For a person.

        >>> str(Agreement(16, 1e-7, 2e-5, 0))
        '16 images compared: pixels differ by up to 1e-07, logits by 2e-05, answers on 0'
        """
        return (
            f"{self.images} images compared: pixels differ by up to {self.pixels:.1g}, "
            f"logits by {self.logits:.1g}, answers on {self.answers}"
        )


@torch.no_grad()
def agreement(classifier: Classifier, images: Iterable[Image.Image]) -> Agreement | None:
    """Compare a classifier on images that it reads with its plain network on what its code gives.

    Args:
        classifier: its ``preprocessing`` is a :class:`stakes.models.transforms.Transform`.
        images: as they are opened; None is returned where there are none.

    Raises:
        InputError: the code fails on an image, or the classifier reads without such code.
    """
    read, network = classifier.preprocessing, classifier.network().eval()
    if not isinstance(read, Transform):
        raise InputError("only a transform can be compared with; give --transform")
    differences: list[tuple[float, float, bool]] = []
    for image in images:
        theirs = given(read.code, image, read.words, read.opening)
        pixels = unit_range(read(image))
        wanted = (theirs - read.low[:, None, None]) / (read.high - read.low)[:, None, None]
        ours = classifier(pixels[None].to(classifier.device))[0]
        logits = logits_of(network(theirs[None].to(classifier.mean)))[0]
        differences.append((
            float((pixels - wanted).abs().max()),
            float((ours - logits).abs().max()),
            bool(ours.argmax() != logits.argmax()),
        ))  # fmt: skip
    if not differences:
        return None
    pixels_off, logits_off, others = zip(*differences, strict=True)
    return Agreement(len(differences), max(pixels_off), max(logits_off), sum(others))


def compared(found: Agreement | None) -> dict[str, float | None]:
    """What a row says of a comparison, or of there being none."""
    images, pixels, logits, answers = (None,) * 4 if found is None else found
    return {
        "preprocessing_compared": images,
        "preprocessing_pixels_off": pixels,
        "preprocessing_logits_off": logits,
        "preprocessing_answers_off": answers,
    }
