import pytest
import torch

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import NPO


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_npo(network, forget, batch):
    assert NPO().forget_batch == 128
    result = NPO(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow, original = forget.in_one_order(), network.copy().train(), network.copy().eval()
    optimizer = PlainSGD(slow.parameters(), lr=1e-3, momentum=0.9)
    batches = index_batches(6, batch, torch.Generator().manual_seed(3))
    for _ in range(5):
        chosen = next(batches)
        images, labels = data.images[chosen], data.labels[chosen]
        now, before = slow(images).softmax(1), original(images).softmax(1).detach()
        loss = torch.zeros((), dtype=torch.float64)
        for p, q, label in zip(now, before, labels, strict=True):
            loss += 2 / 0.1 * (1 + (p[label] / q[label]) ** 0.1).log() / len(chosen)
        optimizer.step(loss)
    assert_same(network, result.classifier, slow)
