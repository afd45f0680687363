"""Fine-tuning against a loop written from public code (OPTML-Group/Unlearn-Saliency)."""

import torch
from torch.nn import functional as F

from golden.slow import assert_same, flipped_and_cropped, one_pass
from stakes import METHODS


def test_two_epochs(network, forget, train_images, retained):
    method = METHODS["finetune"](retain_batch=64, epochs=2)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for places in one_pass(154, 64, generator):
            optimizer.zero_grad()
            F.cross_entropy(
                slow(flipped_and_cropped(images[places], generator)), labels[places]
            ).backward()
            optimizer.step()

    assert len(found.history) == 1 + 6
    assert_same(network, found.classifier, slow)
