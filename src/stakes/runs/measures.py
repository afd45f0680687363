"""Measures of the user's own: functions in a Python file, named as ``--metric FILE.py:NAME``."""

from collections.abc import Mapping, Sequence

from stakes.errors import InputError
from stakes.evaluation.own import Given, Measure, check_measures, measured
from stakes.models.classifier import Classifier
from stakes.models.own_code import run_file
from stakes.texts import expanded


def own_measures(words: Sequence[str]) -> dict[str, Measure]:
    """The functions that the words name, by their names, as ``evaluate(metrics=...)`` takes them.

    Args:
        words: ``path/to/file.py:function``; the file is run.

    Raises:
        InputError: not of this form, no such file or function, code that fails, a name twice, or
            a function that takes other arguments.
    """
    found = dict[str, Measure]()
    for word in words:
        path, colon, name = word.rpartition(":")
        if not colon or not path.endswith(".py"):
            raise InputError(f"--metric {word}: expected path/to/file.py:function")
        function = getattr(run_file(expanded(path), "--metric"), name, None)
        if not callable(function):
            raise InputError(f"--metric {word}: no function {name} in {path}; name one that exists")
        if name in found:
            raise InputError(f"--metric {word}: {name} appears twice; rename one")
        found[name] = function
    check_measures(found)
    return found


def tried(measures: Mapping[str, Measure], classifier: Classifier, given: Given) -> None:
    """Call each measure once: one that fails is to fail before long work.

    Raises:
        InputError: one that fails, or gives no number.
    """
    for name, measure in measures.items():
        measured(name, measure, classifier, given)
