"""SCRUB against a loop written from its authors' code (meghdadk/SCRUB), in each of its settings."""

import pytest
import torch
from torch.nn import functional as F

from golden.slow import assert_same, one_pass
from stakes.methods import method_class

PUBLISHED = {
    None: {"T": 4.0, "alpha": 0.001, "gamma": 0.99, "max_epochs": 2, "decay": (3, 5, 9)},
    "few_images": {"T": 4.0, "alpha": 0.5, "gamma": 1.0, "max_epochs": 3, "decay": (3, 5, 9)},
    "small_scale": {"T": 2.0, "alpha": 0.5, "gamma": 1.0, "max_epochs": 3, "decay": (5, 8, 9)},
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_epochs_with_and_without_a_max_pass(preset, network, forget, train_images, retained):
    sizes = {"forget_batch": 4, "retain_batch": 64, "epochs": 7}
    s = PUBLISHED[preset]
    method = method_class("scrub", preset)(**sizes)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered = forget.in_one_order()
    teacher = network.copy().eval()
    if preset == "small_scale":
        optimizer = torch.optim.Adam(slow.parameters(), lr=5e-4, weight_decay=0.1)
    else:
        optimizer = torch.optim.SGD(slow.parameters(), lr=5e-4, momentum=0.9, weight_decay=5e-4)

    def divergence(logits, batch):
        with torch.no_grad():
            p = (teacher(batch) / s["T"]).softmax(1)
        return s["T"] ** 2 * (p * (p.log() - (logits / s["T"]).log_softmax(1))).sum() / len(batch)

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    steps = 0
    for epoch in range(1, 8):
        passed = sum(epoch > after for after in s["decay"])
        optimizer.param_groups[0]["lr"] = 5e-4 * 0.1**passed
        for places in one_pass(6, 4, generator) if epoch <= s["max_epochs"] else []:
            step(-divergence(slow(ordered.images[places]), ordered.images[places]))
            steps += 1
        for places in one_pass(154, 64, generator):
            logits = slow(images[places])
            ce = F.cross_entropy(logits, labels[places])
            step(s["gamma"] * ce + s["alpha"] * divergence(logits, images[places]))
            steps += 1

    assert len(found.history) == 1 + steps
    assert_same(network, found.classifier, slow)
