"""Amnesiac unlearning against a loop written from its authors' code (lmgraves/AmnesiacML)."""

import torch
from torch.nn import functional as F

from golden.slow import assert_same, one_pass
from stakes import METHODS


def test_five_steps(network, forget, train_images, retained):
    method = METHODS["amnesiac"](max_steps=5)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    wrong = (ordered.labels + torch.randint(1, 4, (6,), generator=generator)) % 4
    images, labels = torch.cat([ordered.images, images]), torch.cat([wrong, labels])
    optimizer = torch.optim.Adam(slow.parameters())
    batches = [*one_pass(160, 64, generator), *one_pass(160, 64, generator)]
    for places in batches[:5]:
        optimizer.zero_grad()
        F.cross_entropy(slow(images[places]), labels[places]).backward()
        optimizer.step()

    assert len(found.history) == 1 + 5
    assert_same(network, found.classifier, slow, rounding=1e-8)


def test_an_epoch_takes_every_image_of_both_sets(network, forget, train_images):
    method = METHODS["amnesiac"](retain_batch=77, epochs=2)
    found = method(network, forget, retain=train_images, seed=3)
    assert len(found.history) == 1 + 2 * 3  # 154 retained images are two batches, 160 are three
