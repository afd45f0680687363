import pytest
import torch
from torch.nn import functional as F

from golden.slow import assert_same, index_batches
from stakes.methods import RAWP


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_our_reconstruction_of_rawp(network, forget, batch):
    assert RAWP().forget_batch == 128
    result = RAWP(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().train()
    batches = index_batches(6, batch, torch.Generator().manual_seed(3))
    steps = int(result.history[-1]["step"])  # it ends where all is forgotten
    assert steps >= 3
    for _ in range(steps):
        chosen = next(batches)
        loss = F.cross_entropy(slow(data.images[chosen]), data.labels[chosen])
        layers = [p for p in slow.parameters() if p.ndim > 1]
        for layer, g in zip(layers, torch.autograd.grad(loss, layers), strict=True):
            layer.data += 5e-3 * layer.data.square().sum().sqrt() * g / g.square().sum().sqrt()
    assert_same(network, result.classifier, slow)
