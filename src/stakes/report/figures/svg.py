"""Charts as small SVG text that takes its colours and its font from the page around it.

Colours are drawn as stand-ins and then replaced by CSS
variables, so that one drawing serves light, dark and print.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stakes.report.run_folder import RunFolder

COLOURS = 6
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 2), (2, 2), (6, 2, 2, 2))
STYLES = COLOURS * len(DASHES)
POINTS = 400
SIZE = (3.7, 2.4)  # inches of 72 units; small, so that text stays readable on a phone
COLUMNS, LINE = 4, 0.18  # of a legend, and inches a line
ENTRY, SIGN = 34.0, 5.0  # points that a legend's entry takes, and each sign of its label
LONGEST = 40  # signs of a label

INK, GRID, CARD, GOOD, BAD = "#010203", "#010204", "#010205", "#010206", "#010207"
SERIES = tuple(f"#0102{16 + i:02x}" for i in range(COLOURS))
_VARIABLES = {
    INK: "--chart-ink", GRID: "--chart-grid", CARD: "--card", GOOD: "--good", BAD: "--bad",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}  # fmt: skip
#: matplotlib's settings for every chart.
RC: Any = {  # the stubs want each key as a literal type
    "svg.fonttype": "none",
    "text.parse_math": False,
    "image.composite_image": False,  # every image stays as sharp as it is
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Line:
    """One line: its name, its style number (see :func:`style`) and its finite points."""

    name: str
    style: int
    x: list[float]
    y: list[float]


class Chart(NamedTuple):
    """A drawing and its title."""

    title: str
    svg: str


def run_charts(run: RunFolder, name: str) -> list[Chart]:
    """The curves of one run: forgetting, loss terms, structural drift, as far as recorded."""
    terms = {key: key.removeprefix("term_") for record in run.history for key in record}
    terms = {key: words for key, words in terms.items() if key.startswith("term_")}
    charts = [
        _curves(
            "Forget images still recognised, %",
            _lines(run, {"forget_accuracy": "still recognised"}),
            f"{name}-forget",
        ),
        _curves("Loss and its terms", _lines(run, {"loss": "sum", **terms}), f"{name}-loss"),
        _curves("Structural drift", _lines(run, {"drift": "drift"}), f"{name}-drift"),
    ]
    return [chart for chart in charts if chart is not None]


def comparison_charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """The curves of the first 24 runs over each other, and how far their features moved."""
    shown = list(enumerate(runs[:STYLES]))
    charts = []
    for key, title in (
        ("forget_accuracy", "Forget images still recognised, %"),
        ("drift", "Structural drift"),
    ):
        lines = [Line(f"{i + 1}  {r.title}", i, *r.points(key)) for i, r in shown]
        charts.append(_curves(title, [line for line in lines if line.x], f"all-{key}"))
    charts += consistency_chart(runs, "all-consistency")
    return [chart for chart in charts if chart is not None]


def consistency_chart(runs: Sequence[RunFolder], name: str) -> list[Chart]:
    """Density of the cosine between a retained image's features before and after."""
    lines = []
    for i, run in enumerate(runs[:STYLES]):
        x, y = run.density()
        peak = max(y, default=0.0)
        if peak > 0:
            heights = [value / peak for value in y]
            lines.append(Line(f"{i + 1}  {run.title}", i, x, heights))
    if not lines:
        return []
    title = "Cosine of features before and after (retained images; peaks set to 1)"
    alt = "; ".join(
        f"{line.name}: most at a cosine of {line.x[line.y.index(1.0)]:.4g}, least {line.x[0]:.4g}"
        for line in lines
    )
    label = "cosine; 1 = unchanged"
    svg = line_chart(lines, describe=f"{title}. {alt}.", name=name, label=label)
    return [Chart(title, svg)]


def _lines(run: RunFolder, names: dict[str, str]) -> list[Line]:
    lines = [Line(name, i, *run.points(key)) for i, (key, name) in enumerate(names.items())]
    return [line for line in lines if line.x]


def _curves(title: str, lines: list[Line], name: str) -> Chart | None:
    if not lines:
        return None
    alt = "; ".join(
        f"{line.name}: {line.y[0]:.4g} at step {line.x[0]:g}, {line.y[-1]:.4g} at {line.x[-1]:g}"
        for line in lines
    )
    svg = line_chart(lines, describe=f"{title}. {alt}.", name=name, percent=title.endswith("%"))
    return Chart(title, svg)


