"""Draw what each method's runs keep against how deep and how broadly they forget.

python benchmarks/criteria_chart.py          writes results/criteria.svg from the rows kept there
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
ROWS = ("cifar10-resnet20", "structguard-deep", "structguard-copies")
SHOWN = {
    "STRUCTGUARD": "#b8420f",
    "STRUCTGUARD (exact)": "#b8420f",
    "STRUCTGUARD (deep)": "#7a1fa2",
    "STRUCTGUARD (views, public images)": "#00695c",
}
K = 16


def points() -> dict[str, tuple[float, float, float]]:
    """Method -> share of images at the third choice or lower, of copies misclassified, change."""
    found = defaultdict(list)
    for name in ROWS:
        path = RESULTS / f"{name}.rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            if row["k"] == K and row["cell_network"] == "ResNet-20" and "forget_top2" in row:
                found[row["cell_method"]].append(row)
    return {
        method: (
            fmean(100 - row["forget_top2"] for row in rows),
            fmean(100 - row["forget_views"] for row in rows),
            fmean(row["acc_retain"] - row["acc_retain_before"] for row in rows),
        )
        for method, rows in found.items()
    }


def draw(path: Path) -> None:
    """Two panels with the same height, one for depth and one for copies."""
    with mpl.rc_context({"svg.hashsalt": "stakes", "font.size": 9, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
        titles = (
            "images whose class is the third choice or lower, %",
            "altered copies misclassified, %",
        )
        for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
            for method, place in sorted(points().items()):
                colour = SHOWN.get(method, "#777777")
                axis.plot(place[panel], place[2], "o", color=colour, markersize=5)
                axis.annotate(
                    method, (place[panel], place[2]), color=colour, fontsize=7,
                    xytext=(4, 3), textcoords="offset points",
                )  # fmt: skip
            axis.set_xlim(-5, 130)
            axis.set_xticks(range(0, 101, 20))
            axis.set_yscale("symlog", linthresh=1)
            axis.set_yticks([0, -1, -3, -10, -30, -90], ["0", "−1", "−3", "−10", "−30", "−90"])
            axis.set_xlabel(title)
            axis.grid(alpha=0.25)
        axes[0].set_ylabel("retained accuracy, change in points")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(RESULTS / "criteria.svg")
    print(RESULTS / "criteria.svg")
