"""Bad teacher against a loop from its authors' code (vikram2000b/bad-teaching-unlearning)."""

import pytest
import torch

from golden.slow import assert_same, one_pass
from stakes import METHODS


@pytest.mark.parametrize("temperature", [1.0, 4.0])  # published, and one that tells
def test_an_epoch(temperature, network, forget, train_images, retained):
    method = METHODS["bad_teacher"](retain_batch=12, temperature=temperature)
    found = method(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, _ = retained(generator)
    bad, good = network.copy().eval(), network.copy().eval()
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in bad.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    pixels = torch.cat([forget.in_one_order().images, images[: int(0.3 * 154)]])
    optimizer = torch.optim.Adam(slow.parameters(), lr=1e-4)
    batches = one_pass(6 + 46, 12, generator)
    for places in batches:
        optimizer.zero_grad()
        answers, loss = (slow(pixels[places]) / temperature).softmax(1), 0.0
        for row, place in enumerate(places.tolist()):
            teacher = bad if place < 6 else good
            t = (teacher(pixels[place : place + 1])[0] / temperature).softmax(0).detach()
            loss = loss + (t * (t.log() - answers[row].log())).sum()
        (loss / (len(places) * 4)).backward()
        optimizer.step()

    assert len(found.history) == 1 + len(batches) == 1 + 5
    assert_same(network, found.classifier, slow, rounding=1e-8)
