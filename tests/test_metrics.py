"""Each metric against a slow, obvious version."""

import pytest
import torch

from stakes.evaluation.scores import correct, depth
from stakes.rows import COST, DERIVED, METRICS, printed_in


def test_correct_is_the_largest_logit_at_the_label():
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]])
    assert correct(logits, torch.tensor([1, 1, 1])).tolist() == [True, False, True]


def test_a_network_that_gives_nan_is_not_right_everywhere():
    logits = torch.full((4, 4), float("nan"))
    assert correct(logits, torch.arange(4)).float().mean() <= 0.25


def test_probability_and_rank_of_the_true_class_against_a_loop():
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    labels = torch.arange(50) % 12
    found = depth(logits, labels)
    for i, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        ahead = sum(v > row[label] or (v == row[label] and c < label) for c, v in enumerate(row))
        assert int(found.rank[i]) == ahead + 1
        share = torch.tensor(row).double().softmax(0)[label]
        assert float(found.probability[i]) == pytest.approx(100 * float(share))


def test_rank_one_is_what_counts_as_recognised_even_for_ties_and_nan():
    logits = torch.tensor([[1.0, 1.0], [float("nan")] * 2, [0.0, 2.0]])
    for labels in (torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)):
        assert torch.equal(depth(logits, labels).rank == 1, correct(logits, labels))


def test_every_column_that_is_printed_has_a_heading():
    for table in ("bench", "runs", "answers", "features"):
        columns = printed_in(table)
        assert columns
        assert all(metric.label for metric in columns.values())
        assert all(metric.latex for metric in columns.values() if table == "bench")
    assert len(METRICS | DERIVED | COST) == len(METRICS) + len(DERIVED) + len(COST)


def test_the_table_says_what_every_number_means():
    for metric in METRICS.values():
        assert metric.better in ("higher", "lower", "0.5", "reference")
        assert len(metric.meaning) > 15
