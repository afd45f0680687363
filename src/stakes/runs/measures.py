"""Measures of the user's own: functions in a Python file, named as ``--metric FILE.py:NAME``."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.errors import InputError
from stakes.models.classifier import Classifier
from stakes.models.own_code import run_file, theirs
from stakes.texts import expanded

Measure = Callable[[Classifier], float]


class Given(NamedTuple):
    """What a measure is given with the classifier.

    Attributes:
        forget: the images to forget, float (k, 3, h, w) in [0, 1], with labels.
        test: test images, or None.
        retain: training images, or None; the images to forget may be among them.
    """

    forget: ForgetSet
    test: Images | None
    retain: Images | None


def own_measures(
    words: Sequence[str],
    forget: ForgetSet,
    test: Images | None = None,
    retain: Images | None = None,
) -> dict[str, Measure]:
    """The functions that the words name, by their names, ready for ``evaluate(metrics=...)``.

    Args:
        words: ``path/to/file.py:function``; the file is run. The function takes a classifier in
            eval mode and :class:`Given`, and returns a number.
        forget: what the functions are given with the classifier.
        test: likewise.
        retain: likewise.

    Raises:
        InputError: not of this form, no such file or function, code that fails, or a name twice.
    """
    given, found = Given(forget, test, retain), dict[str, Measure]()
    for word in words:
        path, colon, name = word.rpartition(":")
        if not colon or not path.endswith(".py"):
            raise InputError(f"--metric {word}: wanted path/to/file.py:function")
        function = getattr(run_file(expanded(path), "--metric"), name, None)
        if not callable(function):
            raise InputError(f"--metric {word}: no function {name} in {path}; name one of it")
        if name in found:
            raise InputError(f"--metric {word}: {name} appears twice; rename one")
        found[name] = partial(_measured, function, given, word)
    return found


def tried(measures: dict[str, Measure], classifier: Classifier) -> dict[str, Measure]:
    """The measures, each called once: one that fails is to fail before long work.

    Raises:
        InputError: one that fails, or gives no number.
    """
    with torch.no_grad():
        for measure in measures.values():
            measure(classifier.eval())
    return measures


def _measured(
    function: Callable[[Classifier, Given], float], given: Given, word: str, classifier: Classifier
) -> float:
    with theirs(f"--metric {word}"):
        value = function(classifier.copy().eval(), given)  # whatever it does to it
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"--metric {word} gives {type(value).__name__}; return a number"
        ) from error
