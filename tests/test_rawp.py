import pytest
import torch
from torch.nn import functional as F

from stakes.methods import RAWP
from stakes.methods.rawp import LayerwiseStep


def test_each_layer_ascends_by_a_share_of_its_own_norm(classifier, forget, anchors):
    method = RAWP(gamma=0.02, batch_norm="eval", max_steps=1)
    after = dict(method(classifier, forget, anchors=anchors).classifier.named_parameters())
    F.cross_entropy(classifier(forget.images), forget.labels).backward()
    for name, before in classifier.named_parameters():
        if before.ndim == 1:
            assert torch.equal(after[name], before), name
            continue
        step = (after[name] - before).detach()
        assert float(step.norm()) == pytest.approx(0.02 * float(before.detach().norm()), rel=1e-4)
        uphill = F.cosine_similarity(step.flatten(), before.grad.flatten(), dim=0)
        assert float(uphill) == pytest.approx(1, abs=1e-5), name


def test_a_tensor_without_a_gradient_stays(classifier):
    matrix, flat = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    flat.grad = torch.zeros(2, 2)
    LayerwiseStep([matrix, flat], lr=0.5).step()
    assert torch.equal(matrix, torch.ones(2, 2))
    assert torch.equal(flat, torch.ones(2, 2))


def test_its_title_says_that_it_is_a_reconstruction():
    assert "our reconstruction" in RAWP.title
