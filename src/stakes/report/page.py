"""Run folders -> one self-contained HTML page: the verdict in plain words, then the evidence.

Nothing is measured anew and nothing is fetched: the page holds what the run folders say, and
where they say nothing it says "not measured".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from stakes.errors import InputError
from stakes.files import write_text
from stakes.report import findings
from stakes.report import run_folder as runs
from stakes.report.figures import svg as figures
from stakes.report.figures import tradeoffs
from stakes.report.figures.drawing import Drawing
from stakes.report.figures.paper import FIGURES, Plate
from stakes.report.formats import FORMATS, NOT_MEASURED, listed, percent, points
from stakes.report.run_folder import Record, RunFolder, minus
from stakes.rows import printed_in, stat

IMAGES = 120  # shown of one run alone
IMAGES_EACH = 24  # shown of each run among several
IMAGES_OPEN = 24  # shown at once; the others unfold
DAMAGE = 5.0  # points of test accuracy; a greater loss is said beside the verdict

COMPARED = printed_in("runs")
TRACES = {"In its answers": printed_in("answers"), "In its features": printed_in("features")}
TRACED = [key for columns in TRACES.values() for key in columns]


@dataclass
class Verdict:
    """The outcome in plain words; ``tone`` is good, caution, bad or unknown."""

    tone: str
    badge: str
    headline: str
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    plates: Sequence[Plate] = (),
) -> Path:
    """Write one HTML page about one run, or comparing several; return where it was written.

    The page needs nothing beside it and runs no script. The same folders give the same bytes.

    Args:
        folders: run folders, each with ``row.json`` and, if there, ``history.jsonl`` and
            ``evidence.json``; the page keeps their order.
        out: the HTML file to write.
        title: the page's title; by default it is made from the method and the images.
        plates: figures of the paper to show as well.

    Raises:
        InputError: if there is no folder, one is no run folder, or a file in it is damaged.
    """
    if not folders:
        raise InputError("no run folder given: name at least one folder that `stakes` wrote")
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the HTML file to write, such as report.html")
    write_text(out, render(runs.read_runs(folders), title=title, plates=plates))
    return out


def render(
    found: Sequence[RunFolder], *, title: str | None = None, plates: Sequence[Plate] = ()
) -> str:
    """The page about these runs, as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stakes.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FORMATS | {"compared": compared}
    environment.globals |= {
        "views": runs.VIEWS,
        "compared": COMPARED,
        "traces": TRACES,
        "findings": findings,
        "consistency_chart": figures.consistency_chart,
        "verdict": verdict,
        "outcomes": outcomes,
        "run_charts": figures.run_charts,
        "run_plates": run_plates,
        "styles": figures.STYLES,
        "open": IMAGES_OPEN,
    }
    one = len(found) == 1
    by_itself = f"Forgetting report: {found[0].title}" if one else "Forgetting: runs compared"
    page = environment.get_template("one.html.j2" if one else "several.html.j2").render(
        title=title or by_itself,
        runs=found,
        limit=IMAGES if one else IMAGES_EACH,
        summary=None if one else compare(found),
        charts=[] if one else tradeoffs.trade_offs(found) + figures.comparison_charts(found),
        repeats=[] if one else repeats(found),
        plates=plates,
        audited=any(compared(run, key) is not None for run in found for key in TRACED),
    )
    # a file name on Linux may hold bytes that are no text; what stands for them is no UTF-8
    return page.encode("utf-8", "replace").decode("utf-8")


def run_plates(run: RunFolder, name: str) -> list[Drawing]:
    """What one run's example images find, and how near they are to the anchors."""
    drawings = [FIGURES[figure]({run.title: [run]}, f"{name}-{figure}") for figure in ("5a", "7")]
    return [drawing for drawing in drawings if drawing is not None]


def verdict(run: RunFolder) -> Verdict:
    """Say in plain words whether the images are forgotten, what it cost, and what to doubt."""
    k, left = run.k, run.count("acc_forget")
    if left is None or k is None:
        headline = "Whether the images are still recognised was not measured."
        result = Verdict("unknown", "Not measured", headline)
    elif bare := run.count("acc_forget_bare"):
        headline = "Nothing was forgotten: without the list in front of it, the network "
        headline += f"recognises {bare:,} of {k:,} images."
        result = Verdict("bad", "A control", headline)
    elif left == 0:
        said = "The image is" if k == 1 else f"All {k:,} images are"
        result = Verdict("good", "Complete", f"{said} no longer recognised.")
    else:
        said = "the image" if k == 1 else f"{left:,} of {k:,} images"
        be = "is" if left == 1 else "are"
        headline = f"Forgetting is incomplete: {said} {be} still recognised."
        result = Verdict("bad", "Incomplete", headline)
    result.facts = [went(words, run, key) for key, words in runs.ACCURACIES.items()][:2]
    before = run.count("acc_forget_before")
    if before is not None and k is not None and before < k:
        result.facts.append(f"Before, {before:,} of the {k:,} images were recognised.")
    result.facts += findings.whole_classes(run)
    result.facts += copies_too(run)
    result.warnings = doubts(run)
    if result.tone == "good" and result.warnings:
        result.tone, result.badge = "caution", "Complete, with reservations"
    return result


