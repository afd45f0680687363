"""Rows of a benchmark -> tables: per network, k and method the mean and spread over seeds.

A row is that of a run with two words more: ``cell_network`` and ``cell_method``, the names to
show. Nothing is measured here.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stakes.errors import InputError, nearest
from stakes.report.records import minus, number
from stakes.report.verdict import DAMAGE
from stakes.rows import COST, METRICS, Metric, Outcome, Stat, printed_in, stat

Row = Mapping[str, Any]


CHANGES = ("forgotten", "acc_test", "acc_retain")
#: What a network that works is ahead in of one that does not.
ACCURACIES = ("acc_test", "change_acc_test", "acc_retain", "change_acc_retain")
BETTER = {"higher": 1, "lower": -1}


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
#: The columns that say how well is forgotten; only here does a run compete that left some known.
FORGETTING = {
    "forgotten", "change_forgotten", "forget_top2", "forget_top5", "forget_true_probability",
    "forget_views", "forget_flip", "foretold", "acc_test_forgotten_classes",
    "retrieval_forget_r1", "retrieval_forget_map",
}  # fmt: skip
MARKING = (
    "Mean ± sample standard deviation over n seeds. Bold: better than every other method of the "
    "same network and k by more than the sum of the two standard deviations (n ≥ 2). In the "
    "columns on accuracy, drift and cost, only methods compete that forgot every image in every "
    f"run; a network that lost {DAMAGE:.0f} points of accuracy or more is never bold."
)


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
        InputError: an unknown key (the nearest is named), or one that is there twice.
    """
    known = dict.fromkeys([*COLUMNS, *METRICS, *COST, *own])
    keys = [word.lstrip("+-") for word in words]
    for key in keys:
        if key not in known:
            raise InputError(f"columns: there is no {key}{nearest(key, known)}")
        if keys.count(key) > 1:
            raise InputError(f"columns: {key} is there twice; keep one")
    return list(words)


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
    by_network = _groups(rows, "cell_network").values()
    for (network, k), group in [pair for own in by_network for pair in _by_k(own)]:
        lines.append(_before(network, k, group, keys))
        ours = {
            method: _stats([_measured(row, keys) for row in own])
            for (method,), own in _groups(group, "cell_method").items()
        }
        best = _best(ours)
        for method, stats in ours.items():
            n = sum(row["cell_method"] == method for row in group)
            lines.append(Line(network, k, method, "ours", n, stats, best[method]))
        printed = [row for row in paper if row.get("k", k) == k]
        lines += [_paper_line(network, k, row, printed) for row in printed]
    return lines


def columns(lines: Sequence[Line], words: Collection[str] = ()) -> list[str]:
    """The columns for a reader: by default all but those that nothing fills, or nobody asked for.

    Args:
        lines: of the table.
        words: ``+key`` adds a column, ``-key`` drops one; keys without a sign are all there are.
    """
    filled = {key for line in lines for key in line.stats}
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


def circumstances(rows: Sequence[Row]) -> list[str]:
    """On what the rows were measured; a warning where it was not always the same."""
    notes = []
    machines = {
        f"{row.get('accelerator') or row.get('cpu')}, {row.get('threads')} threads" for row in rows
    }
    if machines:
        notes.append(
            f"Measured on {'; '.join(sorted(machines))}. A row repeats bit for bit on the same "
            "machine with as many threads."
        )
    if len(machines) > 1:
        notes.append(
            "Seconds and memory were taken under different circumstances: compare with care."
        )
    versions = {(row.get("version_stakes"), row.get("version_torch")) for row in rows}
    if len(versions) > 1:
        said = "; ".join(f"stakes {a} with torch {b}" for a, b in sorted(versions, key=str))
        notes.append(f"The rows come from different versions ({said}).")
    samples = {(row.get("n_test"), row.get("n_retain")) for row in rows}
    notes += [
        f"Scored on {test} test and {kept} retained images."
        for test, kept in sorted(samples, key=str)
    ]
    return notes


def endings(rows: Sequence[Row]) -> list[str]:
    """A note for every network, k and method of which runs ended without all being forgotten."""
    notes = []
    for (network, k, method), own in _groups(rows, "cell_network", "k", "cell_method").items():
        odd = [
            str(row.get("stop_reason")) for row in own if Outcome.of(row) is not Outcome.FORGOTTEN
        ]
        if odd:
            count = f"{len(odd)} of {len(own)} runs ended otherwise than with all forgotten"
            said = "; ".join(dict.fromkeys(odd))
            notes.append(f"{network}, k = {k}, {method}: {count} ({said}).")
    return notes


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


def _best(ours: Mapping[str, Mapping[str, Stat]]) -> dict[str, frozenset[str]]:
    """Method -> the columns in which it is ahead, of those whose network still works."""
    whole = {method for method, stats in ours.items() if not _collapsed(stats)}
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


def _collapsed(stats: Mapping[str, Stat]) -> bool:
    """Whether the network lost so much that forgetting is no merit."""
    changes = [stats[f"change_{key}"].mean for key in ("acc_test", "acc_retain")
               if f"change_{key}" in stats]  # fmt: skip
    return min(changes, default=0.0) <= -DAMAGE


def _groups(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values under ``keys``, in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def _by_k(rows: Sequence[Row]) -> list[tuple[tuple[str, int | None], list[Row]]]:
    groups = _groups(rows, "cell_network", "k").items()
    return sorted((((n, k), own) for (n, k), own in groups), key=lambda pair: pair[0][1] or 0)
