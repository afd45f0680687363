"""Rows of a benchmark -> tables: per network, k and method the mean and spread over seeds.

A row is that of a run with two words more: ``cell_network`` and ``cell_method``, the names to
show. Nothing is measured here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stakes.report.records import minus, number, preserved
from stakes.report.verdict import DAMAGE
from stakes.rows import Stat, stat
from stakes.runs.columns import CHANGES, COLUMNS, measure

Row = Mapping[str, Any]


#: What a network that works is ahead in of one that does not.
ACCURACIES = ("acc_test", "change_acc_test", "acc_retain", "change_acc_retain")
#: Where whole classes are forgotten, more is no better here: their test images are among these.
TESTED = {"acc_test", "change_acc_test"}
BETTER = {"higher": 1, "lower": -1}


#: The columns that say how well is forgotten; only here does a run compete that left some known.
FORGETTING = {
    "forgotten", "change_forgotten", "forget_top2", "forget_top5", "forget_true_probability",
    "forget_views", "forget_flip", "foretold", "acc_test_forgotten_classes",
    "retrieval_forget_r1", "retrieval_forget_map",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A line of the table; ``kind`` is ``before``, ``ours`` or ``paper``.

    ``best`` are the columns in which the line is ahead of all others of its network and k.
    """

    network: str
    k: int | None
    method: str
    kind: str
    n: int
    stats: Mapping[str, Stat]
    best: frozenset[str] = field(default=frozenset())

    @property
    def label(self) -> str:
        """What stands in the column of methods."""
        return f"paper: {self.method}" if self.kind == "paper" else self.method


def ahead(stats: Mapping[str, Stat], better: int, least: float = 0.0) -> str | None:
    """Whose mean leads every other by more than the sum of both spreads; None if no one's does.

    Args:
        stats: name -> its numbers; all need a spread, and there are at least two.
        better: 1 where more is better, -1 where less is, 0 where neither is.
        least: a lead below this is none.

    >>> ahead({"a": Stat(3, 90.0, 1.0), "b": Stat(3, 87.0, 1.5)}, 1)
    'a'
    >>> ahead({"a": Stat(3, 90.0, 1.0), "b": Stat(3, 87.5, 1.5)}, 1) is None
    True
    """
    if len(stats) < 2 or not better:
        return None
    first = max(stats, key=lambda name: better * stats[name].mean)
    own = stats[first]
    for other in (stats[name] for name in stats if name != first):
        if own.sd is None or other.sd is None:
            return None
        lead = better * (own.mean - other.mean)
        if lead <= own.sd + other.sd or lead < least:
            return None
    return first


def summarise(
    rows: Sequence[Row], paper: Sequence[Row] = (), more: Sequence[str] = ()
) -> list[Line]:
    """The lines of the table, in the order in which the rows name networks, k and methods.

    Args:
        rows: of the runs, one a network, method, k and seed.
        paper: numbers printed elsewhere: ``method``, ``k``, ``forgotten``, ``acc_test``,
            ``acc_retain``; they stand below the lines of every network with that k, or without
            a k below all.
        more: keys of rows, beside :data:`COLUMNS`, to have the mean of.
    """
    lines, keys = [], list(dict.fromkeys([*COLUMNS, *more]))
    by_network = grouped(rows, "cell_network").values()
    for (network, k), group in [pair for own in by_network for pair in _by_k(own)]:
        lines.append(_before(network, k, group, keys))
        methods = {method: own for (method,), own in grouped(group, "cell_method").items()}
        ours = {
            method: _stats([_measured(row, keys) for row in own]) for method, own in methods.items()
        }
        best = _best(ours, {method for method, own in methods.items() if not _collapsed(own)})
        if any(row.get("forgotten_classes") for row in group):
            best = {method: keys - TESTED for method, keys in best.items()}
        for method, stats in ours.items():
            n = sum(row["cell_method"] == method for row in group)
            lines.append(Line(network, k, method, "ours", n, stats, best[method]))
        printed = [row for row in paper if row.get("k", k) == k]
        lines += [_paper_line(network, k, row, printed) for row in printed]
    return lines


