"""What one run means: its row, its history and its evidence as counts, changes and states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from stakes.report.records import Record, Row, minus, number, preserved, thumbnail
from stakes.rows import Outcome, own_keys

CLASSES = 20

ACCURACIES = {
    "acc_test": "Test accuracy",
    "acc_retain": "Accuracy on retained training data",
    "acc_forget": "Forget images still recognised",
}
AUDITED = {
    "mia_forget_loss": "membership inference",
    "probe_forget": "what the features still know",
    "consistency": "representation consistency",
    "relearn_forget": "relearning speed",
    "retrieval_retain_map": "image-to-image retrieval",
    "contrast_forget": "an attack by altered copies",
}
VIEWS = {
    "forget_flip": "mirrored",
    "forget_shift": "moved by a tenth",
    "forget_crop": "cropped to seven eighths",
    "forget_noise": "with light noise",
    "forget_jpeg": "saved as JPEG",
    "forget_light": "darker or brighter",
}
FORGOTTEN, RECOGNISED, NEVER = "forgotten", "still recognised", "never recognised"
#: Of single images in the evidence: of the true class, probability in percent and rank.
DEPTH = (
    "true_before", "true_after", "rank_before", "rank_after", "mirrored_before", "mirrored_after",
    "copies", "copies_before", "copies_after",
)  # fmt: skip
WHOLE_CLASSES = {
    "acc_test_forgotten_classes": "Test images of the forgotten classes",
    "acc_test_kept_classes": "Test images of all other classes",
}
OTHER_PATH = {"direct": "projected", "projected": "direct", "lookup": "bare"}
PHASES = {
    "seconds_probes": "Making surrogate images (probes)",
    "seconds_importance": "Computing the importance of weights",
    "seconds_unlearn": "Unlearning",
    "seconds_pull_back": "Moving back towards the original weights",
    "seconds_evaluate": "Scoring before and after",
}
CUT_SHORT = {Outcome.BUDGET, Outcome.DIVERGED, Outcome.LIMIT}


class States(NamedTuple):
    """How many images are in which state; only what was recognised before can be forgotten."""

    forgotten: int
    recognised: int
    never: int

    @property
    def all(self) -> int:
        """All images that were to be forgotten."""
        return sum(self)


@dataclass(frozen=True)
class RunFolder:
    """What one run folder says; ``name`` tells it from the other runs of the page.

    ``audit`` holds the further lists of the evidence by their names (see
    :mod:`stakes.evaluation.audit` and :mod:`stakes.evaluation.examples`).
    """

    name: str
    row: Row
    history: list[Record]
    classes: list[Record]
    forget: list[Record]
    audit: Mapping[str, list[Record]] = field(default_factory=dict)

    def number(self, key: str) -> float | None:
        """The row's finite number under ``key``; None where it was not measured."""
        return number(self.row.get(key))

    def change(self, key: str) -> float | None:
        """After minus before, in percentage points."""
        return minus(self.number(key), self.number(f"{key}_before"))

    @property
    def preserved(self) -> dict[str, float]:
        """See :func:`stakes.report.records.preserved`."""
        return preserved(self.row)

    @property
    def own(self) -> list[tuple[str, float | None, float | None]]:
        """(key, before, after) of the measures of the user's own."""
        keys = own_keys(self.row)
        return [(key, self.number(f"{key}_before"), self.number(key)) for key in keys]

    def count(self, key: str) -> int | None:
        """A percentage of the forget images as a number of images."""
        value = self.number(key)
        if value is None or self.k is None:
            return None
        return max(int(value > 0), round(value * self.k / 100))  # a few of many are not none

    @cached_property
    def k(self) -> int | None:
        """How many images were to be forgotten."""
        value = self.number("k")
        return int(value) if value is not None else len(self.forget) or None

    @property
    def states(self) -> States | None:
        """How many images are forgotten, recognised, or never were; None if not measured.

        Rows of older versions do not count what never was: then it is what was not recognised
        before, as far as the row says.
        """
        keys = ("n_forgotten", "n_recognised", "n_never_recognised")
        counts = [number(self.row.get(key)) for key in keys]
        if None not in counts:
            return States(*(int(count) for count in counts if count is not None))
        left, before = self.count("acc_forget"), self.count("acc_forget_before")
        if left is None or self.k is None:
            return None
        never = 0 if before is None else max(0, min(self.k - before, self.k - left))
        return States(self.k - left - never, left, never)

    @property
    def new_answers(self) -> int | None:
        """How many images lost their class in this run; None if not measured.

        Images that an earlier run made the network forget are forgotten too, but had lost it.
        """
        forgotten = self.number("n_forgotten")
        if forgotten is None:
            wrong = self.number("n_wrong")  # in rows of older versions
            return None if wrong is None else int(wrong)
        lost = [
            item
            for item in self.forget
            if item.get("state") == FORGOTTEN
            and item.get("before") is not None
            and str(item["before"]) != self.class_name(item.get("label"))
        ]
        return int(forgotten) - len(lost)

    @property
    def title(self) -> str:
        """The method's title, else its name."""
        return str(self.row.get("method_title") or self.row.get("method") or "unnamed method")

    @property
    def fields(self) -> Record:
        """The method's hyper-parameters."""
        return {
            key.removeprefix("method_"): value
            for key, value in self.row.items()
            if key.startswith("method_") and key != "method_title"
        }

    @property
    def forgotten(self) -> float | None:
        """100 - A_f: the percentage of forget images that get another class."""
        return minus(100.0, self.number("acc_forget"))

    @property
    def copies_forgotten(self) -> float | None:
        """The percentage of altered copies of the forget images that get another class."""
        return minus(100.0, self.number("forget_views"))

    @property
    def cut_short(self) -> bool:
        """Whether the run was ended by its budget or a breakdown, and not by its goal."""
        return Outcome.of(self.row) in CUT_SHORT

    @property
    def other_path(self) -> str | None:
        """The path through the network that is not deployed, where it was scored too."""
        other = OTHER_PATH.get(str(self.row.get("deploy")), "projected")
        scored = any(self.number(f"{key}_{other}") is not None for key in ACCURACIES)
        return other if scored else None

    @property
    def phases(self) -> list[tuple[str, float, float]]:
        """(phase, seconds, percent of the total), with what no phase accounts for."""
        spent = {
            PHASES.get(key, key.removeprefix("seconds_").replace("_", " ")): seconds
            for key in self.row
            if key.startswith("seconds_") and key != "seconds_total"
            if (seconds := self.number(key)) is not None
        }
        total = self.number("seconds_total") or sum(spent.values())
        rest = total - sum(spent.values())
        if spent and rest > 0.01 * total:
            spent["Everything else"] = rest
        return [(name, s, min(100.0, 100 * s / total) if total else 0) for name, s in spent.items()]

    @property
    def missing(self) -> list[str]:
        """In words, the measures that this run did not take."""
        views = {key: f"images {words}" for key, words in VIEWS.items()}
        names = {**ACCURACIES, **views, "drift_probes": "structural drift", **AUDITED}
        return [name for key, name in names.items() if self.number(key) is None]

    @property
    def images(self) -> list[Record]:
        """The evidence on each forget image: the still recognised first, then the most tied."""
        named = [{**item, "label": self.class_name(item.get("label"))} for item in self.forget]
        for item in named:
            item["state"] = _state(item)
            item["thumbnail"] = thumbnail(item.get("thumbnail"))
            for key in DEPTH:
                item[key] = number(item.get(key))
        named.sort(key=lambda item: -(item["true_after"] or 0.0))
        return sorted(named, key=lambda item: item["state"] != RECOGNISED)

    @property
    def shows_images(self) -> bool:
        """Whether the evidence holds the forget images themselves."""
        return any(thumbnail(item.get("thumbnail")) for item in self.forget)

    def class_name(self, label: object) -> str:
        """The name of a class that is given by name or by number."""
        if isinstance(label, int) and 0 <= label < len(self.classes):
            label = self.classes[label].get("name")
        return "unknown" if label is None else str(label)

    @property
    def class_changes(self) -> list[Record]:
        """Per class: accuracies, change, forget images and the bar; greatest loss first.

        Beyond 20 classes, the 20 whose accuracy changed most.
        """
        labels = [self.class_name(item.get("label")) for item in self.forget]
        rows: list[tuple[float, Record]] = []
        for item in self.classes:
            before, after = number(item.get("acc_test_before")), number(item.get("acc_test"))
            change, name = minus(after, before), str(item.get("name"))
            if change is not None:
                values = {"name": name, "before": before, "after": after, "change": change}
                rows.append((change, {**values, "n": item.get("n_test"), "k": labels.count(name)}))
        rows = sorted(rows, key=lambda row: -abs(row[0]))[:CLASSES]
        scale = max([5.0, *(abs(change) for change, _ in rows)])
        for change, row in rows:
            row["width"] = 50 * abs(change) / scale
            row["left"] = 50 - (row["width"] if change < 0 else 0)
        return [row for _, row in sorted(rows, key=lambda row: row[0])]

    def points(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one quantity of the history, where both are finite numbers."""
        return _pairs(self.history, "step", key)

    def density(self) -> tuple[list[float], list[float]]:
        """Cosines of features before and after, and how dense they are there."""
        return _pairs(self.audit.get("consistency", []), "cosine", "density")


def _state(item: Record) -> str | None:
    """What became of an image; None where it was not scored."""
    if item.get("after") is None:
        return None
    if str(item["after"]) == item["label"]:
        return RECOGNISED
    known = item.get("before") is None or str(item["before"]) == item["label"]
    return FORGOTTEN if known or item.get("state") == FORGOTTEN else NEVER  # by an earlier run


def _pairs(records: Sequence[Record], one: str, other: str) -> tuple[list[float], list[float]]:
    """Two quantities of the records in which both are finite numbers."""
    pairs = [(number(record.get(one)), number(record.get(other))) for record in records]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
