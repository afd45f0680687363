import pytest
import torch
from torch import nn
from torch.nn import functional as F

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import BoundaryExpand


@pytest.mark.parametrize("batch", [64, 4])
def test_five_steps_of_boundary_expand(network, forget, batch):
    assert BoundaryExpand().forget_batch == 64
    result = BoundaryExpand(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().train()
    generator = torch.Generator().manual_seed(3)
    wide = nn.Linear(8, 5, dtype=torch.float64)
    with torch.no_grad():
        wide.weight[:4], wide.bias[:4] = slow.head.weight, slow.head.bias
        xavier = (2 / (8 + 5)) ** 0.5
        wide.weight[4] = xavier * torch.randn(1, 8, generator=generator)[0]
        wide.bias[4] = 0
    parameters = [*slow.body.parameters(), *wide.parameters()]
    optimizer = PlainSGD(parameters, lr=1e-5, momentum=0.9)
    batches = index_batches(6, batch, generator)
    for _ in range(5):
        chosen = next(batches)
        logits = wide(slow.features(data.images[chosen]))
        optimizer.step(F.cross_entropy(logits, torch.full((len(chosen),), 4)))
    with torch.no_grad():
        slow.head.weight.copy_(wide.weight[:4])
        slow.head.bias.copy_(wide.bias[:4])
    assert_same(network, result.classifier, slow)


def test_it_takes_ten_passes(network, forget):
    assert BoundaryExpand(forget_batch=4)(network, forget, seed=3).history[-1]["step"] == 20
