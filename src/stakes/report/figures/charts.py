"""The paper's figures that are charts: collapse, consistency, sensitivity.

Each function draws one figure of runs by method, and gives None where the runs did not measure
what it shows.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stakes.report.figures.drawing import (
    WIDTH,
    Drawing,
    Methods,
    dress,
    line_look,
    mark_look,
    methods_legend,
    render,
)
from stakes.report.figures.svg import INK, SERIES, legend, short, style, thin
from stakes.report.records import minus
from stakes.report.run_folder import RunFolder
from stakes.rows import Stat, stat


def collapse(methods: Methods, name: str) -> Drawing | None:
    """Figure 2 (a): how far the structure has moved, step by step."""
    curves = [
        (i, points)
        for i, runs in enumerate(methods.values())
        for run in runs
        if len((points := run.points("drift"))[0]) > 1
    ]
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        axes = dress(figure.add_subplot(), "step", "structural collapse")
        for i, (x, y) in curves:
            axes.plot(thin(x), thin(y), **line_look(i), lw=1.4)
        ends = [x[-1] for _, (x, _) in curves]
        if max(ends) > 10 * min(ends):
            axes.set_xscale("symlog", linthresh=1, linscale=0.3)
            ticks = [0, *(n for n in (1, 3, 10, 30, 100, 300, 1000, 3000) if n <= max(ends))]
            axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        methods_legend(figure, methods, {i for i, _ in curves})

    alt = "; ".join(f"{list(methods)[i]}: {y[-1]:.3g} at step {x[-1]:g}" for i, (x, y) in curves)
    return Drawing(
        "Structural collapse during unlearning",
        "A line is a run. Collapse is the drift of affinities, 1 minus their mean cosine with "
        "those before. The paper measures it on retained images; unlearning sees none, so here "
        "it is measured on probes, mixtures of the images to forget that no method trains on.",
        render(draw, (WIDTH, 3.4), alt, name),
    )


def collapse_against_accuracy(methods: Methods, name: str) -> Drawing | None:
    """Figure 2 (b): mean collapse against retained accuracy less that on the forget set."""
    points = []
    for i, runs in enumerate(methods.values()):
        for run in runs:
            drift = stat(y for x, y in zip(*run.points("drift"), strict=True) if x > 0)
            retained = run.number("acc_retain")
            retained = run.number("acc_test") if retained is None else retained
            gap = minus(retained, run.number("acc_forget"))
            if drift is not None and gap is not None:
                points.append((i, drift.mean, gap))
    if not points:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        dress(axes, "mean structural collapse", "trade-off accuracy, points")
        for i, x, y in points:
            axes.plot([x], [y], **mark_look(i), clip_on=False)
        axes.margins(0.06)
        axes.set_xlim(left=0)
        methods_legend(figure, methods, {i for i, *_ in points}, marks=True)

    alt = "; ".join(f"{list(methods)[i]}: {y:.1f} points at {x:.3g}" for i, x, y in points)
    return Drawing(
        "Structural collapse against the balance of deletion and retention",
        "A mark is a run. Collapse as in (a), its mean over the steps after which it was measured; "
        "trade-off accuracy is that on retained images (test images where these were not scored) "
        "less that on the images to forget. In the paper, NegGrad stays below 5 %.",
        render(draw, (WIDTH, 3.4), alt, name),
    )


def consistency(methods: Methods, name: str) -> Drawing | None:
    """Figure 6: density of the cosine between features before and after, by method."""
    curves = []
    for i, runs in enumerate(methods.values()):
        densities = [own for run in runs if (own := run.density())[0]]
        if not densities:
            continue
        x = sorted({place for places, _ in densities for place in places})
        y = np.mean([np.interp(x, *own, 0, 0) for own in densities], axis=0)
        if y.any():
            curves.append((i, x, (y / y.max()).tolist()))
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        label = "cosine of features before and after; 1 = unchanged"
        axes = dress(figure.add_subplot(), label, "density, peak = 1")
        for i, x, y in curves:
            axes.plot(x, y, **line_look(i), lw=1.4)
            axes.fill_between(x, y, color=SERIES[style(i)[0]], alpha=0.12, lw=0)
        axes.set_ylim(0, 1.05)
        methods_legend(figure, methods, {i for i, *_ in curves})

    alt = "; ".join(
        f"{list(methods)[i]}: most at a cosine of {x[y.index(1.0)]:.4g}, least {x[0]:.4g}"
        for i, x, y in curves
    )
    return Drawing(
        "Representation consistency",
        "Kernel density of the cosine between the features of the same retained image before and "
        "after. A curve is a method, the mean over its runs; each has its peak at 1, since one "
        "near a cosine of 1 would otherwise be a hundred times as high as the others.",
        render(draw, (WIDTH, 3.4), alt, name),
    )


def sensitivity(methods: Methods, name: str) -> Drawing | None:
    """Figure 9: accuracy over variants of the anchors, by methods named ``group: variant``.

    A method whose name has no colon is a line in every panel.
    """
    groups: dict[str, dict[str, Stat]] = {}
    for method, runs in methods.items():
        group, _, variant = method.rpartition(": ")
        if (found := stat(_accuracy(run) for run in runs)) is not None:
            groups.setdefault(group, {})[variant] = found
    panels = {group: own for group, own in groups.items() if group}
    if not panels:
        return None
    lines = groups.get("", {})

    def draw(figure: Figure) -> None:
        ratios = [len(variants) + 0.8 for variants in panels.values()]
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=ratios)[0]
        for place, (axes, group) in enumerate(zip(row, panels, strict=True)):
            dress(axes, "", "" if place else "accuracy, %")
            axes.set_title(
                f"({chr(ord('a') + place)}) {short(group, 30)}", fontsize=8, color=INK, loc="left"
            )
            for i, found in enumerate(lines.values(), 1):
                axes.axhline(found.mean, **line_look(i), lw=1.2)
            for x, found in enumerate(panels[group].values()):
                axes.errorbar(x, found.mean, found.sd or 0.0, fmt="o", color=SERIES[0], capsize=3)
            axes.set_xticks(range(len(panels[group])), [short(v, 14) for v in panels[group]])
            axes.set_xlim(-0.7, len(panels[group]) - 0.3)
        row[0].margins(y=0.15)
        check = [
            Line2D([], [], label=short(own, 40), **line_look(i)) for i, own in enumerate(lines, 1)
        ]
        if check:
            legend(figure, check)

    alt = "; ".join(
        f"{group or 'line'}, {variant}: {found.mean:.2f}"
        for group, variants in groups.items()
        for variant, found in variants.items()
    )
    return Drawing(
        "Sensitivity to how the anchors are made",
        "Accuracy is the mean of that on test and on retained images. Means over runs; whiskers "
        "are one standard deviation. The vertical axis does not begin at 0.",
        render(draw, (WIDTH + 1, 3.0), alt, name),
    )


def _accuracy(run: RunFolder) -> float | None:
    """Mean of the accuracies on test and on retained images."""
    test, retained = run.number("acc_test"), run.number("acc_retain")
    return None if test is None or retained is None else (test + retained) / 2
