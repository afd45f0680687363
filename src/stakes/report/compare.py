"""Several runs beside each other: in which order, what they show together, means over seeds."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stakes.report.formats import points
from stakes.report.records import Record
from stakes.report.run_folder import RunFolder
from stakes.report.verdict import BAD, CAUTION, GOOD, UNKNOWN, Verdict, rest, verdict
from stakes.rows import printed_in, stat

COMPARED = printed_in("runs")
TRACES = {"In its answers": printed_in("answers"), "In its features": printed_in("features")}
MOST_GROUPS = 4  # of networks and numbers of images that a sentence tells apart
TRACED = [key for columns in TRACES.values() for key in columns]


def ordered(found: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs by what they cost: those that did what was asked first, the cheapest at the top.

    Runs on other networks, or of another number of images, stay together in the order given.
    """
    groups = list(dict.fromkeys(map(_group, found)))
    rank = {GOOD: 0, CAUTION: 0, UNKNOWN: 2, BAD: 1}

    def place(run: RunFolder) -> tuple[int, int, float]:
        change = cost(run)
        tone = rank[verdict(run).tone]
        return groups.index(_group(run)), tone, 1e9 if change is None else -change

    return sorted(found, key=place)


def cost(run: RunFolder) -> float | None:
    """The change of accuracy on unseen images, else on retained ones, in points."""
    return next(iter(run.preserved.values()), None)


def succeeded(run: RunFolder) -> bool:
    """Whether it forgot every image and the network still works, as far as was measured."""
    return verdict(run).tone in (GOOD, CAUTION)


def compare(found: Sequence[RunFolder], reference: RunFolder | None = None) -> Verdict:
    """What several runs show together, and why they may not be comparable.

    ``found`` is in the order given: of runs of one seed, the first counts.
    """
    scored = [run for run in found if run.forgotten is not None]
    done = [run for run in scored if succeeded(run)]
    broken = [run for run in scored if run.count("acc_forget") == 0 and run not in done]
    every = len(done) == len(found)
    who = "Every run" if every else f"{len(done)} of {len(found)} runs" if done else "No run"
    unknown = [run for run in done if rest(run).tone == UNKNOWN]
    left = "" if unknown else " and left it intact"
    headline = f"{who} made the network forget all the images{left}."
    tone = GOOD if every else CAUTION if done else BAD if scored else UNKNOWN
    result = Verdict(tone, headline)
    if broken:
        named = f"{len(broken)} more" if done else f"{len(broken)}"
        result.facts.append(
            f"{named} forgot all the images but damaged the network, or had little to forget; this "
            "does not count as success."
        )
    if unknown:
        of = "" if unknown == done else f" in {len(unknown)} of them"
        result.facts.append(f"The cost{of} is unknown: too few other images were scored.")
        result.tone = CAUTION
    result.facts += _best_preserved(found, [run for run in done if run not in unknown])
    result.facts.append("Differences of a point or so may be chance.")
    if reference is not None:
        result.facts.append(f"The reference is {reference.title} ({reference.name}).")
    result.warnings += [
        f"The runs {words}: compare them with care." for words in dict.fromkeys(_unlike(found))
    ]
    if result.tone == GOOD and result.warnings:
        result.tone = CAUTION
    return result


def _group(run: RunFolder) -> tuple[object, int | None]:
    """What runs have in common that can be compared: the network and how many images."""
    return run.row["model"], run.k


def _grouped(found: Iterable[RunFolder]) -> dict[tuple[object, int | None], list[RunFolder]]:
    groups: dict[tuple[object, int | None], list[RunFolder]] = {}
    for run in found:
        groups.setdefault(_group(run), []).append(run)
    return groups


def _settings(run: RunFolder) -> str:
    """What runs that differ in their seed alone have in common."""
    asked = ("method", "k", "model", "dataset", "deploy", "eval_samples")
    return json.dumps([[run.row.get(name) for name in asked], run.fields], sort_keys=True)


