"""Retrieval against scikit-learn and against one query, one image at a time."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from stakes.evaluation import retrieval
from stakes.evaluation.retrieval import average_precision, nearest, retrieve, retrieve_among


def drawn(n: int, d: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a direction for each class, so that cosines of both signs occur."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.5 * torch.randn(n, d, generator=generator), labels


def slowly(query, label, gallery, labels):
    """Place of the first hit, and average precision, by the definitions."""
    cosine = [float(F.cosine_similarity(query.double(), g.double(), dim=0)) for g in gallery]
    ranking = sorted(range(len(gallery)), key=lambda i: -cosine[i])
    hits = [int(labels[i]) == int(label) for i in ranking]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    return hits.index(True) + 1, sum(precisions) / len(precisions)


def test_both_kinds_of_queries_one_by_one(monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", 7)  # so that queries fall into several chunks
    features, labels = drawn(45)
    queries, truth = drawn(12, seed=1)
    others = [torch.arange(45) != i for i in range(45)]
    for found, slow in (
        (retrieve(queries, truth, features, labels),
         [slowly(q, y, features, labels) for q, y in zip(queries, truth, strict=True)]),
        (retrieve_among(features, labels),
         [slowly(features[i], labels[i], features[o], labels[o]) for i, o in enumerate(others)]),
    ):  # fmt: skip
        assert found is not None
        assert found.n == len(slow)
        for rank, rate in zip((1, 5, 10), (found.r1, found.r5, found.r10), strict=True):
            assert rate == pytest.approx(100 * np.mean([first <= rank for first, _ in slow]))
        assert found.map == pytest.approx(100 * np.mean([ap for _, ap in slow]), abs=1e-9)
        assert found.r1 < found.r5 < 100


@pytest.mark.parametrize("shift", [0.0, -5.0, 5.0], ids=["both signs", "negative", "positive"])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns_whatever_the_sign(shift, ties):
    """Public code drops relevant entries whose score is zero or below."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(30, 50, generator=generator, dtype=torch.float64) + shift
    scores = scores.round() if ties else scores
    relevant = torch.rand(30, 50, generator=generator) < 0.2
    expected = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    assert average_precision(scores, relevant).tolist() == pytest.approx(expected, abs=1e-6)


def test_mean_average_precision_is_scikit_learns_on_features():
    (queries, truth), (gallery, labels) = drawn(20, seed=4), drawn(300, seed=5)
    found = retrieve(queries, truth, gallery, labels)
    cosines = F.cosine_similarity(queries.double()[:, None], gallery.double()[None], dim=2)
    assert (cosines[truth[:, None] == labels] < 0).any()  # the trap is there
    scores = [average_precision_score(labels == y, c) for y, c in zip(truth, cosines, strict=True)]
    assert found.map == pytest.approx(100 * np.mean(scores), abs=1e-6)


def test_by_hand():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.1]])
    labels = torch.tensor([1, 0, 1, 0])
    found = retrieve(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), gallery, labels)
    assert (found.r1, found.r5, found.r10, found.n) == (0, 100, 100, 1)
    assert found.map == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)


def test_an_image_never_finds_itself():
    features, labels = torch.eye(3), torch.tensor([0, 0, 1])
    found = retrieve_among(features, labels)
    assert found.n == 2  # the third has nobody of its class but itself
    assert found.r1 == 0  # all others tie, and none of a tie comes first
    assert found.map == pytest.approx(50)
    assert retrieve_among(features, torch.arange(3)) is None


def test_a_copy_of_the_query_is_found_and_only_the_query_is_left_out():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    assert retrieve_among(features, torch.tensor([0, 0, 1, 1])) == (100, 100, 100, 100, 4)


def test_queries_with_nothing_to_find_are_left_out_of_the_mean():
    features, labels = drawn(40)
    queries, truth = drawn(10, seed=6)
    strange = torch.cat([truth, torch.full((10,), 9)])
    both = retrieve(torch.cat([queries, queries]), strange, features, labels)
    assert both == retrieve(queries, truth, features, labels)
    assert retrieve(queries, torch.full((10,), 9), features, labels) is None


def test_features_that_have_collapsed_find_nothing_first():
    labels = torch.arange(40) % 4
    found = retrieve_among(torch.ones(40, 3), labels)
    assert (found.r1, found.r10) == (0, 0)
    assert found.map == pytest.approx(100 * 9 / 39)  # precision of the whole gallery


def test_scaling_a_feature_changes_nothing():
    features, labels = drawn(30)
    scaled = features * torch.linspace(0.1, 30, 30)[:, None]
    assert retrieve_among(scaled, labels) == pytest.approx(retrieve_among(features, labels))


@pytest.mark.parametrize("among", [False, True])
def test_the_nearest_are_those_of_the_greatest_cosine(among):
    gallery = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    queries = (
        gallery[:3] if among else torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    )
    for i, found in enumerate(nearest(queries, gallery, 4, among=among).tolist()):
        cosines = F.cosine_similarity(queries[i], gallery).tolist()
        order = sorted(range(20), key=lambda j: -cosines[j])
        assert found == [j for j in order if not (among and j == i)][:4]
    assert nearest(queries, gallery[:3], 9, among=among).shape == (3, 3 - among)
