import math
from typing import get_args

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy, wasserstein_distance
from torch.nn import functional as F

from properties import given
from properties import strategies as st
from stakes import StructGuard
from stakes.methods import StructGuardPaper
from stakes.training import losses


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


@given(st.integers(2, 6), st.integers(0, 100), st.floats(0, 3))
def test_hinge_against_the_sum_written_out(n, seed, margin):
    logits, labels = 3 * draw(n, 4, seed=seed), torch.arange(n) % 4
    left = [
        max(0.0, row[y] - max(z for i, z in enumerate(row) if i != y) + margin)
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    pushed = max(1, sum(value > 0 for value in left))
    assert losses.deletion_hinge(logits, labels, margin).item() == pytest.approx(
        sum(left) / math.sqrt(n * pushed), rel=1e-5
    )


@given(st.integers(2, 6), st.integers(0, 100), st.floats(0, 3))
def test_hinge_towards_a_class_against_the_sum_written_out(n, seed, margin):
    logits, labels = 3 * draw(n, 4, seed=seed), torch.arange(n) % 4
    towards = (labels + 1) % 4
    left = [
        row[y] - row[t] + margin
        for row, y, t in zip(logits.tolist(), labels.tolist(), towards.tolist(), strict=True)
        if row[y] + margin > max(z for i, z in enumerate(row) if i != y)
    ]
    loss = losses.deletion_hinge(logits, labels, margin, towards)
    assert loss.item() == pytest.approx(sum(left) / math.sqrt(n * max(1, len(left))), rel=1e-5)


def test_hinge_towards_a_class_leaves_an_image_that_has_gone_elsewhere():
    logits = torch.tensor([[2.0, 0.0, 5.0], [2.0, 0.0, 1.0]], requires_grad=True)
    losses.deletion_hinge(logits, torch.tensor([0, 0]), 0.5, torch.tensor([1, 1])).backward()
    assert logits.grad[0].abs().sum() == 0
    assert logits.grad[1].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0])


def test_hinge_pushes_the_last_image_harder_than_a_mean_and_all_alike_at_the_start():
    labels = torch.zeros(16, dtype=torch.long)

    def push(left: int) -> float:
        """Norm of the gradient on one of the images that are left."""
        logits = torch.tensor([[1.0, 0.0]] * left + [[0.0, 9.0]] * (16 - left), requires_grad=True)
        losses.deletion_hinge(logits, labels, margin=0.5).backward()
        return logits.grad[0, 0].item()

    assert push(16) == pytest.approx(1 / 16)  # as a mean over all
    assert push(1) == pytest.approx(1 / 4)  # a mean over all gives 1/16, one over what is left 1


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


