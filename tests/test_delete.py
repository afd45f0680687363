import math

import pytest
import torch

from stakes.methods import Delete
from stakes.methods.delete import without_true_class


def test_the_target_keeps_the_proportions_of_the_other_classes():
    logits = torch.tensor([[5.0, math.log(3), 0.0], [0.0, 2.0, 2.0]])
    target = without_true_class(logits, torch.tensor([0, 1])).softmax(1)
    expected = torch.tensor([[0, 3 / 4, 1 / 4], [1 / (1 + math.e**2), 0, 1 / (1 + math.e**-2)]])
    assert torch.allclose(target, expected)
    assert target[0, 0] == target[1, 1] == 0
    assert logits[0, 0] == 5


def test_the_loss_is_the_divergence_from_that_target(classifier, forget, anchors):
    method = Delete(augment=False, batch_norm="eval", max_steps=1)
    history = method(classifier, forget, anchors=anchors).history
    total = 0.0
    for z, label in zip(classifier(forget.images).double(), forget.labels, strict=True):
        odds = [0.0 if j == int(label) else math.exp(v) for j, v in enumerate(z.tolist())]
        for q, log_p in zip(odds, z.log_softmax(0).tolist(), strict=True):
            q /= sum(odds)
            total += q * (math.log(q) - log_p) if q else 0.0
    expected = total / len(forget)
    assert history[1]["term_distillation"] == pytest.approx(expected, rel=1e-4)
    assert history[1]["loss"] == history[1]["term_distillation"]
