"""Retained accuracy against what was forgotten, as charts with a mark for each run."""

import itertools
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stakes.report.figures.svg import (
    CARD,
    COLOURS,
    INK,
    RC,
    SERIES,
    STYLES,
    Chart,
    legend,
    named,
    new_axes,
    style,
    to_svg,
)
from stakes.report.run_folder import RunFolder

WIDE = 10.0  # points: changes further apart get an axis on which small ones stay apart
MARKS = "osD^vP"  # matplotlib's markers


#: What was forgotten, as an axis says it -> the percentage of it.
FORGOTTEN = {"images": "forgotten", "altered copies": "copies_forgotten"}


def trade_offs(runs: Sequence[RunFolder]) -> list[Chart]:
    """Retained accuracy against what was forgotten: of the images, and of their altered copies.

    One mark a run; top right is best. Test data stands in where retained data was not scored.
    """
    shown = list(enumerate(runs[:STYLES]))
    for key, data in (("acc_retain", "retained data"), ("acc_test", "test data")):
        changes = [(i, run, change) for i, run in shown if (change := run.change(key)) is not None]
        charts = []
        for what, share in FORGOTTEN.items():
            points = [(i, x, y) for i, run, y in changes if (x := getattr(run, share)) is not None]
            if len(points) > 1:
                charts.append(_chart(runs, points, data, what))
        if charts:
            return charts
    return []


def _chart(
    runs: Sequence[RunFolder], points: Sequence[tuple[int, float, float]], data: str, what: str
) -> Chart:
    title = f"Change of accuracy on {data} (points) against {what} forgotten"
    alt = "; ".join(f"run {i + 1}: {x:.1f} % forgotten, {y:+.1f} points" for i, x, y in points)
    svg = scatter_chart(
        points,
        describe=f"{title}. {alt}.",
        name=f"all-kept-{what.replace(' ', '-')}",
        label=f"{what} no longer recognised, %",
        names=[f"{i + 1}  {runs[i].title}" for i, _, _ in points],
    )
    return Chart(title, svg)


def marker(index: int) -> str:
    """Marker of series ``index``; with its colour, every index below 24 differs.

    >>> len({(style(i)[0], marker(i)) for i in range(STYLES)})
    24
    """
    return MARKS[(index + index // COLOURS) % len(MARKS)]


def scatter_chart(
    points: Sequence[tuple[int, float, float]],
    *,
    describe: str,
    name: str,
    label: str,
    names: Sequence[str] = (),
) -> str:
    """Marks (series, percentage, y) with their numbers, counted from 1, as SVG text.

    ``names`` of all of them, if given, stand in a legend.
    """
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure, axes = new_axes(label, names)
        for i, x, y in points:
            axes.plot(
                [x], [y], marker(i), markersize=8, color=SERIES[style(i)[0]], mec=CARD, mew=0.5,
                zorder=3, clip_on=False,
            )  # fmt: skip
        if names:
            legend(figure, [named(m, text) for m, text in zip(axes.lines, names, strict=True)])
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xlim(-5, 105)
        _scale(axes, [y for _, _, y in points])
        figure.canvas.draw()
        figure.set_layout_engine("none")  # what is placed now stays where it is
        places = [axes.transData.transform((x, y)) * 72 / figure.dpi for _, x, y in points]
        taken = [(float(x), float(y), 4.0) for x, y in places]
        low = axes.bbox.y0 * 72 / figure.dpi
        for (i, *_), (x, y) in zip(points, places, strict=True):
            number = str(i + 1)
            place = _beside((float(x), float(y)), 2.8 * len(number), taken, low, figure)
            taken.append((*place, 2.8 * len(number)))
            axes.annotate(
                number,
                place,
                xycoords="figure points",
                ha="center",
                va="center_baseline",
                color=INK,
                annotation_clip=False,
            )
        return to_svg(figure, describe, name)


def _scale(axes: Axes, changes: Sequence[float]) -> None:
    """Where changes differ much, make the vertical axis logarithmic beyond one point."""
    axes.margins(0, 0.1)
    if max(0, *changes) - min(0, *changes) <= WIDE:
        return
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    low, high = axes.get_ylim()
    steps = [0, *(sign * step for step in (1, 3, 10, 30, 100) for sign in (-1, 1))]
    ticks = [step for step in steps if low <= step <= high]
    axes.set_yticks(ticks, [str(step).replace("-", "−") for step in ticks])
    axes.minorticks_off()


def _beside(
    mark: tuple[float, float],
    half: float,
    taken: Sequence[tuple[float, float, float]],
    low: float,
    figure: Figure,
) -> tuple[float, float]:
    """The middle of a label ``2 half`` wide near a mark, clear of what is ``taken`` already.

    As near to the right or left of the mark as there is room above ``low``; all in points.
    """
    x, y = mark
    width, height = (72 * side for side in figure.get_size_inches())
    tried = itertools.product((6, 20, 34, 48), range(-150, 151, 3), (1, -1))
    for away, rise, side in sorted(tried, key=lambda place: place[0] + abs(place[1])):
        u, v = x + side * (away + half), y + rise
        inside = half < u < width - half and low < v < height - 6
        if inside and all(abs(u - a) >= half + b + 1 or abs(v - c) >= 8 for a, c, b in taken):
            return u, v
    return x, y
