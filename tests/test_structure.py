import math

import pytest
import torch
from torch.nn import functional as F

from properties import given
from properties import strategies as st
from stakes.models.projector import Projector
from stakes.training.structure import affinities, drift, place_anchors


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_affinities_are_cosines_one_by_one():
    features, stakes = draw(4, 5), F.normalize(draw(3, 5, seed=1), dim=1)
    structure = affinities(features, stakes)
    for i in range(4):
        for j in range(3):
            expected = features[i] @ stakes[j] / features[i].norm()
            assert structure[i, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_projector_starts_at_the_identity_and_learns():
    projector, features = Projector(6), draw(10, 6)
    assert torch.equal(projector(features), features)
    projector(features).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())


def test_equal_widths_are_multiplied_as_they_stand():
    anchors = F.normalize(draw(3, 5), dim=1)
    placed = place_anchors(anchors, draw(3, 5, seed=1))
    assert torch.allclose(placed, anchors)
    with pytest.raises(ValueError, match="features 4, anchors 5"):
        place_anchors(anchors, draw(3, 4), kind="identity")


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 20))
def test_the_random_map_keeps_or_projects_cosines(width, anchor_width, seed):
    anchors = F.normalize(draw(3, anchor_width, seed=seed), dim=1)
    placed = place_anchors(anchors, draw(3, width), kind="random", seed=seed)
    assert placed.shape == (3, width)
    assert torch.allclose(placed.norm(dim=1), torch.ones(3), atol=1e-5)
    if width >= anchor_width:
        assert torch.allclose(placed @ placed.T, anchors @ anchors.T, atol=1e-5)


def test_procrustes_beats_random_maps_and_keeps_angles():
    anchors, head = F.normalize(draw(4, 20), dim=1), draw(4, 7, seed=1)
    placed = place_anchors(anchors, head, kind="procrustes")
    centred = F.normalize(anchors - anchors.mean(0), dim=1)
    assert torch.allclose(placed @ placed.T, centred @ centred.T, atol=1e-4)
    rows = F.normalize(head - head.mean(0), dim=1)
    best = (placed * rows).sum()
    for seed in range(20):
        turn = torch.linalg.qr(draw(20, 7, seed=seed))[0]
        assert (F.normalize(centred @ turn, dim=1) * rows).sum() < best


def test_procrustes_recovers_a_rotation():
    head = draw(4, 6)
    rows = F.normalize(head - head.mean(0), dim=1)
    turn = torch.linalg.qr(draw(20, 6, seed=2))[0].T
    placed = place_anchors(F.normalize(rows @ turn, dim=1), head, kind="procrustes")
    expected = F.normalize(rows - rows.mean(0), dim=1)
    assert torch.allclose(placed, expected, atol=1e-4)


def test_several_anchors_of_a_class_turn_towards_its_row_together():
    head = draw(4, 6)
    rows = F.normalize(head - head.mean(0), dim=1).repeat_interleave(2, dim=0)
    turn = torch.linalg.qr(draw(20, 6, seed=2))[0].T
    anchors = F.normalize(rows @ turn + 1e-3 * draw(8, 20, seed=3), dim=1)
    placed = place_anchors(anchors, head, kind="procrustes")
    assert F.cosine_similarity(placed, rows - rows.mean(0)).min() > 0.999
    for kind in ("random", "procrustes"):
        assert place_anchors(anchors, head, kind=kind).shape == (8, 6)


def test_drift_is_zero_at_home_and_two_when_reversed():
    structure = draw(5, 3)
    assert drift(structure, structure) == pytest.approx(0, abs=1e-6)
    assert drift(structure, -structure) == pytest.approx(2)


def test_drift_is_of_the_rows_one_by_one():
    before, after = draw(5, 3), draw(5, 3, seed=1)
    cosines = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for a, b in zip(before, after, strict=True)
    ]
    assert drift(before, after) == pytest.approx(1 - sum(cosines) / 5, abs=1e-6)
