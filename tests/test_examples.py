"""Examples in the evidence: they show the images that were scored, with the right numbers."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from conftest import CLASSES
from stakes.data.retain import Drawn
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.examples import (
    FORGOTTEN,
    FOUND,
    NEAREST,
    QUERIES,
    RETAINED,
    UNSEEN,
    Structure,
)
from stakes.evaluation.saliency import grad_cam, overlay


@pytest.fixture
def after(classifier):
    """A network whose features have moved."""
    moved = classifier.copy()
    with torch.no_grad():
        moved.body.conv1.weight.mul_(torch.linspace(0.2, 1.5, 8)[:, None, None, None])
    return moved


@pytest.fixture
def stakes():
    vectors = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))  # two of each class
    return Structure(F.normalize(vectors, dim=1), {"red": "like fire; warm"})


def pixels(source: str) -> torch.Tensor:
    data = base64.b64decode(source.partition(",")[2])
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


def same(source: str, image: torch.Tensor) -> bool:
    return torch.equal(pixels(source), (image * 255).round().to(torch.uint8))


def test_affinities_are_cosines_before_and_after_with_the_mean_anchor_of_each_class(
    classifier, after, forget, test_images, stakes
):
    selected = {"test": Drawn([7, 30, 31, 40], 80, [])}
    _, evidence = evaluate(
        classifier, after, forget, test=test_images, selected=selected, structure=stakes
    )
    rows = evidence["affinities"]
    assert len(rows) == UNSEEN
    for place, row in zip(selected["test"].places, rows, strict=False):
        assert row["name"] == test_images.name(place)
        assert row["label"] == CLASSES[int(test_images.labels[place])]
        image = test_images.load([place])
        assert same(row["image"], image[0])
        for when, network in (("before", classifier), ("after", after)):
            with torch.no_grad():
                features = network.features(image)[0]
            for c, value in enumerate(row[when]):
                cosines = [
                    F.cosine_similarity(features, stakes.stakes[j], 0) for j in (2 * c, 2 * c + 1)
                ]
                assert value == pytest.approx(float(sum(cosines)) / 2, abs=1e-5)
        order = sorted(range(4), key=lambda c: -row["before"][c])[:NEAREST]
        assert [item["anchor"] for item in row["nearest"]] == [CLASSES[c] for c in order]
        texts = {item["anchor"]: item["text"] for item in row["nearest"]}
        assert texts.get("red", "like fire; warm") == "like fire; warm"
        assert {texts[name] for name in texts if name != "red"} == {""}


def test_queries_find_the_retained_images_nearest_by_features(
    classifier, after, forget, train_images
):
    retained = [i for i in range(160) if i not in forget.indices][::-1]
    selected = {"retain": Drawn(retained, 160, [])}
    _, evidence = evaluate(classifier, after, forget, retain=train_images, selected=selected)
    rows = evidence["retrieval"]
    assert [row["of"] for row in rows] == ["retain"] * QUERIES + ["forget"] * QUERIES
    for i, row in enumerate(rows[:QUERIES]):
        assert row["name"] == train_images.name(retained[i])
        assert same(row["image"], train_images.load([retained[i]])[0])
    for i, row in enumerate(rows[QUERIES:]):
        assert (row["name"], row["label"]) == (forget.names[i], CLASSES[int(forget.labels[i])])
        assert same(row["image"], forget.images[i])
        for when, network in (("before", classifier), ("after", after)):
            with torch.no_grad():
                query = network.features(forget.images[i : i + 1])
                cosines = F.cosine_similarity(query, network.features(train_images.load(retained)))
            best = [retained[j] for j in cosines.argsort(descending=True)[:FOUND].tolist()]
            assert [item["name"] for item in row[when]] == [train_images.name(j) for j in best]
            assert same(row[when][0]["image"], train_images.load(best[:1])[0])
    for row in rows[:QUERIES]:  # no image finds itself
        assert row["name"] not in [item["name"] for item in row["before"] + row["after"]]


def test_grad_cam_is_of_images_to_forget_and_of_retained_ones(classifier, forget, train_images):
    _, evidence = evaluate(classifier, classifier, forget, retain=train_images, eval_samples=20)
    of = [item["of"] for item in evidence["saliency"]]
    assert of == ["forget"] * min(FORGOTTEN, len(forget)) + ["retain"] * RETAINED
    names = {item["name"] for item in evidence["saliency"] if item["of"] == "retain"}
    assert not names & {*forget.names}


def test_heat_before_and_after_is_on_one_scale(classifier, forget):
    hotter = classifier.copy()
    with torch.no_grad():
        hotter.head.weight.mul_(2)
    _, evidence = evaluate(classifier, hotter, forget)
    heats = grad_cam(hotter, forget.images, forget.labels)
    assert heats.amax((1, 2)).min() > 0
    for item, image, heat in zip(evidence["saliency"], forget.images, heats, strict=True):
        for when, most in (("before", 0.5), ("after", 1.0)):
            expected = overlay(image, most * heat / heat.max())
            assert (pixels(item[when]) / 255 - expected).abs().max() < 1 / 255


def test_without_images_or_a_whole_network_there_are_no_examples(
    classifier, forget, test_images, train_images, stakes
):
    sets = {"test": test_images, "retain": train_images, "structure": stakes}
    _, hidden = evaluate(classifier, classifier, forget, thumbnails=False, **sets)
    assert hidden["saliency"] == hidden["retrieval"] == hidden["affinities"] == []
    broken = classifier.copy()
    with torch.no_grad():
        broken.body.conv1.weight.fill_(float("nan"))
    _, none = evaluate(classifier, broken, forget, **sets)
    assert none["retrieval"] == none["affinities"] == []
    other = Structure(torch.eye(4, 5), {})  # of another width than the features
    _, none = evaluate(classifier, classifier, forget, test=test_images, structure=other)
    assert none["affinities"] == []
