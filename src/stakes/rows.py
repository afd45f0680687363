"""The one table of what is measured: key, unit, direction, meaning, and where it is printed.

Documentation, tables and reports read it from here. Beside it: how numbers of several runs become
one, a mean with its spread.
"""

import statistics
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class Stat(NamedTuple):
    """Mean and sample standard deviation of n numbers; no spread where n is 1."""

    n: int
    mean: float
    sd: float | None


def stat(values: Iterable[float | None]) -> Stat | None:
    """Mean and spread of what was measured; None where nothing was.

    >>> stat([1.0, None, 3.0])
    Stat(n=2, mean=2.0, sd=1.4142135623730951)
    >>> stat([5.0]).sd is None, stat([None]) is None
    (True, True)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Stat(len(known), statistics.fmean(known), statistics.stdev(known) if known[1:] else None)


class Metric(NamedTuple):
    """A measured number.

    Attributes:
        unit: empty where it has none.
        better: ``higher``, ``lower``, ``0.5`` (chance; both sides of it are worse), or
            ``reference`` for a number that another one is to be compared with.
        meaning: in plain words.
        label: the heading of its column; empty where no table prints it.
        latex: the heading in a LaTeX table.
        digits: decimals in tables.
        printed: the tables it stands in. ``bench``: what ``stakes bench`` writes, with
            ``measured``: only where some line has it, and ``asked``: only where the recipe asks.
            ``runs``, ``answers``, ``features``: those of a page of several runs.
    """

    unit: str
    better: str
    meaning: str
    label: str = ""
    latex: str = ""
    digits: int = 2
    printed: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit not in ("", "steps") else self.label


BENCH, MEASURED, ASKED = ("bench",), ("bench", "measured"), ("bench", "asked")
RUNS, ANSWERS, FEATURES = ("runs",), ("answers",), ("features",)

METRICS: dict[str, Metric] = {
    "acc_test": Metric(
        "%", "higher", "test images classified correctly",
        "A_test", r"$A_\mathrm{test}$", 2, BENCH + RUNS,
    ),
    "acc_retain": Metric(
        "%", "higher", "retained training images classified correctly",
        "A_retain", r"$A_\mathrm{retain}$", 2, BENCH + RUNS,
    ),
    "acc_forget": Metric("%", "lower", "images to forget that are still recognised"),
    "forget_top2": Metric(
        "%", "lower", "images to forget whose true class is the first or second choice",
        "True class 1st or 2nd", "top 2", 2, MEASURED + RUNS,
    ),
    "forget_top5": Metric(
        "%", "lower", "images to forget whose true class is among the first five; of more than "
        "ten classes",
        "True class in top 5", "top 5", 2, MEASURED,
    ),
    "forget_true_probability": Metric(
        "%", "lower", "mean probability of the true class of the images to forget",
        "True class gets", "$p_y$", 2, MEASURED + RUNS,
    ),
    "forget_true_probability_max": Metric(
        "%", "lower", "the same, of the image with the highest",
    ),
    "forget_views": Metric(
        "%", "lower", "mean of the six kinds of altered copies",
        "Copies recognised", "copies", 2, BENCH + RUNS,
    ),
    "forget_flip": Metric(
        "%", "lower", "images to forget, mirrored, still recognised",
        "Mirrored recognised", "flip", 2, BENCH + RUNS,
    ),
    "forget_shift": Metric("%", "lower", "images to forget, shifted by a tenth, still recognised"),
    "forget_crop": Metric("%", "lower", "images to forget, cropped to 7/8, still recognised"),
    "forget_noise": Metric("%", "lower", "images to forget, with light noise, still recognised"),
    "forget_jpeg": Metric("%", "lower", "images to forget, saved as JPEG, still recognised"),
    "forget_light": Metric("%", "lower", "images to forget, darker or brighter, still recognised"),
    "forget_views_top2": Metric(
        "%", "lower", "copies whose true class is the first or second choice, mean of the kinds"
    ),
    "forget_views_true_probability": Metric(
        "%", "lower", "mean probability of the true class of the copies, mean of the kinds"
    ),
    "drift_probes": Metric(
        "", "lower", "change of the structure: 1 - mean cosine of affinities",
        "Structural drift", "drift", 4, BENCH + RUNS,
    ),
    "acc_test_forgotten_classes": Metric(
        "%", "lower", "test images of classes forgotten as a whole, classified correctly",
        "A_test, forgotten classes", "forgotten cl.", 2, MEASURED,
    ),
    "acc_test_kept_classes": Metric(
        "%", "higher", "test images of all other classes, classified correctly",
        "A_test, kept classes", "kept classes", 2, MEASURED,
    ),
    "mia_retain": Metric(
        "AUC", "0.5", "learned attack: retained training images against test images",
        "Retained vs unseen", printed=ANSWERS,
    ),
    "mia_retain_found": Metric(
        "%", "lower", "retained training images identified at 1 % false alarms"
    ),
    "mia_forget": Metric("AUC", "0.5", "the same attack: images to forget against test images"),
    "mia_forget_found": Metric("%", "lower", "images to forget identified at 1 % false alarms"),
    "mia_forget_loss": Metric(
        "AUC", "0.5", "attack by loss alone: images to forget against test images",
        "Forgotten vs unseen, by loss", printed=ANSWERS,
    ),
    "mia_forget_unlikely": Metric(
        "%", "lower", "images to forget that have a higher loss than 99 % of test images",
        "Forgotten that stand out", printed=ANSWERS,
    ),
    "contrast_forget": Metric(
        "AUC", "0.5", "attack by altered copies: images to forget against test images",
        "Forgotten vs unseen, by copies", printed=ANSWERS,
    ),
    "contrast_forget_found": Metric(
        "%", "lower", "images to forget that it identifies at 1 % false alarms",
        "Forgotten found by copies", printed=ANSWERS,
    ),
    "probe_forget": Metric(
        "%", "lower", "images to forget that a linear probe on the features recognises",
        "New last layer recognises", printed=FEATURES,
    ),
    "probe_test": Metric("%", "reference", "test images that the same probe classifies correctly"),
    "centroid_forget": Metric(
        "%", "lower", "images to forget nearest to the mean features of their class",
        "Nearest class mean recognises", printed=FEATURES,
    ),
    "centroid_test": Metric(
        "%", "reference", "test images nearest to the mean features of their class"
    ),
    "consistency": Metric(
        "", "higher", "mean cosine of retained images' features before and after",
        "Feature consistency", digits=4, printed=FEATURES,
    ),
    "consistency_low": Metric("", "higher", "5 % quantile of that cosine"),
    "retrieval_retain_r1": Metric(
        "%", "higher",
        "retained images whose nearest retained image, by features, has their class (hit rate)",
        "R@1 retained", "R@1 ret.", 2, ASKED,
    ),
    "retrieval_retain_r5": Metric("%", "higher", "the same, among the five nearest"),
    "retrieval_retain_r10": Metric("%", "higher", "the same, among the ten nearest"),
    "retrieval_retain_map": Metric(
        "%", "higher", "mean average precision of retained images as queries among retained images",
        "mAP retained", "mAP ret.", 2, ASKED + FEATURES,
    ),
    "retrieval_forget_r1": Metric(
        "%", "lower", "images to forget whose nearest retained image, by features, has their class",
        "R@1 forgotten", "R@1 forg.", 2, ASKED + FEATURES,
    ),
    "retrieval_forget_r5": Metric("%", "lower", "the same, among the five nearest"),
    "retrieval_forget_r10": Metric("%", "lower", "the same, among the ten nearest"),
    "retrieval_forget_map": Metric(
        "%", "lower", "mean average precision of images to forget as queries among retained images",
        "mAP forgotten", "mAP forg.", 2, ASKED,
    ),
    "foretold": Metric(
        "%", "lower", "new answers on forgotten images that were the original's second choice",
        "Answers predicted", "predicted", 2, MEASURED + ANSWERS,
    ),
    "rf_jsd": Metric(
        "bits", "lower",
        "how far the answers on images to forget are from the original's on unseen ones",
        "RF-JSD", printed=ANSWERS,
    ),
    "answer_entropy": Metric("bits", "higher", "spread of the wrong answers on images to forget"),
    "relearn_forget": Metric(
        "steps", "higher", "gradient steps until forgotten images are recognised again",
        "Steps to relearn", digits=0, printed=ANSWERS,
    ),
    "relearn_test": Metric(
        "steps", "reference", "the same for test images that are misclassified",
        "Steps to learn unseen", digits=0, printed=ANSWERS,
    ),
    "reference_gap": Metric(
        "points", "lower", "difference of the accuracies from the reference's, mean over images "
        "to forget, test and retained images",
        "Gap to reference", "gap", 2, MEASURED,
    ),
    "reference_agreement_forget": Metric(
        "%", "higher", "images to forget that the network and the reference answer alike",
    ),
    "reference_agreement_test": Metric(
        "%", "higher", "test images that both answer alike",
        "Agreement with reference", "agreement", 2, MEASURED,
    ),
    "reference_agreement_retain": Metric(
        "%", "higher", "retained training images that both answer alike",
    ),
    "reference_kl_forget": Metric(
        "bits", "lower", "KL divergence of the answers on images to forget from the reference's",
        "KL to reference, forgotten", "KL", 3, MEASURED,
    ),
    "reference_kl_test": Metric("bits", "lower", "the same on test images"),
    "reference_kl_retain": Metric("bits", "lower", "the same on retained training images"),
}  # fmt: skip
"""What :func:`stakes.evaluation.evaluate.evaluate` and a method's history measure."""

