"""Measures of the user's own: how one is called, and what may go wrong in it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.errors import InputError
from stakes.models.classifier import Classifier
from stakes.models.own_code import theirs


class Given(NamedTuple):
    """What a measure is given with the classifier.

    Attributes:
        forget: the images to forget, float (k, 3, h, w) in [0, 1], with labels; on the
            classifier's device.
        test: test images, or None.
        retain: training images, or None; the images to forget may be among them.
    """

    forget: ForgetSet
    test: Images | None = None
    retain: Images | None = None


Measure = Callable[[Classifier, Given], float]
"""A measure of one's own: of a classifier in eval mode and :class:`Given`, a number."""


def check_measures(measures: Mapping[str, Measure], other: Iterable[str] = ()) -> None:
    """Refuse, before anything is scored, what cannot be called as a measure is.

    Args:
        measures: by their keys in the row.
        other: names of networks that are scored beside the ones before and after.

    Raises:
        InputError: one that is no function of a classifier and :class:`Given`; or a key that
            another measure has for one of these networks.
    """
    if not isinstance(measures, Mapping):
        raise InputError(
            f"metrics are a {type(measures).__name__}; give a dict of functions by name"
        )
    for name, measure in measures.items():
        for key in (f"{name}_{network}" for network in ("before", *other)):
            if key in measures:
                raise InputError(
                    f"metric {key}: in the row, this is {name} of another network; rename one"
                )
        if not callable(measure):
            raise InputError(f"metric {name} is {type(measure).__name__}; give a function")
        try:
            found = inspect.signature(measure)
        except ValueError:  # written in C: nothing says what it takes
            continue
        try:
            found.bind(None, None)
        except TypeError as error:
            raise InputError(
                f"metric {name} takes {found}; it is called with the classifier and what is given "
                f"to measure: write def {name}(classifier, given)"
            ) from error


@torch.no_grad()
def measured(name: str, measure: Measure, classifier: Classifier, given: Given) -> float:
    """The number that a measure gives for a copy of the classifier, in eval mode.

    Raises:
        InputError: it fails, or gives no number.
    """
    network = classifier.copy().eval()  # whatever the measure does to it, images and labels
    forget = given.forget.to(classifier.device)
    own = replace(forget, images=forget.images.clone(), labels=forget.labels.clone())
    given = given._replace(forget=own)
    with theirs(f"metric {name}"):
        value = measure(network, given)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"metric {name} gives {type(value).__name__}; return a number") from error
