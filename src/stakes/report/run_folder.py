"""What a run folder says: its row, its history and its evidence, read and checked.

``row.json`` must be there; what the other files or keys leave out counts as not measured.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from stakes.errors import InputError
from stakes.manifest import check_manifest
from stakes.rows import Outcome

CLASSES = 20
AUDIT = ("membership", "consistency", "saliency", "retrieval", "affinities", "duplicates")

Record = dict[str, Any]
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
    "seconds_probes": "Making stand-in images (probes)",
    "seconds_importance": "Weighing the parameters",
    "seconds_unlearn": "Unlearning",
    "seconds_pull_back": "Going back towards the original while all stays forgotten",
    "seconds_evaluate": "Scoring before and after",
}
#: Keys of older run folders -> what they are called now.
RENAMED = {
    "picture": "image",
    "second_choice": "foretold",
    "chosen_hold": "chosen_feature_scale",
    "chosen_hold_why": "chosen_feature_scale_why",
    "chosen_push": "chosen_views_scale",
    "chosen_push_why": "chosen_views_scale_why",
    "method_deletion": "method_deletion_loss",
    "method_retention": "method_retention_loss",
}
#: Control characters, and those that turn the direction of what follows.
UNSEEN = dict.fromkeys(
    code
    for first, last in ((0, 8), (11, 31), (127, 159), (0x202A, 0x202E), (0x2066, 0x2069))
    for code in range(first, last + 1)
)
CUT_SHORT = {Outcome.BUDGET, Outcome.DIVERGED, Outcome.LIMIT}
THUMBNAIL = re.compile(r"data:image/(png|jpeg|webp);base64,([A-Za-z0-9+/]+={0,2})")


class Row(dict[str, Any]):
    """A record in which what is not there is None: not measured, or not recorded."""

    def __missing__(self, key: str) -> None:
        return None


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
        before, as far as it can be told.
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
    return FORGOTTEN if known else NEVER


def _pairs(records: Sequence[Record], one: str, other: str) -> tuple[list[float], list[float]]:
    """Two quantities of the records in which both are finite numbers."""
    pairs = [(number(record.get(one)), number(record.get(other))) for record in records]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


def read_run(folder: Path, name: str | None = None) -> RunFolder:
    """Read a run folder; only ``row.json`` must be there.

    Raises:
        InputError: if ``row.json`` is missing, a file cannot be read as what it should be, or is
            not the one that the run wrote (see :mod:`stakes.manifest`).
    """
    if not (folder / "row.json").is_file():
        raise InputError(f"{folder} is not a run folder (no row.json)")
    check_manifest(folder)
    (row,) = _records(folder / "row.json")
    (evidence,) = _records(folder / "evidence.json") or [{}]
    history = _records(folder / "history.jsonl", lines=True)
    lists: dict[str, list[Record]] = {}
    for key in ("classes", "forget", *AUDIT):
        items = evidence.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            path = folder / "evidence.json"
            raise InputError(f"{path} is damaged: '{key}' is no list of records; run it again")
        lists[key] = items
    name = name or folder.resolve().name
    audit = {key: lists[key] for key in AUDIT}
    return RunFolder(name, Row(row), history, lists["classes"], lists["forget"], audit)


def _records(path: Path, *, lines: bool = False) -> list[Record]:
    """The JSON object of a file, or of each of its lines; none where there is no file."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        parts = [part for part in text.split("\n") if part.strip()] if lines else [text]
        records = [json.loads(part, object_hook=_migrated) for part in parts]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); run it again") from error
    if not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path} is damaged: expected a JSON object; run it again")
    return records


def _migrated(record: Record) -> Record:
    """A record under today's keys, whichever version wrote it."""
    return {_plain(RENAMED.get(key, key)): _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    r"""Text without control characters and changes of direction, which could hide what it says.

    >>> _plain("a\N{RIGHT-TO-LEFT OVERRIDE}b\x1b")
    'ab'
    """
    if isinstance(value, str):
        return value.translate(UNSEEN)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def read_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """Read run folders, each named by the last part of its path, or the last two if need be.

    Raises:
        InputError: see :func:`read_run`.
    """
    parts = [Path(folder).resolve().parts for folder in folders]
    last = [part[-1] for part in parts]
    names = [p[-1] if last.count(p[-1]) == 1 else "/".join(p[-2:]) for p in parts]
    return [read_run(Path(f), name) for f, name in zip(folders, names, strict=True)]


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else.

    >>> number(3), number(float("nan")), number("3"), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the floats
        return None


def minus(a: float | None, b: float | None) -> float | None:
    """``a - b``, or None where either is."""
    return None if a is None or b is None else a - b


def thumbnail(source: object) -> Record | None:
    """An embedded image as {source, width, height} (sizes only of a PNG), else None.

    Anything but image data, such as an address elsewhere, is refused: a page must fetch nothing.

    >>> thumbnail("https://example.org/spy.png") is None
    True
    """
    match = THUMBNAIL.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        return None
    try:
        data = base64.b64decode(match[2], validate=True)
    except ValueError:
        return None
    size: tuple[int | None, int | None] = (None, None)
    if match[1] == "png":
        if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
            return None
        size = struct.unpack(">II", data[16:24])
    return {"source": source, "width": size[0], "height": size[1]}
