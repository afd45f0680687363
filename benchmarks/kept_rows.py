"""Rows kept in benchmarks/results: read, grouped, and written as a table in Markdown."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from stakes.rows import stat

RESULTS = Path(__file__).parent / "results"

Rows = list[dict]
"""Of the runs that differ in their seeds alone, which make one line."""
Columns = dict[str, Callable[[Rows], str]]


def rows(name: str) -> Rows:
    lines = (RESULTS / f"{name}.rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def grouped(found: Rows, key: Callable[[dict], Hashable]) -> list[Rows]:
    """The rows by their ``key``, in the order in which the keys first appear."""
    groups = defaultdict(list)
    for row in found:
        groups[key(row)].append(row)
    return list(groups.values())


def ordered(found: Rows, *keys: str) -> list[Rows]:
    """The rows by their values of the keys, in ascending order."""

    def values(row: dict) -> tuple:
        return tuple(row[key] for key in keys)

    return grouped(sorted(found, key=values), values)


def by_method(found: Rows, names: Sequence[str], *keys: str) -> list[Rows]:
    """The rows of the methods ``names`` by the keys, and then in the order of the names."""
    placed = [
        row | {"place": names.index(row["cell_method"])}
        for row in found
        if row["cell_method"] in names
    ]
    return ordered(placed, *keys, "place")


def spread(values: list[float], digits: int = 2, sign: str = "") -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    _, mean, sd = stat(values)
    text = f"{mean:{sign}.{digits}f}".replace("-", "−")
    return text if sd is None else f"{text} ± {sd:.{digits}f}"


def average(key: str, digits: int = 2) -> Callable[[Rows], str]:
    """Mean and deviation of a measure; empty where earlier versions did not take it."""

    def text(found: Rows) -> str:
        values = [row[key] for row in found if row.get(key) is not None]
        return spread(values, digits) if values else ""

    return text


def complement(key: str, digits: int) -> Callable[[Rows], str]:
    """100 less a percentage: its mean and deviation."""
    return lambda found: spread([100 - row[key] for row in found], digits)


def change(key: str) -> Callable[[Rows], str]:
    """After less before, in points."""
    return lambda found: spread([row[key] - row[f"{key}_before"] for row in found], sign="+")


def first(key: str) -> Callable[[Rows], str]:
    """A value that all rows of a line share."""
    return lambda found: str(found[0][key])


def steps(found: Rows) -> str:
    return f"{statistics.median(row['steps'] for row in found):,.0f}"


NUMBER: Columns = {"n": lambda found: str(len(found)), "forgotten": complement("acc_forget", 0)}
CHANGES: Columns = {
    "test accuracy": change("acc_test"),
    "retained images": change("acc_retain"),
    "steps": steps,
}
LEVELS: Columns = {
    "test accuracy": average("acc_test"),
    "retained images": average("acc_retain"),
    "steps": steps,
}
IN_DEPTH: Columns = {
    **NUMBER,
    "third choice or lower, %": complement("forget_top2", 0),
    "copies misclassified, %": complement("forget_views", 0),
    "copies third choice or lower, %": complement("forget_views_top2", 0),
    "new answers predicted, %": average("foretold", 0),
    **CHANGES,
}
COPIES: Columns = {
    "copies recognised, %": lambda found: f"{stat(row['forget_views'] for row in found).mean:.0f}"
}


def line_before(found: Rows, n: str | None = None) -> list[str]:
    """The line of NUMBER and LEVELS before, for :func:`table`; ``n`` is the count of rows."""
    was = (average(f"{key}_before")(found) for key in ("acc_test", "acc_retain"))
    return ["before", str(len(found)) if n is None else n, "0", *was, ""]


def recognised(found: Rows) -> str:
    """What COPIES was before."""
    return f"{stat(row['forget_views_before'] for row in found).mean:.0f}"


def table(groups: list[Rows], columns: Columns, *before: list[str]) -> str:
    """A Markdown table: the lines ``before``, then one of each group; numbers flush right."""
    lines = [list(columns), *before]
    lines += [[column(found) for column in columns.values()] for found in groups]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|---|{'---:|' * (len(columns) - 1)}", *body])
