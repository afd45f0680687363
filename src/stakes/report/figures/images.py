"""The paper's figures of single images: Grad-CAM, affinities, and where the forgotten ones go.

Each function draws one figure of one run of each method, and gives None where the runs hold no such
evidence.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from stakes.report.figures.drawing import (
    BEFORE,
    FRAMES,
    WIDTH,
    Drawing,
    Methods,
    examples_by_method,
    line_look,
    place_image,
    place_text,
    render,
    show_image,
)
from stakes.report.figures.svg import CARD, INK, SERIES, legend_columns, short
from stakes.report.records import Record, number
from stakes.report.run_folder import RunFolder

SHOWN = 3  # images to forget, and retained ones, with Grad-CAM
CELL, GAP = 0.72, 0.07  # inches
SPOKES = 12  # anchors in a radar chart; beyond, those nearest before
NAMED = 20  # classes to a side of a confusion matrix with names and counts
ACROSS = 3  # confusion matrices side by side


def saliency_sheet(methods: Methods, name: str) -> Drawing | None:
    """Figure 4: Grad-CAM before and after, images to forget in red frames, retained in green."""
    columns = examples_by_method(methods, "saliency", "before", "after")
    if not columns:
        return None
    first = next(iter(columns.values()))
    rows = [(of, name) for of in FRAMES for name in [n for o, n in first if o == of][:SHOWN]]
    heads = ["image", BEFORE, *columns]

    def draw(figure: Figure) -> None:
        for j, words in enumerate(heads):
            middle, lines = left + j * step + CELL / 2, textwrap.fill(short(words, 36), 13)
            place_text(figure, middle, 0.38, lines, ha="center", va="bottom")
        for i, row in enumerate(rows):
            top = 0.45 + i * step
            words = textwrap.fill(short(first[row].get("label"), 30), 13)
            place_text(figure, left - 0.1, top + CELL / 2, words, ha="right", va="center")
            shown = [first[row]["image"], first[row]["before"]]
            shown += [own[row]["after"] if row in own else "" for own in columns.values()]
            for j, image in enumerate(shown):
                if image:
                    place_image(figure, left + j * step, top, CELL, image, FRAMES[row[0]])

    step, left = CELL + GAP, 0.95
    size = (left + len(heads) * step, 0.5 + len(rows) * step)
    alt = f"Grad-CAM of {len(rows)} images before and after {', '.join(columns)}"
    return Drawing(
        "What in the image supports its true class (Grad-CAM)",
        "Red frames: images to forget; green frames: retained images. Evidence before and "
        "after is on one scale; that before is from the run of the first method.",
        render(draw, size, alt, name, None),
    )


def radar(methods: Methods, name: str) -> Drawing | None:
    """Figure 7: affinities of test images with the anchors, before and by method."""
    found = examples_by_method(methods, "affinities", good=_numbers)
    if not found:
        return None
    first = next(iter(found.values()))
    names = next(run.classes for runs in methods.values() for run in runs)
    handles = [
        Line2D([], [], label=short(label, 40), **_look(methods, label))
        for label in (BEFORE, *found)
    ]
    across = legend_columns([str(handle.get_label()) for handle in handles], WIDTH)
    heights = [2.7, 0.5, 0.2 * -(-len(handles) // across) + 0.1]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)
        upper, middle, lower = parts[:, 0]
        for p, (key, row) in enumerate(first.items()):
            axes = upper.add_subplot(1, len(first), p + 1, projection="polar")
            spokes = _spokes(row["before"])
            after = {method: rows[key]["after"] for method, rows in found.items() if key in rows}
            curves = {BEFORE: row["before"], **after}
            _spider(axes, [short(names[c].get("name"), 12) for c in spokes], [
                (_look(methods, label), [values[c] for c in spokes])
                for label, values in curves.items()
            ])  # fmt: skip
            inset = axes.inset_axes((-0.32, 0.86, 0.22, 0.22))
            show_image(inset, row["image"], INK, 0.8)
            inset.set_xlabel(short(row["label"], 12), fontsize=7, color=INK, labelpad=2)
            anchors = "\n".join(
                short(": ".join(str(near[key]) for key in ("anchor", "text") if near.get(key)), 60)
                for near in row.get("nearest", [])
            )
            middle.text(p / len(first) + 0.02, 0.95, anchors, fontsize=7, color=INK, va="top")
        lower.legend(handles=handles, loc="center", ncols=across, frameon=False, labelcolor=INK)

    alt = "Change of affinities, 1 minus the cosine. " + "; ".join(
        f"{method}, {row.get('label')}: {_moved(row):.3f}"
        for method, rows in found.items()
        for row in rows.values()
    )
    described = any(near.get("text") for row in first.values() for near in row.get("nearest", []))
    return Drawing(
        "Affinities of chosen test images with the anchors",
        "Two test images, selected by the seed; farther out means nearer to the anchor, by the "
        "cosine. Below: the three anchors nearest before"
        f"{', with the attributes that they are made of' if described else ''}.",
        render(draw, (WIDTH, sum(heights)), alt, name),
    )


def _moved(row: Record) -> float:
    """1 minus the cosine of an image's affinities before and after."""
    before, after = row["before"], row["after"]
    product = sum(a * b for a, b in zip(before, after, strict=True))
    return 1.0 - float(product / (math.hypot(*before) * math.hypot(*after) or 1.0))


