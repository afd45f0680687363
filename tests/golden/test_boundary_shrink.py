import pytest
import torch
from torch.nn import functional as F

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import BoundaryShrink


@pytest.mark.parametrize("batch", [64, 4])
def test_five_steps_of_boundary_shrink(network, forget, batch):
    assert BoundaryShrink().forget_batch == 64
    result = BoundaryShrink(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow, original = forget.in_one_order(), network.copy().train(), network.copy().eval()
    nearest = []
    for image, label in zip(data.images, data.labels, strict=True):
        x = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(original(x), label[None]), x)
        attacked = torch.round((image + 0.1 * gradient.sign()).clamp(0, 1) * 255) / 255
        order = original(attacked).detach()[0].argsort(descending=True).tolist()
        nearest.append(next(y for y in order if y != int(label)))
    targets = torch.tensor(nearest)
    optimizer = PlainSGD(slow.parameters(), lr=1e-5, momentum=0.9)
    batches = index_batches(6, batch, torch.Generator().manual_seed(3))
    for _ in range(5):
        chosen = next(batches)
        optimizer.step(F.cross_entropy(slow(data.images[chosen]), targets[chosen]))
    assert_same(network, result.classifier, slow)


def test_it_takes_ten_passes(network, forget):
    assert BoundaryShrink(forget_batch=4)(network, forget, seed=3).history[-1]["step"] == 20