def structures(seed: int = 0, n: int = 6, c: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tables of cosines."""
    return draw(n, c, seed=seed).tanh(), draw(n, c, seed=seed + 1).tanh()


def test_structural_losses_by_hand():
    before, after = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
    assert losses.structural_mse(before, after).item() == pytest.approx((1 + 4) / 2)
    assert losses.structural_wasserstein(before, after).item() == pytest.approx((1 + 2) / 2)
    e = math.exp  # two different rows of before are 1 apart, so the kernel's width is 1
    expected = (2 + 2 * e(-1)) / 4 + (2 + 2 * e(-4)) / 4 - 2 * (e(-1) + e(-9) + 1 + e(-4)) / 4
    assert losses.structural_mmd(before, after).item() == pytest.approx(expected)
    before, after = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.1 * math.log(3)]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert losses.structural_kl(before, after).item() == pytest.approx(expected)


@given(st.integers(0, 50))
def test_kl_and_mse_against_each_row_and_entry(seed):
    before, after = structures(seed)
    p, q = (before / 0.3).softmax(1), (after / 0.3).softmax(1)
    rows = [entropy(p[i], q[i]) for i in range(6)]
    assert losses.structural_kl(before, after, 0.3).item() == pytest.approx(sum(rows) / 6)
    total = sum((float(before[i, j]) - float(after[i, j])) ** 2 for i in range(6) for j in range(3))
    assert losses.structural_mse(before, after).item() == pytest.approx(total / 18)


@given(st.integers(0, 50))
def test_mmd_against_a_double_loop(seed):
    before, after = structures(seed)

    def apart(x: torch.Tensor, y: torch.Tensor) -> float:
        return sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))

    width = sum(apart(x, y) for x in before for y in before) / 30

    def mean_kernel(left: torch.Tensor, right: torch.Tensor) -> float:
        return sum(math.exp(-apart(x, y) / width) for x in left for y in right) / 36

    expected = mean_kernel(before, before) + mean_kernel(after, after)
    expected -= 2 * mean_kernel(before, after)
    assert losses.structural_mmd(before, after).item() == pytest.approx(expected)


@given(st.integers(0, 50))
def test_wasserstein_against_scipy_and_below_the_best_assignment_of_rows(seed):
    before, after = structures(seed)
    columns = [wasserstein_distance(before[:, j], after[:, j]) for j in range(3)]
    value = losses.structural_wasserstein(before, after).item()
    assert value == pytest.approx(sum(columns) / 3)
    cost = torch.cdist(before, after).numpy()
    assert value <= cost[linear_sum_assignment(cost)].mean()


@pytest.mark.parametrize("name", losses.STRUCTURAL)
def test_structural_losses_are_least_at_home_and_lead_there(name):
    loss = losses.STRUCTURAL[name]
    before, after = structures()
    home = loss(before, before).item()
    assert home == pytest.approx(-1 if name == "cosine" else 0, abs=1e-12)
    assert loss(before, after).item() > home + 1e-3
    moving = after.clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(before, moving), moving)
        with torch.no_grad():
            moving -= 0.02 * gradient / gradient.norm()
    assert loss(before, moving).item() - home < 0.2 * (loss(before, after).item() - home)
    still = before.clone().requires_grad_()
    loss(before, still).backward()
    assert still.grad.isfinite().all()


@pytest.mark.parametrize("name", losses.STRUCTURAL)
def test_some_compare_rows_and_some_only_their_distribution(name):
    before, after = structures()
    moved = losses.STRUCTURAL[name](before, after.roll(1, 0)).item()
    same = moved == pytest.approx(losses.STRUCTURAL[name](before, after).item())
    assert same == (name in ("mmd", "wasserstein"))


@pytest.mark.parametrize("name", losses.STRUCTURAL)
def test_a_single_probe_has_a_finite_loss(name):
    before, after = structures(n=1)
    moving = after.clone().requires_grad_()
    losses.STRUCTURAL[name](before, moving).backward()
    assert moving.grad.isfinite().all()


def test_the_choices_are_those_of_the_table():
    assert get_args(losses.StructuralLoss) == tuple(losses.STRUCTURAL)


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


@pytest.mark.parametrize("name", losses.DELETION)
def test_every_deletion_loss_moves_an_image_out_of_its_class(name):
    logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0])
    push = losses.Push(logits, labels, losses.margins(logits, labels), 0.5)
    losses.DELETION[name](push).backward()
    before = losses.margins(logits.detach(), labels)
    assert losses.margins(logits.detach() - 0.1 * logits.grad, labels) < before


@pytest.mark.parametrize("name", losses.RETENTION)
def test_every_retention_loss_is_less_where_the_original_is_answered_alike(name):
    original = 3 * draw(8, 4)
    answers = losses.Answers(original.argmax(1), original, temperature=2.0)
    alike, other = (losses.RETENTION[name](x, answers) for x in (original, original.flip(0)))
    assert alike < other
    if name == "kl":
        expected = losses.retention_kl(original.flip(0), original, 2.0)
        assert other == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", [StructGuard, StructGuardPaper])
def test_methods_take_losses_by_name(kind, classifier, forget):
    def first(**names: str) -> dict[str, float]:
        fixed = {"max_steps": 1, "batch_norm": "eval", "probe_batch": 16}
        if kind is StructGuard:
            fixed |= {"criterion": "exact", "retention_weight": 1.0, "precision": "float32"}
        else:
            fixed |= {"weighting": "sum", "pgd_iterations": 3}
        return kind(**fixed, **names)(classifier, forget, anchors="head").history[1]

    with torch.no_grad():
        logits = classifier(forget.images)
    margin = 0.3 if kind is StructGuard else 0.0
    hinge = losses.deletion_hinge(logits, forget.labels, margin)
    row = first(deletion_loss="hinge", retention_loss="kl")
    assert row["term_deletion"] == pytest.approx(float(hinge), rel=1e-3)
    assert row["term_retention"] == pytest.approx(0, abs=1e-2)  # nothing has changed yet
    row = first(deletion_loss="ce", retention_loss="ce")
    assert row["term_deletion"] == pytest.approx(
        -float(F.cross_entropy(logits, forget.labels)), rel=1e-3
    )
    assert row["term_retention"] > 0.02
