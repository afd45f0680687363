"""Grad-CAM against a closed form, on networks that have a last map and on those that have none."""

import pytest
import torch
import torchvision
from torch import nn

from stakes import Classifier
from stakes.evaluation.saliency import grad_cam, last_map, overlay


def test_maps_against_a_slow_version(classifier, test_images):
    """In Tiny, logit = W relu(A).mean + b, so its gradient by A is W / places where A > 0."""
    images, classes = test_images.load(range(5)), torch.tensor([0, 1, 2, 3, 0])
    body = classifier.body
    with torch.no_grad():
        hidden = torch.relu(body.bn1(body.conv1(images)))
        maps = body.bn2(body.conv2(hidden))  # (5, 8, 4, 4): the last map that a module gives
    found = grad_cam(classifier, images, classes)
    for i, label in enumerate(classes.tolist()):
        slow = torch.zeros(4, 4)
        for j in range(8):
            slope = classifier.head.weight[label, j].detach() * (maps[i, j] > 0) / 16
            slow += slope.mean() * maps[i, j]
        slow = nn.functional.interpolate(slow.relu()[None, None], (8, 8), mode="bilinear")[0, 0]
        assert torch.allclose(found[i], slow, atol=1e-6)
    assert found.max() > 0


def test_a_frozen_network_in_no_grad_has_maps_and_keeps_no_gradients(classifier, forget):
    free = grad_cam(classifier, forget.images, forget.labels)
    classifier.requires_grad_(False)
    images = forget.images.clone()
    with torch.no_grad():
        frozen = grad_cam(classifier, images, forget.labels)
    assert torch.equal(frozen, free)
    assert not frozen.requires_grad
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(part._forward_hooks for part in classifier.modules())


def test_the_last_map_of_a_resnet_is_that_of_its_last_stage():
    network = torchvision.models.resnet18(num_classes=4)
    classifier = Classifier.wrap(network, input_size=64)
    assert last_map(classifier, torch.rand(1, 3, 64, 64)) is classifier.body.layer4


class Tokens(nn.Module):
    """Patches as tokens, or as places with the channels last."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.patches, self.norm, self.fc = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 4)
        self.flat = flat

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        x = self.norm(x.flatten(1, 2) if self.flat else x)
        return self.fc(x.mean(1) if self.flat else x.mean((1, 2)))


@pytest.mark.parametrize("flat", [True, False])
def test_networks_of_tokens_have_no_map(flat):
    classifier = Classifier.wrap(Tokens(flat), input_size=8)
    assert grad_cam(classifier, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])) is None


def test_heat_lies_over_a_grey_image():
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    cold = overlay(image, torch.zeros(4, 4))
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold[1], cold[2])
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    warm = overlay(image, heat)
    changed = (warm != cold).any(0)
    assert changed.nonzero().tolist() == [[1, 2]]
    assert warm[0, 1, 2] > warm[1, 1, 2] > warm[2, 1, 2]
    assert 0 <= warm.min() <= warm.max() <= 1
