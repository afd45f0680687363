import pytest
import torch

from golden.slow import PlainSGD, assert_same, flipped_and_cropped, index_batches
from stakes.methods import RandomLabel


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_random_label(network, forget, batch):
    assert RandomLabel().forget_batch == 128
    result = RandomLabel(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().train()
    generator = torch.Generator().manual_seed(3)
    wrong = (data.labels + torch.randint(1, 4, (6,), generator=generator)) % 4
    optimizer = PlainSGD(slow.parameters(), lr=1e-4, momentum=0.9)
    batches = index_batches(6, batch, generator)
    for _ in range(5):
        chosen = next(batches)
        logits = slow(flipped_and_cropped(data.images[chosen], generator))
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        optimizer.step(-p[range(len(chosen)), wrong[chosen]].log().sum() / len(chosen))
    assert_same(network, result.classifier, slow)
    assert set(wrong.eq(data.labels).tolist()) == {False}


def test_it_takes_twenty_passes(network, forget):
    history = RandomLabel(forget_batch=4)(network, forget, seed=3).history
    assert history[-1]["step"] == 40
