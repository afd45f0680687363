"""The figures of a benchmark's runs, those of "Stake the Points" (CVPR 2026) and one of our own."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stakes.files import write_text
from stakes.report.figures.charts import (
    collapse,
    collapse_against_accuracy,
    consistency,
    sensitivity,
)
from stakes.report.figures.copies import copies_against_accuracy
from stakes.report.figures.drawing import Drawing, Methods
from stakes.report.figures.images import confusion, radar, saliency_sheet
from stakes.report.figures.retrieval import retrieval_bars, retrieval_sheet
from stakes.report.figures.svg import clean
from stakes.report.run_folder import RunFolder

#: Number in the paper, or a name -> what draws it, given the runs by method and a name for its ids.
FIGURES: Mapping[str, Callable[[Methods, str], Drawing | None]] = {
    "2a": collapse,
    "2b": collapse_against_accuracy,
    "4": saliency_sheet,
    "5a": retrieval_sheet,
    "5b": retrieval_bars,
    "6": consistency,
    "7": radar,
    "8": confusion,
    "9": sensitivity,
    "copies": copies_against_accuracy,
}
#: Number -> which run of each method it shows, where that is one.
SHOWN = {
    **dict.fromkeys(("4", "5a", "7"), " One run of each method, all of the same images."),
    "8": " The first run of each method.",
}
STYLE = Path(__file__).parents[1] / "templates" / "style.css"


class Named(NamedTuple):
    """A run with the names that the recipe shows it by."""

    network: str
    k: int | None
    method: str
    run: RunFolder


@dataclass(frozen=True)
class Plate:
    """A figure of the paper: the stem of its file, its heading, what to know of it, its SVG."""

    stem: str
    heading: str
    note: str
    svg: str

    def file(self) -> str:
        """The SVG as a file of its own: with a size, a description, and the light colours."""
        light = dict(re.findall(r"(--[\w-]+): (#\w+)", STYLE.read_text("utf-8").partition("}")[0]))
        svg = re.sub(r"var\((--[\w-]+)\)", lambda match: light.get(match[1], match[0]), self.svg)
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert box is not None
        head, _, rest = svg.partition(">")
        size = f'width="{float(box[1]):g}pt" height="{float(box[2]):g}pt"'
        look = 'style="background: #fff; font-family: sans-serif"'
        head = head.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}', 1)
        said = f"<title>{_escaped(self.heading)}</title>\n<desc>{_escaped(self.note)}</desc>"
        return f"{head}>\n{said}\n{rest}\n"


def plates(figures: Sequence[str], shown: Sequence[Named]) -> list[Plate]:
    """The figures by their keys in :data:`FIGURES`, one of each network and k.

    What the runs did not measure is left out.
    """
    groups: dict[tuple[str, int | None], dict[str, list[RunFolder]]] = {}
    for item in shown:
        group = groups.setdefault((item.network, item.k), {})
        group.setdefault(item.method, []).append(item.run)
    found = []
    for number in figures:
        for (network, k), methods in groups.items():
            of = [network, *([] if k is None else [f"k = {k}"])]
            more = re.sub(r"[^a-z0-9]+", "-", "-".join(of).lower()) if len(groups) > 1 else ""
            stem = f"figure-{number}{'-' * bool(more)}{more}"
            drawing = FIGURES[number](methods, stem)
            if drawing is not None:
                paper = f"Figure {number}. " if number[0].isdigit() else ""
                heading = f"{paper}{drawing.title}: {', '.join(of)}"
                note = drawing.note + SHOWN.get(number, "")
                found.append(Plate(stem, heading, note, drawing.svg))
    return found


def write_plates(found: Sequence[Plate], out: Path) -> list[Path]:
    """Write each figure to a file of its own in ``out``, in the place of those that were there."""
    for old in out.glob("figure-*.svg"):
        old.unlink()
    paths = [out / f"{plate.stem}.svg" for plate in found]
    for plate, path in zip(found, paths, strict=True):
        write_text(path, plate.file())
    return paths


def _escaped(text: str) -> str:
    return clean(text).replace("&", "&amp;").replace("<", "&lt;")