def filled(lines: Iterable[Line]) -> set[str]:
    """The columns that hold a number in at least one line."""
    return {key for line in lines for key in line.stats}


def _measured(row: Row, keys: Sequence[str]) -> dict[str, float | None]:
    """The columns of one row; None where it was not measured."""
    values: dict[str, float | None] = {}
    for key in keys:
        if key in CHANGES:
            values[key], before = _share(row, key), _share(row, key, "_before")
            values[f"change_{key}"] = minus(values[key], before)
        elif not key.startswith("change_"):
            values[key] = number(row.get(key))
    return values


def _share(row: Row, key: str, suffix: str = "") -> float | None:
    """An accuracy; ``forgotten`` is 100 less that on the forget images."""
    if key == "forgotten":
        return minus(100.0, number(row.get(f"acc_forget{suffix}")))
    return number(row.get(f"{key}{suffix}"))


def _stats(measured: Sequence[Mapping[str, float | None]]) -> dict[str, Stat]:
    """Column -> its numbers over rows; what no row has measured is left out."""
    found = {}
    for key in dict.fromkeys(key for each in measured for key in each):
        if (numbers := stat(each.get(key) for each in measured)) is not None:
            found[key] = numbers
    return found


def _before(network: str, k: int | None, group: Sequence[Row], keys: Sequence[str]) -> Line:
    """The network before unlearning, scored once a seed whatever the number of methods."""
    seeds = {row.get("seed"): row for row in reversed(group)}
    own = [key for key in keys if not key.startswith("change_")]
    before = [{key: _share(row, key, "_before") for key in own} for row in seeds.values()]
    return Line(network, k, "Before", "before", len(seeds), _stats(before))


def _paper_line(network: str, k: int | None, row: Row, printed: Sequence[Row]) -> Line:
    """A printed row, with its changes where the same table has a line Before."""
    first: Row = next((other for other in printed if other["method"] == "Before"), {})
    values: dict[str, float | None] = {}
    for key in CHANGES:
        values[key] = number(row.get(key))
        if row is not first:
            values[f"change_{key}"] = minus(values[key], number(first.get(key)))
    return Line(network, k, str(row["method"]), "paper", 0, _stats([values]))


def _best(ours: Mapping[str, Mapping[str, Stat]], whole: set[str]) -> dict[str, frozenset[str]]:
    """Method -> the columns in which it is ahead, of those whose network is ``whole``."""
    full = {
        method
        for method, stats in ours.items()
        if "forgotten" in stats and math.isclose(stats["forgotten"].mean, 100.0)
    }
    best: dict[str, set[str]] = {method: set() for method in ours}
    for key in dict.fromkeys(key for stats in ours.values() for key in stats):
        compete = whole if key in FORGETTING else full if key in ACCURACIES else full & whole
        stats = {
            method: ours[method][key]
            for method in ours
            if method in compete and key in ours[method]
        }
        column = measure(key)
        winner = ahead(stats, BETTER.get(column.better, 0), 10.0**-column.digits)
        if winner in whole:
            best[winner].add(key)
    return {method: frozenset(keys) for method, keys in best.items()}


def _collapsed(rows: Sequence[Row]) -> bool:
    """Whether a method's networks lost so much that forgetting is no merit."""
    changes = _stats([preserved(row) for row in rows]).values()
    return min((change.mean for change in changes), default=0.0) <= -DAMAGE


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values under ``keys``, in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def _by_k(rows: Sequence[Row]) -> list[tuple[tuple[str, int | None], list[Row]]]:
    groups = grouped(rows, "cell_network", "k").items()
    return sorted((((n, k), own) for (n, k), own in groups), key=lambda pair: pair[0][1] or 0)
