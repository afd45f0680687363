"""The Oracle, for which there is no public code, against a loop written from its definition."""

import torch
from torch.nn import functional as F

from golden.slow import assert_same, one_pass
from stakes import METHODS


def test_five_steps(network, forget, train_images, retained):
    method = METHODS["oracle"](forget_batch=4, retain_batch=64, max_steps=5)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    slow.eval()
    optimizer = torch.optim.Adam(slow.parameters(), lr=1e-4)
    ours, theirs = [], []
    for _ in range(5):
        ours = ours or one_pass(6, 4, generator)
        theirs = theirs or one_pass(154, 64, generator)
        mine, other = ours.pop(0), theirs.pop(0)
        p = slow(ordered.images[mine]).double().softmax(1)
        p = p[range(len(mine)), ordered.labels[mine]]
        loss = F.cross_entropy(slow(images[other]), labels[other]) - 0.1 * (1 - p).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert len(found.history) == 1 + 5
    assert_same(network, found.classifier, slow)
