"""Before and after, scored on what there is: one flat row of numbers, and its evidence."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stakes.classifier import Classifier
from stakes.data import Images, batches
from stakes.errors import InputError
from stakes.forget import ForgetSet, without
from stakes.metrics import VIEWS, correct
from stakes.progress import Report, silent

THUMBNAIL = 64
CHUNK = 1024  # images read between two reports
Row = dict[str, Any]


def evaluate(
    before: Classifier,
    after: Classifier,
    forget: ForgetSet,
    *,
    test: Images | None = None,
    retain: Images | None = None,
    other: Mapping[str, Classifier] | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    selected: Mapping[str, list[int]] | None = None,
    thumbnails: bool = True,
    report: Report = silent,
) -> tuple[Row, dict[str, list[Row]]]:
    """Score the classifier before and after unlearning; nothing here is seen by any method.

    Args:
        before: the classifier as it was.
        after: the classifier to deploy.
        forget: the pictures that were to be forgotten.
        test: images of no training set.
        retain: training images; those of the forget set are left out by index and by content.
        other: further paths by name; their accuracies get the name as a suffix.
        eval_samples: score at most this many test and retained images, drawn with ``seed``.
        seed: of that draw.
        selected: what :func:`select` gave for the same arguments, if it was called before.
        thumbnails: whether the evidence shows the forget images.
        report: progress.

    Returns:
        The row: accuracies in percent under the keys of :data:`stakes.metrics.METRICS`, with
        ``_before`` for the original and None for what was not measured. The evidence: for each
        class and each forget image, what was predicted before and after.
    """
    device = after.device
    forget = forget.to(device)
    networks = {"_before": before, "": after}
    networks |= {f"_{name}": network for name, network in (other or {}).items()}
    if selected is None:
        selected = select(
            forget, test=test, retain=retain, eval_samples=eval_samples, seed=seed, report=report
        )
    modes = {part: part.training for network in networks.values() for part in network.modules()}
    try:
        for network in networks.values():
            network.eval()
        row: Row = {}
        classes: list[dict[str, Any]] = [
            {"name": name, "n_test": 0, "acc_test_before": None, "acc_test": None}
            for name in before.class_names
        ]
        for name, images in (("test", test), ("retain", retain)):
            chosen = selected.get(name, [])
            row[f"n_{name}"] = len(chosen)
            if images is None or not chosen:
                row |= {f"acc_{name}{suffix}": None for suffix in networks}
                continue
            right, labels = _right(networks, images, chosen, f"scoring {name}", report)
            row |= {f"acc_{name}{suffix}": _percent(hits) for suffix, hits in right.items()}
            if name == "test":
                _fill_classes(classes, right, labels)
        row |= _forget_scores(networks, forget)
        return row, {"classes": classes, "forget": _pictures(before, after, forget, thumbnails)}
    finally:
        for part, training in modes.items():
            part.training = training


def select(
    forget: ForgetSet,
    *,
    test: Images | None = None,
    retain: Images | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> dict[str, list[int]]:
    """Choose what to score: indices of ``test`` and ``retain`` images that are not to be forgotten.

    Every image that is chosen is read once, so that a damaged one is found before long work.

    Raises:
        InputError: ``eval_samples`` below 1, a damaged image, or images of another size than
            those to forget.
    """
    if eval_samples is not None and eval_samples < 1:
        raise InputError(f"eval_samples={eval_samples}: score at least 1 image, or leave it out")
    generator = torch.Generator().manual_seed(seed)
    selected: dict[str, list[int]] = {}
    for name, images in (("test", test), ("retain", retain)):
        if images is None:
            continue
        wanted = len(images) if eval_samples is None else min(eval_samples, len(images))
        chosen: list[int] = []
        order = torch.randperm(len(images), generator=generator)
        for count, part in enumerate(order.split(size := min(CHUNK, wanted + len(forget))), 1):
            chosen += without(images, forget, part).tolist()
            report(f"reading {name}", min(count * size, wanted), wanted)
            if len(chosen) >= wanted:
                break
        selected[name] = chosen[:wanted]
    return selected


@torch.no_grad()
def _right(
    networks: Mapping[str, Classifier],
    images: Images,
    chosen: list[int],
    phase: str,
    report: Report,
) -> tuple[dict[str, Tensor], Tensor]:
    """Which of the chosen images each network gets right: bool (n,) by suffix, and labels (n,)."""
    right: dict[str, list[Tensor]] = {suffix: [] for suffix in networks}
    labels: list[Tensor] = []
    for pixels, truth in batches(images, chosen):
        labels.append(truth)
        for suffix, network in networks.items():
            logits = network(pixels.to(network.device)).cpu()
            right[suffix].append(correct(logits, truth))
        report(phase, sum(map(len, labels)), len(chosen))
    return {suffix: torch.cat(parts) for suffix, parts in right.items()}, torch.cat(labels)


@torch.no_grad()
def _forget_scores(networks: Mapping[str, Classifier], forget: ForgetSet) -> Row:
    """Share of the forget images, and of their benign views, still given their true class."""
    row: Row = {}
    for suffix, network in networks.items():
        hits = correct(_logits(network, forget.images), forget.labels)
        row[f"acc_forget{suffix}"] = _percent(hits)
        for name, view in VIEWS.items():
            seen = [correct(_logits(network, v), forget.labels) for v in view(forget.images)]
            row[f"{name}{suffix}"] = _percent(torch.cat(seen))
    return row


@torch.no_grad()
def _pictures(
    before: Classifier, after: Classifier, forget: ForgetSet, thumbnails: bool
) -> list[dict[str, Any]]:
    names = before.class_names
    answers = [_logits(network, forget.images).softmax(1).max(1) for network in (before, after)]
    rows = []
    for i, name in enumerate(forget.names):
        picture: Row = {"name": name, "label": names[int(forget.labels[i])]}
        for key, answer in zip(("before", "after"), answers, strict=True):
            picture[key] = names[int(answer.indices[i])]
            picture[f"{key}_confidence"] = 100.0 * float(answer.values[i])
        picture["thumbnail"] = thumbnail(forget.images[i]) if thumbnails else None
        rows.append(picture)
    return rows


def _logits(network: Classifier, images: Tensor) -> Tensor:
    return torch.cat([network(batch) for batch in images.split(256)])


def _fill_classes(
    classes: list[dict[str, Any]], right: Mapping[str, Tensor], labels: Tensor
) -> None:
    for index, row in enumerate(classes):
        mine = labels == index
        if mine.any():
            row["n_test"] = int(mine.sum())
            row["acc_test_before"] = _percent(right["_before"][mine])
            row["acc_test"] = _percent(right[""][mine])


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.double().mean())


def thumbnail(image: Tensor) -> str:
    """An image (3, h, w) in [0, 1] as a PNG data address, at most 64 pixels wide."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
