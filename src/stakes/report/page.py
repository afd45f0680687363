"""Run folders -> one self-contained HTML page: the verdict in plain words, then the evidence.

Nothing is measured anew and nothing is fetched: the page holds what the run folders say, and
where they say nothing it says "not measured".
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from stakes.errors import InputError
from stakes.files import write_text
from stakes.report import attacks, compare, evidence, findings
from stakes.report.figures import svg as figures
from stakes.report.figures import tradeoffs
from stakes.report.figures.drawing import Drawing
from stakes.report.figures.paper import FIGURES, Plate
from stakes.report.formats import FORMATS, several
from stakes.report.records import Record, minus
from stakes.report.run_folder import ACCURACIES, VIEWS, WHOLE_CLASSES, RunFolder
from stakes.report.run_reader import read_runs
from stakes.report.ties import TICKS, ties
from stakes.report.verdict import MARKS, interval, verdict

IMAGES = 1000  # listed of one run alone
IMAGES_EACH = 24  # listed of each run among several
IMAGES_OPEN = 24  # listed at once; the others unfold
#: Control characters, and those that turn the direction of the text after them: a name could make
#: a page read otherwise than it is. What writing itself needs, such as joiners, stays.
DECEIVING = dict.fromkeys(
    [
        *({*range(0x20), *range(0x7F, 0xA0)} - set(map(ord, "\t\n"))),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ],
    "\ufffd",
)


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    plates: Sequence[Plate] = (),
    reference: Path | None = None,
) -> Path:
    """Write one HTML page about one run, or comparing several; return where it was written.

    The page needs nothing beside it and runs no script. The same folders give the same bytes.

    Args:
        folders: run folders, each with ``row.json`` and, if there, ``history.jsonl`` and
            ``evidence.json``; of several, the page puts the cheapest success first.
        out: the HTML file to write.
        title: the page's title; by default it is made from the method and the images.
        plates: figures of the paper to show as well.
        reference: folder of a run to compare the others with, such as one of ``retrain`` or
            ``oracle`` on the same images.

    Raises:
        InputError: if there is no folder, one is no run folder, or a file in it is damaged.
    """
    if not folders:
        raise InputError("no run folder given: name at least one folder that `stakes` wrote")
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the HTML file to write, such as report.html")
    found = read_runs([*folders, *([] if reference is None else [reference])])
    beside = None if reference is None else found.pop()
    write_text(out, render(found, title=title, plates=plates, reference=beside))
    return out


def render(
    found: Sequence[RunFolder],
    *,
    title: str | None = None,
    plates: Sequence[Plate] = (),
    reference: RunFolder | None = None,
) -> str:
    """The page about these runs, as HTML text."""
    one = len(found) == 1 and reference is None
    shown = list(found) if one else compare.ordered(found)
    if reference is not None:
        shown.append(reference)
    groups = [] if one else compare.grouped(found, reference)
    page = (
        _environment()
        .get_template("one.html.j2" if one else "several.html.j2")
        .render(
            title=title or (_title(found[0]) if one else "Forgetting: runs compared"),
            runs=shown,
            reference=reference,
            limit=IMAGES if one else IMAGES_EACH,
            summary=None if one else compare.compare(found, reference),
            charts=[] if one else tradeoffs.trade_offs(shown) + figures.comparison_charts(shown),
            groups=groups,
            repeated=any(len(line["seeds"]) > 1 for group in groups for line in group.means),
            plates=plates,
            audited=any(
                compare.compared(r, key) is not None for r in shown for key in compare.TRACED
            ),
        )
    )
    # a file name on Linux may hold bytes that are no text; what stands for them is no UTF-8
    return page.translate(DECEIVING).encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> jinja2.Environment:
    """What the templates may use; they are compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stakes.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FORMATS | {"compared": compare.compared}
    environment.globals |= {
        "views": VIEWS,
        "compared": compare.COMPARED,
        "traces": compare.TRACES,
        "attacks": attacks,
        "evidence": evidence,
        "findings": findings,
        "consistency_chart": figures.consistency_chart,
        "verdict": verdict,
        "interval": interval,
        "ties": ties,
        "ticks": TICKS,
        "marks": MARKS,
        "outcomes": outcomes,
        "run_charts": figures.run_charts,
        "run_plates": run_plates,
        "styles": figures.STYLES,
        "open": IMAGES_OPEN,
    }
    return environment


def _title(run: RunFolder) -> str:
    """What the page is called by itself."""
    k = run.k
    return "Forgetting report" if k is None else f"Forgetting report: {several(k, 'image')}"


def run_plates(run: RunFolder, name: str) -> list[Drawing]:
    """What one run's example images find, and how near they are to the anchors."""
    drawings = [FIGURES[figure]({run.title: [run]}, f"{name}-{figure}") for figure in ("5a", "7")]
    return [drawing for drawing in drawings if drawing is not None]


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
            for (key, words), symbol in zip(ACCURACIES.items(), symbols, strict=True)
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
        groups.append(("Whole classes", [line(w, "", k) for k, w in WHOLE_CLASSES.items()]))
    copies = [line(f"Images {words}", "", key) for key, words in VIEWS.items()]
    copies.append(line("Mean of these", "", "forget_views"))
    groups.append(("Altered copies of the forget images, still recognised", copies))
    drift = line("Structural drift (0 = unchanged)", "", "drift_probes")
    groups.append(("Structure of the features", [{**drift, "format": "small"}]))
    return groups
