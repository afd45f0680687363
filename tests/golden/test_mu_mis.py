import pytest
import torch

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import MUMis


@pytest.mark.parametrize("batch", [256, 4])
def test_five_steps_of_mu_mis(network, forget, batch):
    assert (MUMis().forget_batch, MUMis().recovery) == (256, 1)
    result = MUMis(forget_batch=batch, recovery=100, max_steps=5)(network, forget, seed=3)
    data, slow = forget.in_one_order(), network.copy().eval()
    generator = torch.Generator().manual_seed(3)
    optimizer = PlainSGD(slow.parameters(), lr=1e-5)
    batches = index_batches(6, batch, generator)
    for _ in range(5):
        chosen = next(batches)
        labels = data.labels[chosen]
        others = (labels + torch.randint(1, 4, labels.shape, generator=generator)) % 4
        loss = torch.zeros((), dtype=torch.float64)
        for image, own, other in zip(data.images[chosen], labels, others, strict=True):
            x = image.double()[None].requires_grad_()
            logits = slow(x)[0]
            for logit, sign in ((logits[own], 1), (logits[other], -1)):
                (g,) = torch.autograd.grad(logit, x, create_graph=True)
                loss += sign * (g**2).sum() / len(chosen)
        optimizer.step(loss)
    assert_same(network, result.classifier, slow)


@pytest.mark.parametrize("recovery", [1.0, 0.5])
def test_it_ends_where_the_other_classes_have_recovered(recovery, network, forget):
    result = MUMis(lr=1e-3, recovery=recovery)(network, forget, seed=3)
    norms = [(-row["term_other_class"]) ** 0.5 for row in result.history[1:]]
    back = [value > max(recovery * norms[0], min(norms[:n])) for n, value in enumerate(norms) if n]
    assert back == [False] * (len(back) - 1) + [True]
    assert result.stop_reason.startswith("recovered")
