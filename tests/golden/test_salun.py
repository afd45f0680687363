"""SalUn against a loop written from its authors' code (OPTML-Group/Unlearn-Saliency)."""

import torch
from torch.nn import functional as F

from golden.slow import assert_same, flipped_and_cropped, one_pass
from stakes import METHODS


def half_with_the_largest_gradients(network, images, labels):
    """1 for half of all weights, those with the largest gradient of the forget loss; else 0."""
    network.eval()
    F.cross_entropy(network(images), labels).backward()
    sizes = torch.cat([p.grad.abs().flatten() for p in network.parameters()])
    least = sizes.sort(descending=True).values[int(0.5 * len(sizes)) - 1]
    masks = [(p.grad.abs() >= least).float() for p in network.parameters()]
    network.zero_grad()
    network.train()
    return masks


def test_two_epochs(network, forget, train_images, retained):
    method = METHODS["salun"](forget_batch=4, retain_batch=64, epochs=2)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    masks = half_with_the_largest_gradients(slow, ordered.images, ordered.labels)
    start = [p.detach().clone() for p in slow.parameters()]
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.013, momentum=0.9, weight_decay=5e-4)

    def step(batch, targets):
        optimizer.zero_grad()
        F.cross_entropy(batch, targets).backward()
        optimizer.step()
        with torch.no_grad():
            for p, mask, old in zip(slow.parameters(), masks, start, strict=True):
                p.copy_(mask * p + (1 - mask) * old)

    for _ in range(2):
        for places in one_pass(6, 4, generator):
            logits = slow(flipped_and_cropped(ordered.images[places], generator))
            offsets = torch.randint(1, 4, (len(places),), generator=generator)
            step(logits, (ordered.labels[places] + offsets) % 4)
        for places in one_pass(154, 64, generator):
            step(slow(flipped_and_cropped(images[places], generator)), labels[places])

    assert len(found.history) == 1 + 2 * (2 + 3)
    assert_same(network, found.classifier, slow)
