import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stakes import losses


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_margin_is_the_true_logit_less_the_best_other():
    logits, labels = draw(5, 4), torch.tensor([0, 3, 2, 1, 0])
    expected = [
        float(row[y] - max(v for j, v in enumerate(row.tolist()) if j != y))
        for row, y in zip(logits, labels.tolist(), strict=True)
    ]
    assert losses.margins(logits, labels).tolist() == pytest.approx(expected)


def test_hinge_is_zero_and_flat_once_forgotten_by_the_margin():
    logits = torch.tensor([[0.0, 2.0]], requires_grad=True)
    loss = losses.deletion_hinge(logits, torch.tensor([0]), margin=1.0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
    assert losses.deletion_hinge(logits, torch.tensor([0]), margin=3.0).item() == pytest.approx(1)


def test_deletion_ce_rises_as_the_true_class_is_forgotten():
    known, unknown = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    label = torch.tensor([0])
    assert losses.deletion_ce(known, label) > losses.deletion_ce(unknown, label)
    assert losses.deletion_ce(unknown, label).item() == pytest.approx(-math.log(1 + math.exp(5)))


@given(st.floats(0.5, 8), st.integers(0, 100))
def test_retention_kl_against_the_sum_written_out(temperature, seed):
    student, teacher = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = [math.exp(v / temperature) for v in t.tolist()]
        q = [math.exp(v / temperature) for v in s.tolist()]
        for a, b in zip(p, q, strict=True):
            expected += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    value = losses.retention_kl(student, teacher, temperature).item()
    assert value == pytest.approx(temperature**2 * expected / 3)
    assert losses.retention_kl(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


def test_alignment_reads_equation_2_over_columns_or_rows():
    before, after = draw(6, 3), draw(6, 3, seed=1)
    columns = [F.cosine_similarity(before[:, j], after[:, j], dim=0) for j in range(3)]
    rows = [F.cosine_similarity(before[i], after[i], dim=0) for i in range(6)]
    assert losses.alignment(before, after, "anchors").item() == pytest.approx(-sum(columns) / 3)
    assert losses.alignment(before, after, "probes").item() == pytest.approx(-sum(rows) / 6)
    assert losses.alignment(before, before).item() == pytest.approx(-1)


def test_feature_shift_counts_in_variances_and_so_ignores_the_scale():
    before, after = draw(6, 3), draw(6, 3, seed=1)
    variance = sum(float(before[:, j].var(correction=0)) for j in range(3))
    distance = sum(float((after[i] - before[i]).norm() ** 2) for i in range(6)) / 6
    assert losses.feature_shift(before, after).item() == pytest.approx(distance / variance)
    scaled = losses.feature_shift(7 * before, 7 * after)
    assert scaled.item() == pytest.approx(distance / variance)
    assert losses.feature_shift(before, before).item() == 0


def test_quadratic_is_equation_3():
    parameters = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    origin = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[1.0]])}
    weights = {"a": torch.tensor([1.0, 0.5]), "b": torch.tensor([[2.0]])}
    assert losses.quadratic(parameters, origin, weights).item() == pytest.approx(
        0.5 * (1 * 1 + 0.5 * 4 + 2 * 4)
    )


def test_elastic_net_mixes_l1_and_half_squared_l2():
    parameters = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert losses.elastic_net(parameters, 0.75).item() == pytest.approx(0.75 * 6 + 0.125 * 14)