def copies_too(run: RunFolder) -> list[str]:
    """Where changed copies of the images were to be forgotten as well, what came of it."""
    if run.row["method_criterion"] != "views":
        return []
    share = run.number("forget_views")
    known = f"{percent(share)} of them are still recognised"
    known = f"whether they are was {NOT_MEASURED}" if share is None else known
    return [f"Changed copies were to be forgotten too: {known}."]


def went(words: str, run: RunFolder, key: str) -> str:
    """One sentence on one accuracy, before and after."""
    before, after = run.number(f"{key}_before"), run.number(key)
    if after is None:
        return f"{words} was {NOT_MEASURED}."
    if before is None:
        return f"{words} is {percent(after)} (before: {NOT_MEASURED})."
    return f"{words} went from {percent(before)} to {percent(after)}."


def doubts(run: RunFolder) -> list[str]:
    """What a reader must know beside the headline, one sentence each."""
    found = []
    if run.cut_short:
        found.append(f"The run was cut short. It stopped with: {run.row['stop_reason']}.")
    known = [
        f"{percent(value)} of those {words}"
        for key, words in runs.VIEWS.items()
        if (value := run.number(key))
    ]
    if known and run.number("acc_forget") is not None:
        found.append(f"Changed copies of the images are still recognised: {listed(known)}.")
    if findings.stand_out(run):
        found.append("The images stand out: the network finds them less likely than unseen ones.")
    change = run.change("acc_test")
    if change is not None and change <= -DAMAGE:
        found.append(f"The network lost {-change:.1f} points of test accuracy.")
    return found


def outcomes(run: RunFolder) -> list[tuple[str, list[Record]]]:
    """The before/after table in groups: each row with label, symbol, before, after and format."""

    def line(label: str, symbol: str, key: str, suffix: str = "") -> Record:
        before = run.number(f"{key}_before{suffix}")
        if before is None and suffix:  # there was one path only before there was a projector
            before = run.number(f"{key}_before")
        after = run.number(f"{key}{suffix}")
        row = {"label": label, "symbol": symbol, "before": before, "after": after}
        return {**row, "change": minus(after, before), "format": "percent"}

    def path(suffix: str = "") -> list[Record]:
        symbols = ("A_test", "A_retain", "A_f")
        rows = [
            line(words, symbol, key, suffix)
            for (key, words), symbol in zip(runs.ACCURACIES.items(), symbols, strict=True)
        ]
        before, after = (minus(100.0, rows[-1][when]) for when in ("before", "after"))
        missed = {**rows[-1], "label": "Forget images misclassified", "symbol": "100 − A_f"}
        rows.append({**missed, "before": before, "after": after, "change": minus(after, before)})
        return rows

    other = run.other_path
    deployed = str(run.row.get("deploy") or "only")
    groups = [(f"Deployed path ({deployed})" if other else "The network", path())]
    if other:
        groups.append((f"Other path ({other}), scored but not deployed", path(f"_{other}")))
    if run.row["forgotten_classes"]:
        groups.append(("Whole classes", [line(w, "", k) for k, w in runs.WHOLE_CLASSES.items()]))
    copies = [line(f"Images {words}", "", key) for key, words in runs.VIEWS.items()]
    copies.append(line("Mean of these", "", "forget_views"))
    groups.append(("Changed copies of the forget images, still recognised", copies))
    drift = line("Structural drift (0 = unchanged)", "", "drift_probes")
    groups.append(("Structure of the features", [{**drift, "format": "small"}]))
    return groups


def compare(found: Sequence[RunFolder]) -> Verdict:
    """What several runs show together, and why they may not be comparable."""
    scored = [run for run in found if run.forgotten is not None]
    done = [run for run in scored if run.count("acc_forget") == 0]
    every = len(done) == len(found)
    who = "Every run" if every else f"{len(done)} of {len(found)} runs" if done else "No run"
    headline = f"{who} made the network misclassify all the images it was to forget."
    tone = "good" if every else "caution" if done else "bad" if scored else "unknown"
    result = Verdict(tone, f"{len(found)} runs", headline)
    kept = [(change, run) for run in done if (change := run.change("acc_test")) is not None]
    if kept:
        change, best = max(kept, key=lambda pair: pair[0])
        where = f"run {found.index(best) + 1} ({best.title}): {points(change)} points"
        result.facts.append(f"Of these, the most test accuracy was kept by {where}.")
    result.facts.append("A row is one run; differences of a point or so may be chance.")
    for key, words in (
        ("weights_digest", "start from different weights"),
        ("forget_digest", "forget different images"),
        ("needs_retain", "differ in whether the method saw retained training data"),
    ):
        if len({str(run.row.get(key)) for run in found}) > 1:
            result.warnings.append(f"The runs {words}: compare them with care.")
    if result.tone == "good" and result.warnings:
        result.tone = "caution"
    return result


def repeats(found: Sequence[RunFolder]) -> list[Record]:
    """Runs that differ in their seed alone: per measure (mean, standard deviation, n).

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
