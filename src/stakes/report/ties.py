"""How strongly each image is still tied to its class: the chart of the first page."""

from typing import NamedTuple

from stakes.report.formats import percent
from stakes.report.records import Record
from stakes.report.run_folder import RunFolder

EACH, MOST = 24, 16  # images that all have a line of their own; of more, the most tied
TICKS = (0, 25, 50, 75, 100)


class Tie(NamedTuple):
    """A line of the chart: the image, and what its true class gets, in percent."""

    image: Record
    before: float | None
    after: float
    mirrored: float | None

    @property
    def words(self) -> str:
        """The line for those who cannot see it."""
        image = f"{self.image.get('label')} to {self.image.get('after')}"
        parts = {"before": self.before, "after": self.after, "mirrored, after": self.mirrored}
        values = ", ".join(
            f"{key} {percent(value)}" for key, value in parts.items() if value is not None
        )
        return f"{image}: {values}"


class Ties(NamedTuple):
    """The chart.

    Attributes:
        lines: those shown one by one, the most tied first.
        all: how many images there are.
        strips: of all images, before, after and mirrored: (words, values in percent), drawn where
            not every image has a line.
    """

    lines: list[Tie]
    all: int
    strips: list[tuple[str, str, list[float]]]


def ties(run: RunFolder) -> Ties | None:
    """The chart of a run; None where the depth was not measured."""
    found = [
        Tie(image, image["true_before"], image["true_after"], image["mirrored_after"])
        for image in run.images
        if image["true_after"] is not None
    ]
    if not found:
        return None
    found.sort(key=lambda tie: -tie.after)
    strips = [
        (kind, words, [value for tie in found if (value := getattr(tie, kind)) is not None])
        for kind, words in (
            ("before", "before"),
            ("after", "after"),
            ("mirrored", "mirrored, after"),
        )
    ]
    if len(found) <= EACH:
        return Ties(found, len(found), [])
    return Ties(found[:MOST], len(found), strips)
