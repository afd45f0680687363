import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stakes.methods import BoundaryExpand, BoundaryShrink
from stakes.methods.boundary_expand import shadow_logit
from stakes.methods.boundary_shrink import nearest_class


class Linear(nn.Module):
    """Images of one pixel: the logits are linear in its three channels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.tensor(weight)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


def test_the_nearest_class_is_where_one_step_leads_by_hand():
    # At (.5, .5, .5) the classes have 2.5, 1.5, 2 and -2. The step goes along the sum of
    # p_j (w_j - w_0), so by signs (-, +, 0): to (.4, .6, .5), where they have 2, 1.8, 1.6, -1.6,
    # or at most to (0, 1, .5), where they have 0, 3, 0, 0; outside of [0, 1] the last would lead.
    network = Linear([[5.0, 0.0, 0.0], [0.0, 3.0, 0.0], [4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])
    image, label = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    assert network(image).tolist() == [[2.5, 1.5, 2.0, -2.0]]
    assert nearest_class(network, image, label, eps=0.0).tolist() == [2]
    assert nearest_class(network, image, label, eps=0.1).tolist() == [1]
    assert nearest_class(network, image, label, eps=9.0).tolist() == [1]


def test_the_attacked_image_has_pixels_of_eight_bits():
    # 128.4 and 1.004 x 127.6 = 128.1, as they are; 128 and 1.004 x 128 = 128.5 in whole pixels.
    network = Linear([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.004, 0.0]])
    image = torch.tensor([128.4, 127.6, 0.0]).reshape(1, 3, 1, 1) / 255
    assert network(image).argmax() == 1
    assert nearest_class(network, image, torch.tensor([0]), eps=0.0).tolist() == [2]


def test_it_is_never_the_true_class_and_agrees_with_a_slow_attack(classifier, forget):
    for eps in (0.0, 0.1, 0.5, 10.0):
        classifier.zero_grad()
        found = nearest_class(classifier, forget.images, forget.labels, eps).tolist()
        assert all(p.grad is None for p in classifier.parameters())
        for image, label, answer in zip(forget.images, forget.labels, found, strict=True):
            x = image[None].clone().requires_grad_()
            F.cross_entropy(classifier(x), label[None]).backward()
            moved = image[None].clone()
            moved[x.grad > 0] += eps
            moved[x.grad < 0] -= eps
            logits = classifier(moved.clamp(0, 1))[0].tolist()
            assert answer != int(label)
            assert logits[answer] == max(z for j, z in enumerate(logits) if j != int(label))


def test_shrink_fits_the_nearest_class(classifier, forget, anchors):
    method = BoundaryShrink(batch_norm="eval", eps=0.3, max_steps=1)
    result = method(classifier, forget, anchors=anchors)
    targets = nearest_class(classifier, forget.images, forget.labels, 0.3)
    expected = F.cross_entropy(classifier(forget.images), targets).detach()
    assert result.history[1]["term_relabelling"] == pytest.approx(float(expected), rel=1e-5)
    assert result.seconds["probes"] > 0


def test_expand_trains_a_widened_head_and_keeps_its_first_rows(classifier, forget, anchors):
    method = BoundaryExpand(lr=3e-3, momentum=0.0, batch_norm="eval", max_steps=2)
    result = method(classifier, forget, anchors=anchors, seed=4)
    shadow = shadow_logit(classifier.head, torch.Generator().manual_seed(4))
    slow, wide = classifier.copy(), nn.Linear(8, 5)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([classifier.head.weight, shadow.weight]))
        wide.bias.copy_(torch.cat([classifier.head.bias, shadow.bias]))
    trained = [*slow.body.parameters(), *wide.parameters()]
    losses = []
    for _ in range(2):
        logits = wide(slow.features(forget.images))
        loss = F.cross_entropy(logits, torch.full((len(forget),), 4))
        with torch.no_grad():
            for parameter, step in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter -= 3e-3 * step
        losses.append(float(loss.detach()))
    found = [row["term_shadow"] for row in result.history[1:]]
    assert found == pytest.approx(losses, rel=1e-5)
    head = result.classifier.head
    assert head.weight.shape == (4, 8)
    assert torch.allclose(head.weight, wide.weight[:4], atol=1e-6)
    assert torch.allclose(head.bias, wide.bias[:4], atol=1e-6)
    for name, parameter in result.classifier.body.named_parameters():
        assert torch.allclose(parameter, slow.body.get_parameter(name), atol=1e-6), name


def test_the_shadow_row_is_xavier_normal_and_moves_no_global_state():
    state = torch.random.get_rng_state()
    head = nn.Linear(20_000, 30, dtype=torch.float64)
    torch.random.set_rng_state(state)
    shadow = shadow_logit(head, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert shadow.weight.shape == (1, 20_000)
    assert shadow.weight.dtype == torch.float64
    assert float(shadow.weight.detach().std()) == pytest.approx(math.sqrt(2 / 20_031), rel=0.03)
    assert shadow.bias.tolist() == [0]
