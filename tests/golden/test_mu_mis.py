import pytest
import torch

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import MUMis
from stakes.methods.mu_mis import Recovery


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


@pytest.mark.parametrize(("lr", "reason"), [(0.01, "recovered"), (1.0, "forgotten")])
def test_a_run_that_has_forgotten_all_says_so_though_it_has_recovered_too(
    lr, reason, network, forget, monkeypatch
):
    monkeypatch.setattr(Recovery, "note", lambda own, value: setattr(own, "reached", True))
    result = MUMis(lr=lr)(network, forget, seed=3)
    assert len(result.history) == 2
    assert result.stop_reason.startswith(reason)


def test_a_recovery_goes_on_as_it_was():
    def recovery(values):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        made = Recovery(optimizer, 1.0)
        for value in values:
            made.note(value)
        return made

    before, after, then = [5.0, 3.0], recovery([]), [4.0, 4.8, 5.2]
    after.load_state_dict(recovery(before).state_dict())
    for n, value in enumerate(then, 1):
        after.note(value)
        assert after.reached == recovery(before + then[:n]).reached == (value > 5)
