"""Before and after, scored on what there is: one flat row of numbers, and its evidence."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stakes.data.adapter import Data, as_images
from stakes.data.forget import ForgetSet
from stakes.data.images import Images, batches
from stakes.data.retain import Drawn, draw_without
from stakes.errors import InputError, first_line
from stakes.evaluation.again import duplicates, found_in_data
from stakes.evaluation.audit import KEPT, Evidence, Sample, audit
from stakes.evaluation.examples import EXAMPLES, Structure, examples
from stakes.evaluation.forgetting import copies_of, forget_evidence, forget_scores
from stakes.evaluation.reference import against, check_reference
from stakes.evaluation.scores import WHEN, BeforeAfter, Scored, correct, joined, percent, score
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent

Row = dict[str, Any]
EMPTY = torch.zeros(0, dtype=torch.int64)


def evaluate(
    before: Classifier,
    after: Classifier,
    forget: ForgetSet,
    *,
    test: Data | None = None,
    retain: Data | None = None,
    other: Mapping[str, Classifier] | None = None,
    reference: Classifier | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    selected: Mapping[str, Drawn] | None = None,
    structure: Structure | None = None,
    thumbnails: bool = True,
    metrics: Mapping[str, Callable[[Classifier], float]] | None = None,
    progress: Progress = silent,
) -> tuple[Row, Evidence]:
    """Score the classifier before and after unlearning; nothing here is seen by any method.

    Args:
        before: the classifier as it was.
        after: the classifier to deploy.
        forget: the images that were to be forgotten.
        test: images of no training set, as :func:`stakes.data.adapter.as_images` takes them; PIL
            images are brought to the size of the forget set's.
        retain: training images, likewise; those of the forget set, and their near-duplicates, are
            left out by their content.
        other: further paths by name; their accuracies get the name as a suffix.
        reference: a network to compare with, such as one trained without the forget images (see
            :func:`stakes.evaluation.reference.against`).
        eval_samples: score at most this many test and retained images, drawn with ``seed``.
        seed: of that draw.
        selected: what :func:`select` gave for the same arguments, if it was called before.
        structure: the stakes, for examples of affinities before and after.
        thumbnails: whether the evidence shows images.
        metrics: measures of your own by their keys in the row. Each is called with a classifier
            in eval mode and without gradients, once before and once after, and returns a number.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        The row: ``forgotten_classes``, the names where whole classes were to be forgotten;
        accuracies in percent under the keys of :data:`stakes.rows.METRICS`, with
        ``_before`` for the original and None for what was not measured. The evidence: for each
        class and each forget image, what was predicted before and after, and what the figures of
        the report are drawn from (see :mod:`stakes.evaluation.audit` and
        :mod:`stakes.evaluation.examples`).

    Raises:
        InputError: no classifier, forget set or images where one is wanted; labels outside the
            classes; a reference of other classes; a metric with the key of another number; and
            what :func:`select` raises.
    """
    before = Classifier.require(before, "the network before")
    after = Classifier.require(after, "the network after")
    forget = ForgetSet.require(forget)
    forget.check(after.num_classes)
    if reference is not None:
        check_reference(Classifier.require(reference, "the reference"), after)
    device, side = after.device, forget.images.shape[-1]
    test = None if test is None else as_images(test, size=side, prefix="test")
    retain = None if retain is None else as_images(retain, size=side, prefix="retain")
    forget = forget.to(device)
    networks = {"_before": before, "": after}
    networks |= {f"_{name}": network for name, network in (other or {}).items()}
    if selected is None:
        selected = select(
            forget,
            test=test,
            retain=retain,
            eval_samples=eval_samples,
            seed=seed,
            progress=progress,
        )
    samples = {"test": test, "retain": retain}
    scored = [*networks.values(), *([] if reference is None else [reference])]
    with _eval_mode(scored):
        row, classes, kept = _accuracies(networks, samples, selected, forget.classes, progress)
        gone = {
            suffix: score(network, forget.images, forget.labels)
            for suffix, network in networks.items()
        }
        copies = {suffix: copies_of(network, forget) for suffix, network in networks.items()}
        row |= forget_scores(gone, copies)
        row |= found_in_data(forget, selected.get("retain"))
        images = forget_evidence(before.class_names, forget, gone, copies, thumbnails)
        more, evidence = audit(after, forget, gone, **kept, progress=progress)
        row |= more | against(reference, forget, gone, kept)
        row |= _own(metrics or {}, networks, row)
        shown: Evidence = {key: [] for key in EXAMPLES}
        if thumbnails:
            try:
                shown = examples(before, after, forget, gone, **kept, structure=structure)
            except Exception as error:  # they stand beside the numbers: no reason to lose the run
                progress("examples", 0, 1, f"left out: {first_line(error)}")
    twins = duplicates(forget, retain, selected.get("retain"))
    return row, {"classes": classes, "forget": images, "duplicates": twins, **evidence, **shown}


@torch.no_grad()
def _own(
    metrics: Mapping[str, Callable[[Classifier], float]],
    networks: Mapping[str, Classifier],
    row: Row,
) -> Row:
    """The user's own measures of each network, under their keys with its suffix."""
    taken = [key for key in metrics if key in row]
    if taken:
        raise InputError(f"metrics: {taken[0]} is measured already; give yours another key")
    return {
        key + suffix: float(measure(network))
        for key, measure in metrics.items()
        for suffix, network in networks.items()
    }


