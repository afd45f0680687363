"""What the evidence on single images shows: which classes they are given now, and why."""

from collections import Counter
from typing import NamedTuple

from stakes.report.records import Record, thumbnail
from stakes.report.run_folder import RunFolder

MATRIX = 20  # classes to a side; beyond, the most frequent pairs are listed


class Confusion(NamedTuple):
    """Answers on the forget images by true class: a matrix, or of many classes a list of pairs.

    Attributes:
        classes: of the columns; empty where pairs are listed instead.
        rows: (true class, its (answer, count) for each column).
        most: the greatest count.
        pairs: (true class, answer, count), the most frequent first.
        left: how many pairs are left out.
    """

    classes: list[str]
    rows: list[tuple[str, list[tuple[str, int]]]]
    most: int
    pairs: list[tuple[str, str, int]]
    left: int


def confusion(run: RunFolder) -> Confusion | None:
    """Which class the forget images of each class are given now; None where not recorded."""
    scored = [item for item in run.forget if item.get("after") is not None]
    pairs = Counter((run.class_name(item.get("label")), str(item["after"])) for item in scored)
    if not pairs:
        return None
    order = {str(item.get("name")): i for i, item in enumerate(run.classes)}
    names = sorted({name for pair in pairs for name in pair}, key=lambda n: (order.get(n, -1), n))
    if len(names) > MATRIX:
        listed = [(*pair, n) for pair, n in pairs.most_common()]
        return Confusion([], [], 0, listed[:MATRIX], len(listed[MATRIX:]))
    labels = {label for label, _ in pairs}
    rows = [(a, [(b, pairs[a, b]) for b in names]) for a in names if a in labels]
    return Confusion(names, rows, max(pairs.values()), [], 0)


def saliency(run: RunFolder) -> list[Record]:
    """The images with Grad-CAM; those whose image data cannot be shown are left out."""
    items = []
    for item in run.audit.get("saliency", []):
        images = {key: thumbnail(item.get(key)) for key in ("image", "before", "after")}
        if all(images.values()):
            items.append({**{key: item.get(key) for key in ("of", "name", "label")}, **images})
    return items
