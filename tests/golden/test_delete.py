import pytest
import torch

from golden.slow import PlainSGD, assert_same, flipped_and_cropped, index_batches
from stakes.methods import Delete


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_delete(network, forget, batch):
    assert Delete().forget_batch == 128
    result = Delete(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow, teacher = forget.in_one_order(), network.copy().train(), network.copy().eval()
    generator = torch.Generator().manual_seed(3)
    optimizer = PlainSGD(slow.parameters(), lr=1e-4, momentum=0.9)
    batches = index_batches(6, batch, generator)
    for _ in range(5):
        chosen = next(batches)
        shown = flipped_and_cropped(data.images[chosen], generator)
        loss = torch.zeros((), dtype=torch.float64)
        for answer, label, z in zip(slow(shown), data.labels[chosen], teacher(shown), strict=True):
            odds = z.detach().exp()
            odds[label] = 0
            target, log_p = odds / odds.sum(), answer - answer.exp().sum().log()
            loss += sum(q * (q.log() - s) for q, s in zip(target, log_p, strict=True) if q > 0)
        optimizer.step(loss / len(chosen))
    assert_same(network, result.classifier, slow)


def test_it_takes_twenty_passes(network, forget):
    assert Delete(forget_batch=4)(network, forget, seed=3).history[-1]["step"] == 40
