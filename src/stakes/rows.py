"""What is measured: pure functions, and METRICS, which says what each number means."""

from typing import NamedTuple

from torch import Tensor


class Metric(NamedTuple):
    """A measured number: its unit, which way is better, and what it means in plain words.

    ``better`` is ``higher``, ``lower``, ``0.5`` (chance; both sides of it are worse), or
    ``reference`` for a number that another one is to be compared with.
    """

    unit: str
    better: str
    meaning: str


METRICS: dict[str, Metric] = {
    "acc_test": Metric("%", "higher", "test images given their true class"),
    "acc_retain": Metric("%", "higher", "training images that were to be kept, given their class"),
    "acc_forget": Metric("%", "lower", "images to forget that are still given their true class"),
    "acc_test_forgotten_classes": Metric(
        "%", "lower", "test images of classes forgotten as a whole, given their class"
    ),
    "acc_test_kept_classes": Metric("%", "higher", "test images of all other classes, then"),
    "forget_flip": Metric("%", "lower", "images to forget, mirrored, given their true class"),
    "forget_shift": Metric("%", "lower", "images to forget, moved by a tenth, given their class"),
    "forget_crop": Metric("%", "lower", "images to forget, cropped to 7/8, given their class"),
    "forget_noise": Metric("%", "lower", "images to forget with light noise, given their class"),
    "forget_jpeg": Metric("%", "lower", "images to forget, saved as JPEG, given their class"),
    "forget_light": Metric("%", "lower", "images to forget, darker or brighter, given their class"),
    "forget_views": Metric("%", "lower", "mean of the six kinds of views above"),
    "drift_probes": Metric("", "lower", "change of the structure: 1 - mean cosine of affinities"),
    "mia_retain": Metric(
        "AUC", "0.5", "kept training images told from test images, learned attack"
    ),
    "mia_retain_found": Metric("%", "lower", "kept training images found at 1 % false alarms"),
    "mia_forget": Metric("AUC", "0.5", "images to forget told from test images, the same attack"),
    "mia_forget_found": Metric("%", "lower", "images to forget found at 1 % false alarms"),
    "mia_forget_loss": Metric("AUC", "0.5", "images to forget told from test images by loss alone"),
    "mia_forget_unlikely": Metric(
        "%", "lower", "images to forget that have a higher loss than 99 % of test images"
    ),
    "probe_forget": Metric(
        "%", "lower", "images to forget given their class by a linear probe on the features"
    ),
    "probe_test": Metric("%", "reference", "test images given their class by the same probe"),
    "centroid_forget": Metric(
        "%", "lower", "images to forget nearest to the mean features of their class"
    ),
    "centroid_test": Metric(
        "%", "reference", "test images nearest to the mean features of their class"
    ),
    "consistency": Metric("", "higher", "mean cosine of kept images' features before and after"),
    "consistency_low": Metric("", "higher", "5 % quantile of that cosine"),
    "retrieval_retain_r1": Metric(
        "%", "higher", "kept images, by features nearest to a kept image of their class (hit rate)"
    ),
    "retrieval_retain_r5": Metric("%", "higher", "the same, among the five nearest"),
    "retrieval_retain_r10": Metric("%", "higher", "the same, among the ten nearest"),
    "retrieval_retain_map": Metric(
        "%", "higher", "mean average precision of kept images as queries among kept images"
    ),
    "retrieval_forget_r1": Metric(
        "%", "lower", "images to forget, by features nearest to a kept image of their class"
    ),
    "retrieval_forget_r5": Metric("%", "lower", "the same, among the five nearest"),
    "retrieval_forget_r10": Metric("%", "lower", "the same, among the ten nearest"),
    "retrieval_forget_map": Metric(
        "%", "lower", "mean average precision of images to forget as queries among kept images"
    ),
    "second_choice": Metric(
        "%", "lower", "wrong answers on images to forget that were the original's second choice"
    ),
    "rf_jsd": Metric(
        "bits",
        "lower",
        "how far the answers on images to forget are from the original's on unseen ones",
    ),
    "answer_entropy": Metric("bits", "higher", "spread of the wrong answers on images to forget"),
    "relearn_forget": Metric(
        "steps", "higher", "gradient steps until forgotten images are known again"
    ),
    "relearn_test": Metric("steps", "reference", "the same for test images that are misclassified"),
}


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of logits (n, c) are largest at their label (n,): bool (n,)."""
    return logits.argmax(1) == labels
