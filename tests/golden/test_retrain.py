"""Retrain against a plain training loop: fresh weights, SGD, half a cosine."""

import math

import torch
from torch.nn import functional as F

from golden.slow import assert_same, flipped_and_cropped, one_pass
from stakes import METHODS


def test_two_epochs(network, forget, train_images, retained):
    method = METHODS["retrain"](retain_batch=64, epochs=2)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in slow.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step = 0
    for _ in range(2):
        for places in one_pass(154, 64, generator):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 6))
            optimizer.zero_grad()
            F.cross_entropy(
                slow(flipped_and_cropped(images[places], generator)), labels[places]
            ).backward()
            optimizer.step()
            step += 1

    assert len(found.history) == 1 + 6
    assert_same(network, found.classifier, slow)
