"""Formulas between ``$$`` in a page, typeset as the site is built: no script, no font, no server.

What matplotlib's mathtext knows of TeX can stand there. A formula takes the colour of the text
around it, and its TeX is what a screen reader says.
"""

import re
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from mkdocs.structure.pages import Page

from stakes.report.figures.svg import INK, to_svg

FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
SIZE, MARGIN = 15, 2  # points


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Called by mkdocs for each page: put drawings in the place of the formulas."""
    count = iter(range(10**6))
    return FORMULA.sub(lambda found: formula(" ".join(found[1].split()), next(count)), markdown)


def formula(tex: str, number: int) -> str:
    """A formula as a block with an inline SVG; ``number`` tells it from others of its page."""
    text, font = f"${tex}$", FontProperties(size=SIZE)
    look = {"svg.fonttype": "path", "svg.hashsalt": tex, "mathtext.fontset": "cm"}
    with mpl.rc_context(look):
        width, height, depth, _, _ = MathTextParser("path").parse(text, 72, font)
        sides = (width + 2 * MARGIN, height + 2 * MARGIN)
        figure = Figure((sides[0] / 72, sides[1] / 72))
        FigureCanvasSVG(figure)
        place = (MARGIN / sides[0], (MARGIN + depth) / sides[1])
        figure.text(*place, text, fontproperties=font, color=INK)
        svg = to_svg(figure, tex, f"formula-{number}")
    drawn = " ".join(svg.replace("var(--chart-ink)", "currentColor").split())
    style = f"width: {sides[0] / 12:.2f}em"
    return f'\n<p class="formula" style="{style}">{drawn}</p>\n'