def style(index: int) -> tuple[int, str]:
    """Colour number and SVG dash pattern of series ``index``; every index below 24 differs.

    Neighbours differ in colour and in dash, so that neither is needed to tell them apart.

    >>> style(0), style(1)
    ((0, 'none'), (1, '6 2'))
    >>> len({style(i) for i in range(STYLES)})
    24
    """
    dash = DASHES[(index % COLOURS + index // COLOURS) % len(DASHES)]
    return index % COLOURS, " ".join(map(str, dash)) or "none"


def thin(values: Sequence[float], limit: int = POINTS) -> list[float]:
    """At most ``limit`` + 1 of the values, evenly spaced, the first and the last among them.

    >>> thin([0, 1, 2, 3, 4, 5, 6], limit=3)
    [0, 3, 6]
    """
    every = max(1, math.ceil(len(values) / limit))
    thinned = list(values[::every])
    return thinned if (len(values) - 1) % every == 0 else [*thinned, values[-1]]


def line_chart(
    lines: Sequence[Line],
    *,
    describe: str,
    name: str,
    percent: bool = False,
    label: str = "step",
) -> str:
    """Lines over steps, or whatever ``label`` says, as SVG text.

    Args:
        lines: what to draw; where there are several, a legend names them.
        describe: the text for a reader who cannot see the chart.
        name: unique in the page; becomes part of every id in the SVG.
        percent: fix the vertical axis to 0..100.
        label: of the horizontal axis.
    """
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        names = [line.name for line in lines] if len(lines) > 1 else []
        figure, axes = new_axes(label, names)
        for line in lines:
            colour, dash = style(line.style)
            pattern = (0, tuple(map(int, dash.split()))) if dash != "none" else "solid"
            x, y = thin(line.x), thin(line.y)
            marker = "o" if len(x) == 1 else ""
            axes.plot(x, y, color=SERIES[colour], ls=pattern, lw=1.6, marker=marker, clip_on=False)
        if percent:
            axes.set_ylim(0, 100)
        if names:
            legend(figure, [named(*pair) for pair in zip(axes.lines, names, strict=True)])
        return to_svg(figure, describe, name)


def named(line: Line2D, name: str) -> Line2D:
    """A line with its name for a legend."""
    line.set_label(short(name, LONGEST))
    return line


def new_axes(x_label: str, names: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """An empty figure; to be drawn upon, and written, under :data:`RC`.

    Args:
        x_label: of the horizontal axis.
        names: for the legend that it is to have room for.
    """
    width, height = SIZE
    across = legend_columns([short(name, LONGEST) for name in names], width)
    figure = Figure((width, height + LINE * -(-len(names) // across)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put a legend below the figure."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns([str(h.get_label()) for h in handles], figure.get_figwidth()),
        frameon=False,
        labelcolor=INK,
    )


def legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns of a legend as its longest label leaves room for, in so many inches."""
    longest = max(map(len, labels), default=0)
    return max(1, min(COLUMNS, int(72 * width / (ENTRY + SIGN * longest)), len(labels)))


def clean(text: object) -> str:
    r"""Text without what no XML file may hold, such as the bytes of a name that is no text.

    >>> clean("a\x07b\udcff") == "a\ufffdb\ufffd"
    True
    """
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))


def short(text: object, most: int) -> str:
    """Clean text of at most so many characters.

    >>> short("aquarium fish", 9), short("cat", 9)
    ('aquarium…', 'cat')
    """
    words = clean(text)
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def to_svg(figure: Figure, describe: str, name: str) -> str:
    """The figure as an inline <svg>: no size of its own, ids that are unique in the page."""
    buffer = io.StringIO()
    # no date and no creator: the same input gives the same bytes
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # its <style> would apply to the whole page; fonts come from the page
    unwanted = r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;]*; "
    text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = re.sub(r'(<image [^>]*?) id="[^"]*"', r"\1", text)  # the same image has the same
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = (
        f'<svg {box.group()} role="img" aria-label="{escape(describe)}"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()
