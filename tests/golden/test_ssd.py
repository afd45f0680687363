"""SSD against loops written from its authors' code (if-loops/selective-synaptic-dampening)."""

import pytest
import torch
from torch.nn import functional as F

from stakes import METHODS


@pytest.mark.parametrize("constants", [{}, {"alpha": 1.5, "dampening": 0.5}])
def test_one_step(constants, network, forget, train_images, retained):
    method = METHODS["ssd"](importance_batch=77, **constants)  # 154 retained images: two batches
    found = method(network, forget, retain=train_images, seed=3).classifier

    images, labels = retained(torch.Generator().manual_seed(3))
    ordered = forget.in_one_order()
    slow = network.copy().eval()

    def importance(batches):
        total = [torch.zeros_like(p) for p in slow.parameters()]
        for shown, truth in batches:
            slow.zero_grad()
            F.cross_entropy(slow(shown), truth).backward()
            for value, p in zip(total, slow.parameters(), strict=True):
                value += p.grad**2
        return [value / len(batches) for value in total]

    mine = [(ordered.images, ordered.labels)]
    parts = [(images[:77], labels[:77]), (images[77:], labels[77:])]
    of_forget, of_all = importance(mine), importance(parts + mine)
    alpha, dampening = constants.get("alpha", 10.0), constants.get("dampening", 1.0)
    chosen = 0
    for p, f, d in zip(slow.parameters(), of_forget, of_all, strict=True):
        flat, f, d = p.detach().flatten(), f.flatten().tolist(), d.flatten().tolist()
        for i in range(len(flat)):
            if f[i] > alpha * d[i]:
                flat[i] *= min(dampening * d[i] / f[i], 1.0)
                chosen += 1
        p.data = flat.view(p.shape)

    assert chosen > 0 or not constants
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, slow.state_dict()[name], rtol=0, atol=1e-5, msg=name)
