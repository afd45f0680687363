"""What it costs that copies of the images are forgotten too, as a chart of many runs."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from stakes.report.figures.drawing import (
    WIDTH,
    Drawing,
    Methods,
    dress,
    mark_look,
    methods_legend,
    render,
)
from stakes.report.figures.svg import INK
from stakes.report.run_folder import RunFolder
from stakes.rows import Stat, stat

ASKED = ("criterion", "views_needed")  # the hyper-parameters that say how much is to be forgotten


class Cost(NamedTuple):
    """A method's place: copies forgotten, percent, and the change of retained accuracy, points."""

    copies: Stat
    retained: Stat
    settings: str

    @property
    def place(self) -> tuple[float, float]:
        """The mean over its runs."""
        return self.copies.mean, self.retained.mean


def copies_against_accuracy(methods: Methods, name: str) -> Drawing | None:
    """Change of accuracy on retained images against the share of copies no longer recognised.

    Lines join the methods that differ only in how many copies they were asked to forget.
    """
    costs = {i: cost for i, runs in enumerate(methods.values()) if (cost := _cost(runs))}
    if not costs:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for cost in costs.values():
        lines.setdefault(cost.settings, []).append(cost.place)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        dress(axes, "copies no longer recognised, %", "retained images, points")
        for places in lines.values():
            axes.plot(*zip(*sorted(places), strict=True), color=INK, lw=0.8, zorder=1)
        for i, cost in costs.items():
            x, y = cost.place
            across, up = cost.copies.sd or 0.0, cost.retained.sd or 0.0
            axes.errorbar(x, y, up, across, elinewidth=1, capsize=2, **mark_look(i))
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xlim(0, 100)
        methods_legend(figure, methods, costs.keys(), marks=True)

    alt = "; ".join(
        f"{list(methods)[i]}: {cost.place[1]:+.2f} points at {cost.place[0]:.1f} %"
        for i, cost in costs.items()
    )
    return Drawing(
        "What it costs to forget copies too",
        "Copies are mirrored, moved, cropped, noisy, compressed, darker and brighter ones of the "
        "images to forget; those scored here are none of those trained on. Upwards is the change "
        "of accuracy on retained images. A mark is a method, the mean of its runs, with one "
        "standard deviation either way; a line joins those that differ only in the share of "
        "copies that was asked.",
        render(draw, (WIDTH, 3.4), alt, name),
    )


def _cost(runs: Sequence[RunFolder]) -> Cost | None:
    """Of a method's runs that measured both; None where there is none."""
    copies, changes = [], []
    for run in runs:
        share, change = run.copies_forgotten, run.change("acc_retain")
        if share is not None and change is not None:
            copies.append(share)
            changes.append(change)
    forgotten, retained = stat(copies), stat(changes)
    if forgotten is None or retained is None:
        return None
    fields = sorted((key, value) for key, value in runs[0].fields.items() if key not in ASKED)
    return Cost(forgotten, retained, str((runs[0].row["method"], fields)))
