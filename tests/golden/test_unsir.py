"""UNSIR against a loop written from its authors' code (vikram2000b/Fast-Machine-Unlearning)."""

import torch
from torch.nn import functional as F

from golden.slow import assert_same, one_pass
from stakes import METHODS


def test_noise_impair_and_repair(normalising, forget, train_images, retained):
    network = normalising
    method = METHODS["unsir"](
        noise_images=8, noise_copies=3, noise_steps=5, retain_batch=64, impair_lr=2e-3,
        repair_lr=1e-3,
    )  # fmt: skip
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    mean, std = slow.mean, slow.std
    shown, truth = [], []
    for label in sorted(set(forget.labels.tolist())):
        noise = torch.randn(8, 3, 8, 8, generator=generator).requires_grad_(True)
        optimizer = torch.optim.Adam([noise], lr=0.1)
        for _ in range(5):
            ce = F.cross_entropy(slow(mean + std * noise), torch.full((8,), label))
            loss = -ce + 0.1 * (noise**2).sum([1, 2, 3]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        shown.append((mean + std * noise).detach())
        truth.append(torch.full((8,), label))
    everything = torch.cat([*shown * 3, images])
    targets = torch.cat([*truth * 3, labels])

    def epoch(lr, pixels, classes):
        optimizer = torch.optim.Adam(slow.parameters(), lr=lr)
        for places in one_pass(len(pixels), 64, generator):
            optimizer.zero_grad()
            F.cross_entropy(slow(pixels[places]), classes[places]).backward()
            optimizer.step()

    epoch(2e-3, everything, targets)
    epoch(1e-3, images, labels)

    assert len(found.history) == 1 + 4 + 3  # 48 + 154 images, then 154, by 64
    assert_same(network, found.classifier, slow, rounding=1e-8)