DERIVED: dict[str, Metric] = {
    "forgotten": Metric(
        "%", "higher", "100 - acc_forget: images to forget that get another class",
        "100 − A_f", r"$100-A_f$", 2, BENCH + RUNS,
    ),
}  # fmt: skip
"""What tables work out from the row."""

COST: dict[str, Metric] = {
    "steps": Metric("steps", "reference", "steps of the loop", "Steps", "steps", 0, BENCH + RUNS),
    "seconds_total": Metric(
        "s", "lower", "wall-clock time of everything", "Time", "s", 1, BENCH + RUNS
    ),
    "peak_memory_mb": Metric(
        "MiB", "lower", "most memory held at once", "Peak memory", "MiB", 0, BENCH + RUNS
    ),
}
"""What a run takes."""


def printed_in(table: str) -> dict[str, Metric]:
    """The columns of a table, in order.

    >>> list(printed_in("runs"))[:2]
    ['forgotten', 'acc_test']
    """
    everything = DERIVED | METRICS | COST
    return {key: metric for key, metric in everything.items() if table in metric.printed}


def own_keys(row: Mapping[str, Any]) -> list[str]:
    """The keys of measures of the user's own: measured before and after, and none of ours.

    >>> own_keys({"acc_test_before": 90.0, "acc_test": 89.0, "mine_before": 1.5, "mine": 1.0})
    ['mine']
    """
    ours = (*METRICS, "n_earlier_recognised")
    return [key for key in row if f"{key}_before" in row and key not in ours]


INCOMPLETE = 3  # the exit code of a run that was written without having forgotten everything


class Outcome(StrEnum):
    """How a run ended: ``outcome`` in its row, where ``stop_reason`` says it in a sentence."""

    FORGOTTEN = "forgotten"  #: all that was asked is forgotten
    BUDGET = "budget"  #: all its steps are done before that
    DIVERGED = "diverged"  #: the loss is not finite
    LIMIT = "limit"  #: the strongest change it may make is not enough
    COMPLETE = "complete"  #: the method did all that it prescribes, whatever that forgot

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Outcome | None":
        """That of a row; those of older versions have the sentence alone.

        >>> Outcome.of({"stop_reason": "step budget: 10 steps done before ..."}).value
        'budget'
        """
        if row.get("outcome"):
            return cls(row["outcome"])
        kind = str(row.get("stop_reason") or "").partition(":")[0]
        kind = {"step budget": "budget"}.get(kind, kind)
        return cls(kind) if kind in {*cls} else None
