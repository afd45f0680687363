"""What the paper's figures have in common: their input, their look, their images."""

import base64
import io
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from stakes.report.figures.svg import (
    BAD,
    CARD,
    GOOD,
    INK,
    RC,
    SERIES,
    clean,
    legend,
    short,
    style,
    to_svg,
)
from stakes.report.figures.tradeoffs import marker
from stakes.report.records import Record, thumbnail
from stakes.report.run_folder import RunFolder

#: Method, as the recipe calls it -> its runs by seed; its place is its colour in every figure.
Methods = Mapping[str, Sequence[RunFolder]]
BEFORE = "Before"
WIDTH = 6.4  # inches
FRAMES = {"forget": BAD, "retain": GOOD}  # of images to forget, and of retained ones


class Drawing(NamedTuple):
    """A figure: what it shows, what to know of it, and its SVG."""

    title: str
    note: str
    svg: str


def render(
    draw: Callable[[Figure], None],
    size: tuple[float, float],
    describe: str,
    name: str,
    layout: Literal["constrained"] | None = "constrained",
) -> str:
    """What ``draw`` draws on an empty figure, ``size`` in inches, as SVG text.

    Args:
        draw: gets the figure.
        size: width and height.
        describe: the text for a reader who cannot see the figure.
        name: unique in the page; becomes part of every id in the SVG.
        layout: matplotlib's layout engine; None where ``draw`` places everything itself.
    """
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasSVG(figure)
        draw(figure)
        with warnings.catch_warnings():  # the reader's fonts have the signs that matplotlib's lack
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            return to_svg(figure, clean(describe), name)


def dress(axes: Axes, x: str, y: str) -> Axes:
    """Give axes their labels and the grid of every chart."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    return axes


def line_look(i: int) -> dict[str, Any]:
    """How the lines of method ``i`` look."""
    colour, dash = style(i)
    pattern = (0, tuple(map(int, dash.split()))) if dash != "none" else "solid"
    return {"color": SERIES[colour], "ls": pattern}


def mark_look(i: int) -> dict[str, Any]:
    """How the marks of method ``i`` look."""
    check = {"color": SERIES[style(i)[0]], "mec": CARD, "mew": 0.5, "ls": "none"}
    return {**check, "marker": marker(i), "markersize": 8}


def methods_legend(
    figure: Figure, methods: Methods, drawn: Collection[int], *, marks: bool = False
) -> None:
    """Name below the figure the methods that are in it."""
    check = mark_look if marks else line_look
    handles = [
        Line2D([], [], label=short(name, 40), lw=1.6, **check(i))
        for i, name in enumerate(methods)
        if i in drawn
    ]
    legend(figure, handles)


def examples_by_method(
    methods: Methods,
    kind: str,
    *keys: str,
    good: Callable[[Record], bool] = lambda row: True,
) -> dict[str, dict[tuple[str, str], Record]]:
    """The examples of one kind, the same images by one run of each method that has them.

    Args:
        methods: those without examples are left out.
        kind: of examples, in the evidence.
        keys: where an example has images besides its own; all of them have to be shown.
        good: whether the rest of an example can be shown.

    Returns:
        Method -> examples by what they are of (images to forget, if they do not say) and name.
        Runs of different seeds show different images: these are the ones that most methods have.
    """

    def of(run: RunFolder) -> dict[tuple[str, str], Record]:
        return {
            (str(row.get("of", "forget")), str(row.get("name"))): row
            for row in run.audit.get(kind, [])
            if all(thumbnail(row.get(key)) for key in ("image", *keys)) and good(row)
        }

    found = {name: [rows for rows in map(of, runs) if rows] for name, runs in methods.items()}

    def has(draw: Collection[tuple[str, str]], name: str) -> dict[tuple[str, str], Record]:
        return next((rows for rows in found[name] if not rows.keys().isdisjoint(draw)), {})

    draws = [rows.keys() for own in found.values() for rows in own]
    most = max(draws, key=lambda draw: sum(bool(has(draw, name)) for name in found), default=())
    return {name: rows for name in found if (rows := has(most, name))}


def show_image(axes: Axes, source: str, frame: str, width: float = 1.8) -> None:
    """Show an image that :func:`stakes.report.run_folder.thumbnail` accepts, in a frame."""
    axes.imshow(_pixels(source), interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=frame, linewidth=width)


def place_image(
    figure: Figure, x: float, y: float, side: float, source: str, frame: str, width: float = 1.8
) -> None:
    """Show an image ``x`` inches from the left and ``y`` from the top."""
    axes = figure.axes[0] if figure.axes else _sheet(figure)
    image = AxesImage(axes, extent=(x, x + side, y + side, y), interpolation="none")
    image.set_data(_pixels(source))
    axes.add_image(image)
    axes.add_patch(Rectangle((x, y), side, side, fill=False, color=frame, linewidth=width))


def _sheet(figure: Figure) -> Axes:
    """Axes in inches from the top left, as large as the figure: axes for each image are slow."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(high, 0))
    axes.set_axis_off()
    return axes


def _pixels(source: str) -> Any:
    data = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def place_text(figure: Figure, x: float, y: float, words: str, **check: Any) -> None:
    """Write words ``x`` inches from the left and ``y`` from the top."""
    wide, high = figure.get_size_inches()
    figure.text(x / wide, 1 - y / high, words, **{"color": INK, "fontsize": 8, **check})