def _unlike(found: Sequence[RunFolder]) -> Iterable[str]:
    """Why runs of one network and one number of images may not be comparable."""
    for group in _grouped(found).values():
        if len({str(run.row.get("weights_digest")) for run in group}) > 1:
            yield "start from different weights"
        drawn: dict[str, set[str]] = {}
        for run in group:  # different seeds draw different images: of each method, the same ones
            drawn.setdefault(_settings(run), set()).add(str(run.row.get("forget_digest")))
        by_seed = {(run.row.get("seed"), str(run.row.get("forget_digest"))) for run in group}
        if len(set(map(frozenset, drawn.values()))) > 1 or len(by_seed) > len(
            {seed for seed, _ in by_seed}
        ):
            yield "forget different images"
        if len({run.row.get("needs_retain") for run in group}) > 1:
            yield "differ in whether the method saw retained training data"


def _best_preserved(found: Sequence[RunFolder], done: Sequence[RunFolder]) -> list[str]:
    """The method that preserved accuracy best, of those all of whose runs did what was asked."""
    groups, said, shown = _grouped(found), [], [id(run) for run in ordered(found)]
    whole = {id(run) for run in done}
    for group in groups.values():
        costs = {}
        for line in means(group):
            changes = [change for run in line["runs"] if (change := cost(run)) is not None]
            if all(id(run) in whole for run in line["runs"]) and (spread := stat(changes)):
                costs[line["run"].title, tuple(line["seeds"])] = (spread, line["runs"][0])
        if not costs:
            continue
        (title, _), (most, run) = max(costs.items(), key=lambda item: item[1][0].mean)
        which = f"mean of {most.n} seeds" if most.n > 1 else f"run {shown.index(id(run)) + 1}"
        where = "" if len(groups) == 1 else f"at {heading(run, groups)} "
        said.append(f"{where}by {title} ({which}): {points(most.mean)} points")
    if not said or len(said) > MOST_GROUPS:
        return []
    return [f"Of those that did, accuracy was best preserved {'; '.join(said)}."]


def heading(run: RunFolder, groups: Iterable[tuple[object, int | None]]) -> str:
    """What a group is called beside others: its network where there are several, and its k."""
    several = len({model for model, _ in groups}) > 1
    k = "" if run.k is None else f"k = {run.k}"
    return ", ".join(filter(None, [str(run.row["model"]) if several else "", k]))


class Group(NamedTuple):
    """Runs of one network and one number of images: their means, and the runs by number."""

    heading: str
    means: list[Record]
    runs: list[tuple[str, RunFolder]]


def grouped(found: Sequence[RunFolder], reference: RunFolder | None = None) -> list[Group]:
    """The tables of a page: one for each network and number of images.

    Args:
        found: the runs as they were given; they are numbered as :func:`ordered` has them.
        reference: one more, only there to be compared with.
    """
    shown = [(str(i + 1), run) for i, run in enumerate(ordered(found))]
    shown += [] if reference is None else [("Reference", reference)]
    groups, given = _grouped(run for _, run in shown), _grouped(found)
    return [
        Group(
            heading(own[0], groups),
            means(given.get(key, [])),
            [(name, run) for name, run in shown if _group(run) == key],
        )
        for key, own in groups.items()
    ]


def means(found: Sequence[RunFolder]) -> list[Record]:
    """Runs that differ in their seed alone: per measure mean, standard deviation and n.

    One run per seed counts, the first given: a seed run twice is no second sample.
    """
    groups: dict[str, dict[str, RunFolder]] = {}
    for run in found:
        groups.setdefault(_settings(run), {}).setdefault(str(run.row.get("seed")), run)
    return [
        {
            "run": next(iter(by_seed.values())),
            "runs": list(by_seed.values()),
            "seeds": list(by_seed),
            "cells": {
                key: stat(compared(run, key) for run in by_seed.values())
                for key in (*COMPARED, *TRACED)
            },
        }
        for by_seed in groups.values()
    ]


def compared(run: RunFolder, key: str) -> float | None:
    """A number of the comparison table."""
    return run.forgotten if key == "forgotten" else run.number(key)
