"""The columns of a benchmark's tables: what each holds, and which of them are shown."""

from collections.abc import Collection, Iterable, Sequence

from stakes.errors import InputError, nearest
from stakes.rows import COST, METRICS, Metric, printed_in

CHANGES = ("forgotten", "acc_test", "acc_retain")


def _columns() -> dict[str, Metric]:
    """Column -> its metric; ``change_*`` is after minus before, in points."""
    found: dict[str, Metric] = {}
    for key, metric in printed_in("bench").items():
        found[key] = metric
        if key in CHANGES:
            change = metric._replace(unit="points", label="change", latex=r"$\Delta$")
            found[f"change_{key}"] = change
    return found


COLUMNS = _columns()
#: Columns that stand in the Markdown and LaTeX tables only where they are asked for.
ON_REQUEST = tuple(key for key, metric in COLUMNS.items() if "asked" in metric.printed)
#: A LaTeX table fits on a page: so many columns, and these where none are chosen.
LATEX_COLUMNS = 7
FOR_LATEX = (
    "forgotten", "acc_test", "change_acc_test", "acc_retain", "change_acc_retain", "forget_views",
    "steps",
)  # fmt: skip


def measure(key: str) -> Metric:
    """What a column holds: a measure of this package, or any other number of the rows.

    >>> measure("acc_test").label, measure("relearn_forget").label, measure("mine").label
    ('A_test', 'Steps to relearn', 'mine')
    """
    found = COLUMNS.get(key) or METRICS.get(key) or COST.get(key) or Metric("", "reference", "")
    return found._replace(label=found.label or key)


def check_columns(words: Sequence[str], own: Iterable[str] = ()) -> list[str]:
    """The words that choose columns, all of them known: see :func:`columns`.

    Args:
        words: keys of measures, each with ``+``, ``-`` or nothing before it.
        own: keys beside those of this package.

    Raises:
        InputError: an unknown key (the nearest is named), or one that appears twice.
    """
    known = dict.fromkeys([*COLUMNS, *METRICS, *COST, *own])
    keys = [word.lstrip("+-") for word in words]
    for key in keys:
        if key not in known:
            raise InputError(f"columns: there is no {key}{nearest(key, known)}")
        if keys.count(key) > 1:
            raise InputError(f"columns: {key} appears twice; keep one")
    return list(words)


def over(recipe: Sequence[str], words: Sequence[str]) -> list[str]:
    """The recipe's words with the command line's over them: one word a key, the last counts.

    >>> over(["+mine", "-steps"], ["+steps"]), over(["+mine"], ["acc_test"])
    (['+mine', '+steps'], ['acc_test'])
    """
    if any(word[:1] not in "+-" for word in words):
        return list(words)
    keys = {word[1:] for word in words}
    return [word for word in recipe if word.lstrip("+-") not in keys] + list(words)


def columns(filled: Collection[str], words: Collection[str] = ()) -> list[str]:
    """The columns for a reader: by default all but those that nothing fills, or nobody asked for.

    Args:
        filled: those that hold a number (see :func:`stakes.runs.tables.filled`).
        words: ``+key`` adds a column, ``-key`` drops one; keys without a sign are all there are.
    """
    usual = [
        key
        for key, metric in COLUMNS.items()
        if key not in ON_REQUEST
        if key in filled or "measured" not in metric.printed
    ]
    chosen = [word for word in words if word[0] not in "+-"] or usual
    added = [word[1:] for word in words if word[0] == "+"]
    dropped = {word[1:] for word in words if word[0] == "-"}
    return [key for key in dict.fromkeys([*chosen, *added]) if key not in dropped]


def latex_columns(keys: Sequence[str], words: Collection[str] = ()) -> list[str]:
    """Those of the columns that a page has room for, the ones that were asked for first."""
    asked = [word.lstrip("+") for word in words]
    first = [key for key in dict.fromkeys([*asked, *FOR_LATEX, *keys]) if key in keys]
    return [key for key in keys if key in first[:LATEX_COLUMNS]]
