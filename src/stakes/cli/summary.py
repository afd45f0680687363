"""What ``stakes unlearn`` says around a run: what it is about to use, and what came of it."""

import json
from collections.abc import Mapping
from typing import Any

from stakes.data.datasets import DATASETS
from stakes.data.folders import left_out
from stakes.errors import some
from stakes.evaluation.again import found_in_words
from stakes.preprocessing import in_words
from stakes.report.formats import several
from stakes.rows import own_keys
from stakes.runs.load import Loaded
from stakes.texts import expanded, say


def announce(loaded: Loaded, data: str | None) -> None:
    """Say on standard error what is about to be used, defaults among it, and what is left out."""
    classifier, anchors = loaded.classifier, loaded.anchors
    dropped = f" (copies left out: {loaded.forget.dropped})" if loaded.forget.dropped else ""
    say(
        f"{classifier.spec}, {classifier.num_classes} classes, on {classifier.device}; "
        f"weights {classifier.weights}; anchors {anchors.card.get('name') or 'unnamed'}; "
        f"{several(len(loaded.forget), 'image')} to forget{dropped}; "
        f"preprocessing: {in_words(classifier.preprocessing)}"
    )
    flat = loaded.forget.images.flatten(1)
    uniform = (flat.amax(1) == flat.amin(1)).tolist()
    if any(uniform):
        names = [name for name, same in zip(loaded.forget.names, uniform, strict=True) if same]
        say(
            f"note: {some(names)}: uniformly grey as the network sees it; if the file is not, "
            "convert it to 8 bits (libraries clip 16-bit grey to white)"
        )
    if data is not None and data not in DATASETS and (unused := left_out(expanded(data))):
        say(f"--data {data}: not used: {some(unused)}")
    if loaded.agreement is not None:
        say(f"preprocessing checked: {loaded.agreement}")


def summary(row: dict[str, Any]) -> str:
    """The main numbers, and the measures of the user's own, a line each."""
    steps = row["steps"]

    def change(key: str) -> str:
        before, after = row[f"{key}_before"], row[key]
        return "not measured" if after is None else f"{before:6.2f} % -> {after:6.2f} %"

    def plain(value: float | None) -> str:
        return "not measured" if value is None else f"{value:6.4g}"

    own = [
        f"{key:<27} {plain(row[f'{key}_before'])}   -> {plain(row[key])}" for key in own_keys(row)
    ]
    found, kept = found_in_words(row), change("acc_test_kept_classes")
    twice = change("forget_top2")  # of two classes, a second guess is always right
    return "\n".join(
        [
            f"{row['method_title']}, {steps} step{'s' * (steps != 1)}: {row['stop_reason']}",
            f"forget images recognised    {change('acc_forget')}",
            *_never(row),
            *([f"recognised by two guesses   {twice}"] if row["num_classes"] > 2 else []),
            f"test accuracy               {change('acc_test')}",
            *([f"of classes to be kept       {kept}"] if row["forgotten_classes"] else []),
            f"retained accuracy           {change('acc_retain')}",
            f"altered copies recognised   {change('forget_views')}",
            *own,
            *_earlier(row),
            *([found] if found else []),
        ]
    )


def _never(row: Mapping[str, Any]) -> list[str]:
    """How many images were not recognised to begin with, where some were not."""
    never, k = row["n_never_recognised"], row["k"]
    if not never:
        return []
    so = ", so there was little to forget" if 2 * never > k else ""
    return [f"never recognised            {never:6,} of {k:,}{so}"]


def _earlier(row: Mapping[str, Any]) -> list[str]:
    """How many images of earlier requests are recognised, where some were at hand."""
    if not row.get("n_earlier_found"):
        return []
    was, now = row["n_earlier_recognised_before"], row["n_earlier_recognised"]
    return [f"earlier requests recognised {was:6} -> {now:6} of {row['n_earlier_found']:,}"]


def print_json(row: Mapping[str, Any]) -> None:
    """Print the row for a program to read."""
    print(json.dumps(row, indent=1))