def _numbers(row: Record) -> bool:
    """Whether its affinities are numbers only, as many after as before."""
    lists = [row.get("before"), row.get("after")]
    good = all(isinstance(x, list) and all(number(v) is not None for v in x) for x in lists)
    return good and len(row["before"]) == len(row["after"])


def _spokes(values: Sequence[float]) -> list[int]:
    """The classes to show, in their order: all, or of many those with the greatest values."""
    best = sorted(range(len(values)), key=lambda c: -values[c])
    return sorted(best[:SPOKES])


def _spider(
    axes: Any, spokes: Sequence[str], curves: Sequence[tuple[dict[str, Any], list[float]]]
) -> None:
    """Closed curves over spokes, the first at the top, clockwise."""
    angles = [2 * math.pi * i / len(spokes) for i in range(len(spokes))]
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    for check, values in curves:
        axes.plot([*angles, angles[0]], [*values, values[0]], **check)
    low, high = axes.get_ylim()
    axes.set_rlim(low - 0.15 * (high - low), high)
    axes.set_xticks(angles, spokes)
    axes.tick_params(labelsize=7, pad=1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_rlabel_position(180 / len(spokes))
    axes.grid(lw=0.6)
    axes.spines["polar"].set_visible(False)


def _look(methods: Methods, label: str) -> dict[str, Any]:
    """How a curve looks; that of the network before is broad and grey, to show below others."""
    if label == BEFORE:
        return {"color": INK, "ls": "solid", "lw": 3.5, "alpha": 0.45}
    return {**line_look(list(methods).index(label)), "lw": 1.4}


def confusion(methods: Methods, name: str) -> Drawing | None:
    """Figure 8: true classes of the forget set (rows) against the answers after (columns)."""
    runs = {method: own[0] for method, own in methods.items() if own and _pairs(own[0])}
    if not runs:
        return None
    across = min(ACROSS, len(runs))
    down = -(-len(runs) // across)
    pairs = {method: _pairs(run) for method, run in runs.items()}

    def draw(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(runs) :]:
            axes.set_axis_off()
        for (method, run), axes in zip(runs.items(), grid.flat, strict=False):
            classes = [str(item.get("name")) for item in run.classes]
            axes.set_title(short(method, 30), fontsize=9, color=INK)
            _matrix(axes, classes, pairs[method])
        figure.supylabel("true class", fontsize=8, color=INK)
        figure.supxlabel("answer after unlearning", fontsize=8, color=INK)

    alt = "; ".join(
        f"{method}: {label} as {answer} ({count})"
        for method, own in pairs.items()
        for (label, answer), count in own.most_common(3)
    )
    width = max(3.4, min(WIDTH + 1, 3.0 * across))
    return Drawing(
        "Where the forgotten images go",
        "True classes of the images to forget in rows, answers after unlearning in columns; the "
        "diagonal shows what is still recognised.",
        render(draw, (width, 0.4 + down * width / across), alt, name),
    )


def _pairs(run: RunFolder) -> Counter[tuple[str, str]]:
    """How often which class is answered with which."""
    scored = [item for item in run.forget if item.get("after") is not None]
    return Counter((run.class_name(item.get("label")), str(item["after"])) for item in scored)


def _matrix(axes: Axes, classes: Sequence[str], pairs: Counter[tuple[str, str]]) -> None:
    place = {name: i for i, name in enumerate(classes)}
    most = max(pairs.values(), default=1)
    named = len(classes) <= NAMED
    for (label, answer), count in pairs.items():
        if label not in place or answer not in place:
            continue
        x, y = place[answer], place[label]
        shade = 0.2 + 0.7 * count / most
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=SERIES[0], alpha=shade, lw=0))
        if named:
            ink = CARD if shade > 0.5 else INK
            axes.text(x, y, str(count), ha="center", va="center_baseline", fontsize=7, color=ink)
    axes.plot([-0.5, len(classes) - 0.5], [-0.5, len(classes) - 0.5], color=INK, lw=0.4, ls=":")
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), aspect="equal")
    if named:
        words = [short(name, 12) for name in classes]
        axes.set_xticks(range(len(classes)), words, rotation=90)
        axes.set_yticks(range(len(classes)), words)
    axes.tick_params(labelsize=7, length=2)
    for spine in axes.spines.values():
        spine.set_visible(True)
