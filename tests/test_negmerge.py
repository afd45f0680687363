import pytest
import torch
from torch.nn import functional as F

from stakes.methods import NegMerge
from stakes.methods.negmerge import consensus

pytestmark = pytest.mark.slow


def test_the_consensus_is_the_mean_where_every_sign_agrees():
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(3, 5, generator=generator) for _ in range(3)]
    vectors[0][0, 0] = 0.0
    merged = consensus(vectors)
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(5)).tolist():
        values = [float(vector[tuple(place)]) for vector in vectors]
        agreed = all(v > 0 for v in values) or all(v < 0 for v in values)
        expected = sum(values) / 3 if agreed else 0.0
        assert float(merged[tuple(place)]) == pytest.approx(expected), place
    assert 0 < int((merged == 0).sum()) < 15


def moved(classifier, forget, anchors, scale, **settings):
    method = NegMerge(lr=1e-2, scale=scale, scale_max=scale, max_steps=1, **settings)
    after = method(classifier, forget, anchors=anchors, seed=2).classifier
    return {n: (after.get_parameter(n) - p).detach() for n, p in classifier.named_parameters()}


def test_it_goes_the_opposite_way_of_what_fits_the_forget_set(classifier, forget, anchors):
    away = moved(classifier, forget, anchors, 1.0)

    def loss(scale):
        other = classifier.copy()
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                parameter += scale * away[name]
            return float(F.cross_entropy(other(forget.images), forget.labels))

    assert loss(-1.0) < loss(0.0) < loss(1.0)


def test_lambda_scales_one_merged_vector(classifier, forget, anchors):
    once = moved(classifier, forget, anchors, 1.0)
    thrice = moved(classifier, forget, anchors, 3.0)
    for name, value in once.items():
        assert torch.allclose(3 * value, thrice[name], atol=1e-5), name


def test_more_fine_tunings_agree_on_less(classifier, forget, anchors):
    def still(repeats):
        movement = moved(classifier, forget, anchors, 1.0, repeats=repeats, forget_batch=1)
        return sum(int((value == 0).sum()) for value in movement.values())

    assert still(1) < still(4)
