"""The paper's figure on image-to-image retrieval: what queries find, and how often it is right."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stakes.report.figures.drawing import (
    BEFORE,
    FRAMES,
    WIDTH,
    Drawing,
    Methods,
    dress,
    examples_by_method,
    place_image,
    place_text,
    render,
)
from stakes.report.figures.svg import GRID, INK, SERIES, legend, short, style
from stakes.report.records import Record, thumbnail
from stakes.rows import stat

RANKS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "map": "mAP"}
SIDE, STEP, GAP = 0.5, 0.71, 0.07  # inches: of an image, from line to line, between images
FOUND = 5


@dataclass(frozen=True)
class Results:
    """What the queries find by one network: the examples, and which list of them."""

    name: str
    when: str
    rows: dict[tuple[str, str], Record]


def retrieval_sheet(methods: Methods, name: str) -> Drawing | None:
    """Figure 5, left: the retained images nearest to a query, before and by method."""
    found = examples_by_method(methods, "retrieval", good=_whole)
    if not found:
        return None
    first = next(iter(found.values()))
    lines = [Results(BEFORE, "before", first)]
    lines += [Results(method, "after", rows) for method, rows in found.items()]
    blocks = {of: [query for query in first if query[0] == of] for of in ("retain", "forget")}
    wide = SIDE + 1.2 + FOUND * (SIDE + GAP)
    high = len(lines) * STEP + 0.12

    def draw(figure: Figure) -> None:
        for block, (of, queries) in enumerate(blocks.items()):
            x = 0.05 + block * (wide + 0.2)
            words = "query retained" if of == "retain" else "query forgotten"
            place_text(figure, x, 0.2, words, color=FRAMES[of], weight="bold", fontsize=10)
            for place, query in enumerate(queries):
                _query(figure, x, 0.32 + place * high, query, lines)

    alt = "; ".join(
        f"{line.name}, {row.get('of')}: a {row.get('label')} finds "
        + ", ".join(str(item.get("label")) for item in row[line.when])
        for line in lines
        for row in line.rows.values()
    )
    size = (0.1 + 2 * wide + 0.2, 0.35 + max(map(len, blocks.values())) * high)
    return Drawing(
        "Image-to-image retrieval",
        "Each query with the retained images nearest to it by the cosine of features, the "
        "nearest first. ✓: of the query's class, ✗: of another. For a forgotten query (red frame), "
        "fewer ✓ mean more forgotten.",
        render(draw, size, alt, name, None),
    )


def _query(
    figure: Figure, x: float, y: float, key: tuple[str, str], lines: Sequence[Results]
) -> None:
    """A query with a line of what it finds for each network."""
    query = lines[0].rows[key]
    place_image(figure, x, y, SIDE, query["image"], FRAMES[key[0]], 2.5)
    words = short(query.get("label"), 10)
    place_text(figure, x + SIDE / 2, y + SIDE + 0.12, words, ha="center", fontsize=9)
    for r, line in enumerate(lines):
        top, left = y + r * STEP, x + SIDE + 0.12
        name = textwrap.fill(short(line.name, 33), 12)
        place_text(figure, left, top + SIDE / 2, name, va="center", fontsize=9)
        for j, item in enumerate(line.rows.get(key, {}).get(line.when, [])[:FOUND]):
            at = left + 1.05 + j * (SIDE + GAP)
            if thumbnail(item.get("image")) is not None:
                place_image(figure, at, top, SIDE, item["image"], GRID, 0.8)
            sign = "✓" if item.get("label") == query.get("label") else "✗"
            words = f"{sign} {short(item.get('label'), 8)}"
            place_text(figure, at + SIDE / 2, top + SIDE + 0.12, words, ha="center", fontsize=8)


def _whole(row: Record) -> bool:
    """Whether it has lists of what the query finds."""
    found = [row.get("before"), row.get("after")]
    return all(isinstance(f, list) and all(isinstance(item, dict) for item in f) for f in found)


def retrieval_bars(methods: Methods, name: str) -> Drawing | None:
    """Figure 5, right: hit rates and mean average precision of image-to-image retrieval."""
    panels = {"retain": "retained queries: higher is better", "forget": "forgotten: lower"}
    series = {BEFORE: [run for runs in methods.values() for run in runs], **methods}
    heights = {
        (of, label): [
            [
                value
                for run in runs
                if (value := run.number(f"retrieval_{of}_{key}{'_before' * (label == BEFORE)}"))
                is not None
            ]
            for key in RANKS
        ]
        for of in panels
        for label, runs in series.items()
    }
    if not any(value for values in heights.values() for value in values):
        return None

    def draw(figure: Figure) -> None:
        for axes, (of, words) in zip(
            figure.subplots(2, 1, sharex=True), panels.items(), strict=True
        ):
            dress(axes, "", "%")
            axes.set_title(words, fontsize=9, color=INK, loc="left")
            for place, label in enumerate(series):
                _bars(axes, heights[of, label], place, len(series))
            axes.set_ylim(0, 112)
            axes.set_yticks(range(0, 101, 25))
            axes.set_xticks(range(len(RANKS)), list(RANKS.values()))
            axes.tick_params(axis="x", length=0)
        shades = [Patch(color=_shade(i), label=short(label, 40)) for i, label in enumerate(series)]
        legend(figure, shades)

    alt = "; ".join(
        f"{label}, {of}, {rank} {found.mean:.1f}"
        for (of, label), values in heights.items()
        for rank, numbers in zip(RANKS.values(), values, strict=True)
        if (found := stat(numbers))
    )
    return Drawing(
        "Image-to-image retrieval in numbers",
        "The gallery is of retained images, by the cosine of their features. R@k is the hit rate "
        "of metric learning: queries with an image of their class among the k nearest. Means over "
        "runs; whiskers are one standard deviation. The paper prints its bars without numbers.",
        render(draw, (WIDTH, 4.4), alt, name),
    )


def _bars(axes: Axes, groups: Sequence[Sequence[float]], place: int, of: int) -> None:
    """Bar ``place`` of ``of`` in each group, with its number above."""
    wide = 0.84 / of
    for i, values in enumerate(groups):
        found = stat(values)
        if found is None:
            continue
        x, (_, mean, spread) = i + wide * (place - (of - 1) / 2), found
        axes.bar(
            x, mean, 0.92 * wide, yerr=spread if place else None, color=_shade(place), ecolor=INK,
            capsize=1.5, error_kw={"elinewidth": 0.7},
        )  # fmt: skip
        turned = 90 if of > 4 else 0
        top = mean + (spread or 0.0) * bool(place) + 1.5
        axes.text(
            x, top, f"{mean:.0f}", ha="center", va="bottom", fontsize=6, color=INK, rotation=turned
        )


def _shade(place: int) -> str:
    """The colour of a bar: grey for the network before, then the methods'."""
    return INK if place == 0 else SERIES[style(place - 1)[0]]
