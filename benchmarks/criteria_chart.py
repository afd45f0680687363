"""Draw what each method's runs keep against how deep and how broadly they forget.

python benchmarks/criteria_chart.py          writes results/criteria.svg from the rows kept there
"""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from kept_rows import RESULTS, rows

ROWS = ("cifar10-resnet20", "structguard-criteria", "structguard-copies", "structguard-sidecar")
SHOWN = {
    "STRUCTGUARD": "#b8420f",
    "STRUCTGUARD (exact)": "#b8420f",
    "STRUCTGUARD (deep)": "#7a1fa2",
    "STRUCTGUARD (views, public images)": "#00695c",
    "STRUCTGUARD (views, sidecar)": "#00695c",
}
K = 16
OTHERS = "#555555"
LINE = 0.0445  # between two names, of the height


def points() -> dict[str, tuple[float, float, float]]:
    """Method -> share of images at the third choice or lower, of copies misclassified, change."""
    found = defaultdict(list)
    for name in ROWS:
        for row in rows(name):
            if row["k"] == K and row["cell_network"] == "ResNet-20" and "forget_top2" in row:
                found[row["cell_method"]].append(row)
    return {
        method: (
            fmean(100 - row["forget_top2"] for row in runs),
            fmean(100 - row["forget_views"] for row in runs),
            fmean(row["acc_retain"] - row["acc_retain_before"] for row in runs),
        )
        for method, runs in found.items()
    }


def draw(path: Path) -> None:
    """Two panels with the same height, one for depth and one for copies."""
    found = dict(sorted(points().items(), key=lambda item: -item[1][2]))
    with mpl.rc_context({"svg.hashsalt": "stakes", "font.size": 9, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 5.0), sharey=True, layout="constrained")
        titles = (
            "images whose class is the third choice or lower, %",
            "altered copies misclassified, %",
        )
        for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
            axis.set_xlim(-4, 170)  # the names stand to the right of 100 %
            axis.set_xticks(range(0, 101, 20))
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(-130, 0.5)
            axis.set_yticks([0, -1, -3, -10, -30, -90], ["0", "−1", "−3", "−10", "−30", "−90"])
            axis.set_xlabel(title, loc="left")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            name(axis, {method: (place[panel], place[2]) for method, place in found.items()})
        axes[0].set_ylabel("retained accuracy, change in points")
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def name(axis: Axes, places: dict[str, tuple[float, float]]) -> None:
    """Draw the points, from the highest to the lowest, and name each in a column beside them.

    The names keep the order of the points and stand at least a line apart; a thin line leads from
    each point to its name.
    """
    scale = axis.transData + axis.transAxes.inverted()
    heights = [float(scale.transform(place)[1]) for place in places.values()]
    for (method, place), height in zip(places.items(), apart(heights, LINE), strict=True):
        colour = SHOWN.get(method, OTHERS)
        axis.plot(*place, "o", color=colour, markersize=5)
        axis.annotate(
            method, place, (0.645, height), textcoords="axes fraction", va="center", fontsize=7.5,
            color=colour,
            arrowprops={
                "arrowstyle": "-", "color": colour, "alpha": 0.4, "lw": 0.6, "relpos": (0, 0.5)
            },
        )  # fmt: skip


def apart(heights: list[float], least: float) -> list[float]:
    """Descending heights moved as little as keeps them ``least`` apart, between ``least`` and 1.

    >>> apart([0.5, 0.5, 0.1], 0.25)
    [0.75, 0.5, 0.25]
    """
    groups: list[tuple[float, int]] = []  # centre and number of neighbours that touch

    def within(centre: float, count: int) -> float:
        half = least * (count - 1) / 2
        return min(max(centre, half + least), 1 - half)

    for height in heights:
        centre, count = within(height, 1), 1
        while groups and groups[-1][0] - centre < least * (groups[-1][1] + count) / 2:
            other, many = groups.pop()
            centre = (other * many + centre * count) / (many + count)
            count += many
            centre = within(centre, count)
        groups.append((centre, count))
    return [centre + least * ((n - 1) / 2 - i) for centre, n in groups for i in range(n)]


if __name__ == "__main__":
    draw(RESULTS / "criteria.svg")
    print(RESULTS / "criteria.svg")
