"""Each metric against a slow, obvious version."""

import torch

from stakes.rows import METRICS, correct


def test_correct_is_the_largest_logit_at_the_label():
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]])
    assert correct(logits, torch.tensor([1, 1, 1])).tolist() == [True, False, True]


def test_a_network_that_gives_nan_is_not_right_everywhere():
    logits = torch.full((4, 4), float("nan"))
    assert correct(logits, torch.arange(4)).float().mean() <= 0.25


def test_the_table_says_what_every_number_means():
    for metric in METRICS.values():
        assert metric.better in ("higher", "lower", "0.5", "reference")
        assert len(metric.meaning) > 20
