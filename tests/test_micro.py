"""Passes in parts: the same weights, and never more images in the network than were allowed."""

import pytest
import torch
from torch import nn

from stakes.cli import commands as cli
from stakes.methods import NegGrad, StructGuard
from stakes.models.classifier import Classifier
from stakes.training.micro import passing_at_most

METHODS = {
    "exact": StructGuard(max_steps=14, probe_batch=13, precision="float32"),
    "neggrad": NegGrad(batch_norm="eval", lr=0.01, max_steps=3),
}


@pytest.fixture
def rows(monkeypatch):
    """The sizes of the batches that convolutions see."""
    seen: list[int] = []
    forward = nn.Conv2d.forward

    def watched(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_parts_reach_the_weights_of_the_whole(name, classifier, forget, anchors, rows):
    """With this seed no gradient is mere rounding, which Adam's first steps would magnify."""
    whole = METHODS[name](classifier, forget, anchors=anchors, seed=1)
    assert max(rows) > 4
    rows.clear()
    with passing_at_most(4):
        parts = METHODS[name](classifier, forget, anchors=anchors, seed=1)
    assert 0 < max(rows) <= 4
    assert Classifier.across is None
    assert len(parts.history) == len(whole.history)
    one, other = (dict(result.classifier.named_parameters()) for result in (whole, parts))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5)


def test_statistics_of_a_batch_are_of_all_of_it(classifier, rows):
    images = torch.rand(6, 3, 8, 8)
    classifier.train()
    with passing_at_most(2), torch.no_grad():
        classifier(images)
        assert set(rows) == {6}
        rows.clear()
        classifier.eval()
        classifier(images)
    assert set(rows) == {2}


def test_parts_of_nothing_are_refused(tmp_path, capsys):
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:2"
    assert cli.main([*words.split(), "--out", str(tmp_path / "o"), "--micro-batch", "0"]) == 2
    assert "--micro-batch 0" in capsys.readouterr().err
