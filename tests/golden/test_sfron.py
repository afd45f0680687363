"""SFRon against a loop from its authors' code (K1nght/Unified-Unlearning-w-Remain-Geometry)."""

import math

import pytest
import torch
from torch.nn import functional as F

from golden.slow import PlainSGD, assert_same, flipped_and_cropped, index_batches
from stakes import METHODS


def squares(network, batches):
    """Mean over batches of the squared gradient, for each parameter, in eval mode."""
    network.eval()
    total = [torch.zeros_like(p) for p in network.parameters()]
    for images, labels in batches:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        for value, p in zip(total, network.parameters(), strict=True):
            value += p.grad**2 / len(batches)
    network.train()
    return total


class MaskedSGD(PlainSGD):
    """The same, with the gradient of some steps masked and cut off at a norm."""

    def masked_step(self, loss, masks, norm):
        gradients = torch.autograd.grad(loss, self.parameters)
        gradients = [g * mask for g, mask in zip(gradients, masks, strict=True)]
        length = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        scale = min(1.0, norm / (length + 1e-6))
        self.step(
            sum((scale * g * p).sum() for g, p in zip(gradients, self.parameters, strict=True))
        )


@pytest.mark.parametrize("norm", [7.0, 1e4])  # cut off by the published norm, and never
def test_seven_iterations(norm, network, forget, train_images, retained):
    method = METHODS["sfron"](iterations=7, forget_batch=4, retain_batch=77, max_norm=norm)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    mine = [(ordered.images[:4], ordered.labels[:4]), (ordered.images[4:], ordered.labels[4:])]
    others = [(images[:77], labels[:77]), (images[77:], labels[77:])]
    pairs = zip(squares(slow, mine), squares(slow, others), strict=True)
    masks = [((f + 1e-15) / (r + 1e-15) >= 1).double() for f, r in pairs]
    assert 0 < sum(float(mask.sum()) for mask in masks) < sum(mask.numel() for mask in masks)
    optimizer = MaskedSGD(slow.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    ours, theirs = index_batches(6, 4, generator), index_batches(154, 77, generator)
    for t in range(7):
        decay = (1 + math.cos(math.pi * t / 7)) / 2
        optimizer.lr = 0.01 * decay
        if t % 5 == 0:
            places = next(ours)
            logits = slow(flipped_and_cropped(ordered.images[places], generator))
            losses = F.cross_entropy(logits, ordered.labels[places], reduction="none")
            coefficients = 1 / (losses.detach().sqrt() + 1e-15)
            loss = (coefficients / coefficients.sum() * losses).sum()
            optimizer.masked_step(-25 * decay * loss, masks, norm)
        places = next(theirs)
        logits = slow(flipped_and_cropped(images[places], generator))
        optimizer.step(F.cross_entropy(logits, labels[places]))

    assert len(found.history) == 1 + 7 + 2
    assert_same(network, found.classifier, slow)
