"""Several runs beside each other: in which order, what they show together, means over seeds."""

import json
from collections.abc import Sequence

from stakes.report.formats import points
from stakes.report.run_folder import Record, RunFolder
from stakes.report.verdict import BAD, CAUTION, GOOD, UNKNOWN, Verdict, verdict
from stakes.rows import printed_in, stat

COMPARED = printed_in("runs")
TRACES = {"In its answers": printed_in("answers"), "In its features": printed_in("features")}
TRACED = [key for columns in TRACES.values() for key in columns]


def ordered(found: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs by what they cost: those that did what was asked first, the cheapest at the top.

    Runs on other networks, or of another number of images, stay together in the order given.
    """
    groups = list(dict.fromkeys((run.row["model"], run.k) for run in found))
    rank = {GOOD: 0, CAUTION: 0, UNKNOWN: 2, BAD: 1}

    def place(run: RunFolder) -> tuple[int, int, float]:
        change = cost(run)
        tone = rank[verdict(run).tone]
        return groups.index((run.row["model"], run.k)), tone, 1e9 if change is None else -change

    return sorted(found, key=place)


def cost(run: RunFolder) -> float | None:
    """The change of accuracy on unseen images, else on retained ones, in points."""
    change = run.change("acc_test")
    return run.change("acc_retain") if change is None else change


def succeeded(run: RunFolder) -> bool:
    """Whether it forgot every image and the network still works, as far as was measured."""
    return verdict(run).tone in (GOOD, CAUTION)


def compare(found: Sequence[RunFolder], reference: RunFolder | None = None) -> Verdict:
    """What several runs show together, and why they may not be comparable."""
    scored = [run for run in found if run.forgotten is not None]
    done = [run for run in scored if succeeded(run)]
    broken = [run for run in scored if run.count("acc_forget") == 0 and run not in done]
    every = len(done) == len(found)
    who = "Every run" if every else f"{len(done)} of {len(found)} runs" if done else "No run"
    headline = f"{who} made the network forget all the images and left it whole."
    tone = GOOD if every else CAUTION if done else BAD if scored else UNKNOWN
    result = Verdict(tone, headline)
    if broken:
        named = f"{len(broken)} more" if done else f"{len(broken)}"
        result.facts.append(
            f"{named} forgot them all and damaged the network, or had little to forget: that is "
            "no success."
        )
    kept = [(change, run) for run in done if (change := cost(run)) is not None]
    if kept:
        change, best = max(kept, key=lambda pair: pair[0])
        where = f"run {found.index(best) + 1} ({best.title}): {points(change)} points"
        result.facts.append(f"Of those that did, the most accuracy was kept by {where}.")
    result.facts.append("A row is one run; differences of a point or so may be chance.")
    if reference is not None:
        result.facts.append(f"The reference is {reference.title} ({reference.name}).")
    for key, words in (
        ("weights_digest", "start from different weights"),
        ("forget_digest", "forget different images"),
        ("needs_retain", "differ in whether the method saw retained training data"),
    ):
        if len({str(run.row.get(key)) for run in found}) > 1:
            result.warnings.append(f"The runs {words}: compare them with care.")
    if result.tone == GOOD and result.warnings:
        result.tone = CAUTION
    return result


def repeats(found: Sequence[RunFolder]) -> list[Record]:
    """Runs that differ in their seed alone: per measure mean, standard deviation and n.

    One run per seed counts, the first given: a seed run twice is no second sample.
    """
    groups: dict[str, dict[str, RunFolder]] = {}
    for run in found:
        asked = ("method", "k", "model", "dataset", "deploy", "eval_samples")
        key = json.dumps([[run.row.get(name) for name in asked], run.fields], sort_keys=True)
        groups.setdefault(key, {}).setdefault(str(run.row.get("seed")), run)
    tables = []
    for by_seed in groups.values():
        if len(by_seed) < 2:
            continue
        first = next(iter(by_seed.values()))
        cells = {
            key: stat(compared(run, key) for run in by_seed.values())
            for key in (*COMPARED, *TRACED)
        }
        tables.append({"run": first, "seeds": list(by_seed), "cells": cells})
    return tables


def compared(run: RunFolder, key: str) -> float | None:
    """A number of the comparison table."""
    return run.forgotten if key == "forgotten" else run.number(key)