@contextmanager
def _eval_mode(networks: Collection[nn.Module]) -> Iterator[None]:
    """All of the networks in eval mode within the block, each part as it was after it."""
    modes = {part: part.training for network in networks for part in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
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
    progress: Progress = silent,
) -> dict[str, Drawn]:
    """Choose what to score: indices of ``test`` and ``retain`` images that are not to be forgotten.

    Every image that is chosen is read once, so that a damaged one is found before long work. Where
    the forget images were not taken from ``retain`` by their places, all of it is searched for
    them. Near-duplicates of them are left out of ``retain`` alone: ``test`` images stand for what
    the service will be shown.

    Raises:
        InputError: ``eval_samples`` below 1, a damaged image, or images of another size than
            those to forget.
    """
    if eval_samples is not None and eval_samples < 1:
        raise InputError(f"eval_samples={eval_samples}: score at least 1 image, or leave it out")
    generator = torch.Generator().manual_seed(seed)
    selected: dict[str, Drawn] = {}
    for name, images in (("test", test), ("retain", retain)):
        if images is None:
            continue
        wanted = len(images) if eval_samples is None else eval_samples
        selected[name] = draw_without(
            images,
            forget,
            wanted,
            generator,
            near=name == "retain",
            search_all=name == "retain" and forget.indices is None,
            phase=f"reading {name}",
            progress=progress,
        )
    return selected


def _accuracies(
    networks: Mapping[str, Classifier],
    samples: Mapping[str, Images | None],
    selected: Mapping[str, Drawn],
    forgotten: Sequence[int],
    progress: Progress,
) -> tuple[Row, list[dict[str, Any]], dict[str, Sample | None]]:
    """Score the test and retained images that were selected.

    Returns:
        Accuracies over all of them, and over classes ``forgotten`` as a whole and the others; test
        accuracies by class; and what the networks make of some of the images, by sample.
    """
    names = networks[""].class_names
    row: Row = {}
    classes: list[dict[str, Any]] = [
        {"name": name, "n_test": 0, "acc_test_before": None, "acc_test": None} for name in names
    ]
    kept: dict[str, Sample | None] = dict.fromkeys(samples)
    tested = dict.fromkeys(networks, EMPTY), EMPTY
    for name, images in samples.items():
        chosen = selected[name].places if name in selected else []
        row[f"n_{name}"] = len(chosen)
        if images is None or not chosen:
            row |= {f"acc_{name}{suffix}": None for suffix in networks}
            row |= {f"n_{name}_lost": None, f"n_{name}_gained": None, f"{name}_digest": None}
            continue
        digest = hashlib.sha256()
        right, labels, scored = _score(
            networks, images, chosen, f"scoring {name}", progress, digest.update
        )
        row[f"{name}_digest"] = digest.hexdigest()
        kept[name] = Sample(scored, images, chosen)
        row |= {f"acc_{name}{suffix}": percent(hits) for suffix, hits in right.items()}
        was, now = right["_before"], right[""]
        row |= {
            f"n_{name}_lost": int((was & ~now).sum()),
            f"n_{name}_gained": int((now & ~was).sum()),
        }
        if name == "test":
            _fill_classes(classes, right, labels)
            tested = right, labels
    row |= _whole_classes(*tested, forgotten)
    row["forgotten_classes"] = [names[i] for i in forgotten] or None
    return row, classes, kept


@torch.no_grad()
def _score(
    networks: Mapping[str, Classifier],
    images: Images,
    chosen: list[int],
    phase: str,
    progress: Progress,
    note: Callable[[bytes], None],
) -> tuple[dict[str, Tensor], Tensor, BeforeAfter]:
    """Score the chosen images by each network, reading each image once.

    ``note`` is given the pixels and labels in their order: the digest says what was scored.

    Returns:
        Which each network gets right: bool (n,) by suffix; the labels (n,); and what the networks
        before and after make of the first ``KEPT`` images.
    """
    right: dict[str, list[Tensor]] = {suffix: [] for suffix in networks}
    kept: dict[str, list[Scored]] = {suffix: [] for suffix in WHEN}
    done = 0
    for pixels, truth in batches(images, chosen):
        note(pixels.numpy().tobytes() + truth.numpy().tobytes())
        for suffix, network in networks.items():
            scored = score(network, pixels.to(network.device), truth)
            right[suffix].append(correct(scored.logits, truth))
            if suffix in kept and done < KEPT:
                kept[suffix].append(scored)
        done += len(truth)
        progress(phase, done, len(chosen))
    hits = {suffix: torch.cat(parts) for suffix, parts in right.items()}
    return hits, images.labels[chosen], {suffix: joined(parts) for suffix, parts in kept.items()}


def _fill_classes(
    classes: list[dict[str, Any]], right: Mapping[str, Tensor], labels: Tensor
) -> None:
    for index, row in enumerate(classes):
        mine = labels == index
        if mine.any():
            row["n_test"] = int(mine.sum())
            row["acc_test_before"] = percent(right["_before"][mine])
            row["acc_test"] = percent(right[""][mine])


def _whole_classes(right: Mapping[str, Tensor], labels: Tensor, forgotten: Sequence[int]) -> Row:
    """Test accuracy on classes forgotten as a whole and on all others; None without such."""
    gone = torch.isin(labels, torch.tensor(forgotten, dtype=torch.int64))
    row: Row = {}
    for name, mine in (("forgotten", gone), ("kept", ~gone)):
        measured = bool(forgotten) and bool(mine.any())
        for suffix, hits in right.items():
            key = f"acc_test_{name}_classes{suffix}"
            row[key] = percent(hits[mine]) if measured else None
    return row
