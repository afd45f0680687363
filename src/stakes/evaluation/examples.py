"""Examples for the report: Grad-CAM, retrieved images, and nearest anchors of single images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stakes.data.decode import thumbnail
from stakes.data.forget import ForgetSet
from stakes.evaluation.audit import Evidence, Row
from stakes.evaluation.retrieval import nearest
from stakes.evaluation.saliency import grad_cam, overlay
from stakes.evaluation.scores import WHEN, BeforeAfter, Sample
from stakes.models.classifier import Classifier
from stakes.training.structure import affinities

EXAMPLES = ("saliency", "retrieval", "affinities")
FORGOTTEN, RETAINED = 8, 4  # images with Grad-CAM
QUERIES, FOUND = 2, 5  # images to forget, and as many retained ones, with what each finds
UNSEEN, NEAREST = 2, 3  # test images with their affinities, and anchors named for each


class Structure(NamedTuple):
    """The stakes (c, d), or (c m, d) with m rows in a row per class, and each class's texts."""

    stakes: Tensor
    texts: Mapping[str, str]


def examples(
    before: Classifier,
    after: Classifier,
    forget: ForgetSet,
    scored: BeforeAfter,
    *,
    test: Sample | None = None,
    retain: Sample | None = None,
    structure: Structure | None = None,
) -> Evidence:
    """Examples for the evidence: the first images that were scored, which the seed drew.

    Args:
        before: the classifier as it was.
        after: the classifier to deploy; both in eval mode.
        forget: the images that were to be forgotten, on the classifiers' device.
        scored: features and logits of the forget images, before and after.
        test: images of no training set.
        retain: retained training images.
        structure: the stakes that affinities are measured with.

    Returns:
        A list for each of :data:`EXAMPLES`, empty where there is nothing to show.
    """
    found: Evidence = {key: [] for key in EXAMPLES}
    found["saliency"] = saliency(
        before, after, forget.images[:FORGOTTEN], forget.labels[:FORGOTTEN], forget.names, "forget"
    )
    if retain is not None:
        places = retain.places[:RETAINED]
        names = [retain.images.name(place) for place in places]
        images = retain.images.load(places).to(before.device)
        labels = retain.images.labels[list(places)].to(before.device)
        found["saliency"] += saliency(before, after, images, labels, names, "retain")
        found["retrieval"] = retrieval(before.class_names, forget, scored, retain)
    if test is not None and structure is not None:
        found["affinities"] = near_anchors(before.class_names, test, structure)
    return found


def saliency(
    before: Classifier,
    after: Classifier,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    of: str,
) -> list[Row]:
    """Grad-CAM for the true class of images (n, 3, h, w), before and after on one scale."""
    was, now = (grad_cam(network, images, labels) for network in (before, after))
    if was is None or now is None:
        return []
    scale = torch.maximum(was, now).amax((1, 2)).clamp_min(torch.finfo(was.dtype).tiny)
    return [
        {
            "of": of,
            "name": names[i],
            "label": before.class_names[int(labels[i])],
            "image": thumbnail(image),
            "before": thumbnail(overlay(image, was[i] / scale[i])),
            "after": thumbnail(overlay(image, now[i] / scale[i])),
        }
        for i, image in enumerate(images)
    ]


def retrieval(
    classes: Sequence[str], forget: ForgetSet, scored: BeforeAfter, retain: Sample
) -> list[Row]:
    """The retained images nearest, by features, to a few retained and a few forget images."""
    if not all(part[suffix].usable for part in (scored, retain.scored) for suffix in WHEN):
        return []
    rows: list[Row] = []
    for of, own in (("retain", retain.scored), ("forget", scored)):
        count = min(QUERIES, len(own[""].labels))
        if of == "retain":
            queries = _images(classes, retain, range(count))
        else:
            queries = [
                {"name": forget.names[i], "label": classes[label], "image": thumbnail(image)}
                for i, (label, image) in enumerate(
                    zip(own[""].labels[:count].tolist(), forget.images, strict=False)
                )
            ]
        for suffix, when in WHEN.items():
            gallery = retain.scored[suffix].features
            found = nearest(own[suffix].features[:count], gallery, FOUND, among=of == "retain")
            for row, places in zip(queries, found.tolist(), strict=True):
                row[when] = _images(classes, retain, places)
        rows += [{"of": of, **row} for row in queries]
    return rows


def near_anchors(classes: Sequence[str], test: Sample, structure: Structure) -> list[Row]:
    """Affinities of a few test images with every class, before and after.

    The affinity with a class of several anchors is their mean.
    """
    parts = [test.scored[suffix] for suffix in WHEN]
    stakes = structure.stakes.float().cpu()
    if not all(part.usable and part.features.shape[1] == stakes.shape[1] for part in parts):
        return []
    found = [
        affinities(part.features[:UNSEEN].float(), stakes).unflatten(1, (len(classes), -1)).mean(2)
        for part in parts
    ]
    rows = _images(classes, test, range(min(UNSEEN, len(test.places))))
    for i, row in enumerate(rows):
        row |= {when: part[i].tolist() for when, part in zip(WHEN.values(), found, strict=True)}
        near = [classes[c] for c in found[0][i].topk(min(NEAREST, len(classes))).indices.tolist()]
        row["nearest"] = [{"anchor": name, "text": structure.texts.get(name, "")} for name in near]
    return rows


def _images(classes: Sequence[str], sample: Sample, chosen: Sequence[int]) -> list[Row]:
    """Name, class and image of some of the images that were scored."""
    places = [sample.places[i] for i in chosen]
    labels = sample.images.labels[places].tolist()
    return [
        {"name": sample.images.name(place), "label": classes[label], "image": thumbnail(image)}
        for place, label, image in zip(places, labels, sample.images.load(places), strict=True)
    ]
