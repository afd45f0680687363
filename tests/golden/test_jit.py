import pytest
import torch

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import JiT


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_jit(network, forget, batch):
    assert JiT().forget_batch == 128
    network.mean[:], network.std[:] = 0.4, 0.25
    result = JiT(forget_batch=batch, epochs=0, max_steps=5)(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().eval()
    generator = torch.Generator().manual_seed(3)
    optimizer = PlainSGD(slow.parameters(), lr=3e-4)
    batches = index_batches(6, batch, generator)
    for _ in range(5):
        images = data.images[next(batches)].double()
        normal = (images - 0.4) / 0.25
        clean = slow(images)
        loss = torch.zeros((), dtype=torch.float64)
        for _ in range(25):
            noise = 0.01 * torch.randn(normal.shape, generator=generator)
            moved = (normal + noise).clamp(normal.min(), normal.max())
            noisy = slow(0.25 * moved + 0.4).detach()
            for a, b, x, y in zip(clean, noisy, normal, moved, strict=True):
                loss += ((a - b) ** 2).sum().sqrt() / ((x - y) ** 2).sum().sqrt() / 25
        optimizer.step(loss)
    assert_same(network, result.classifier, slow)


def test_it_takes_one_pass(network, forget):
    assert JiT(forget_batch=4)(network, forget, seed=3).history[-1]["step"] == 2
