import pytest
import torch
from torch import nn

from stakes import InputError
from stakes.methods import Fisher
from stakes.methods.fisher import fisher_diagonal, inverse
from stakes.training.loop import FORGOTTEN


@pytest.fixture
def softmax_regression():
    """A linear network on images of 12 numbers, whose Fisher information has a closed form."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network, torch.rand(5, 3, 2, 2, generator=generator, dtype=torch.float64)


def test_the_diagonal_is_the_closed_form_of_softmax_regression(softmax_regression):
    network, images = softmax_regression
    seen = []
    fisher = fisher_diagonal(
        dict(network.named_parameters()), network, images, 10, lambda *done: seen.append(done)
    )
    x, p = images.flatten(1), network(images).softmax(1).detach()
    spread = p * (1 - p)  # the variance over y ~ p of 1[y = j], which is E (1[y = j] - p_j)^2
    assert torch.allclose(fisher["1.bias"], spread.mean(0))
    assert torch.allclose(fisher["1.weight"], (spread[:, :, None] * x[:, None] ** 2).mean(0))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_the_sum_can_be_cut_to_the_most_probable_classes(softmax_regression):
    network, images = softmax_regression
    fisher = fisher_diagonal(dict(network.named_parameters()), network, images, 1)
    expected = torch.zeros(4, dtype=torch.float64)
    for p in network(images).softmax(1).detach():
        top = int(p.argmax())
        for j in range(4):
            expected[j] += p[top] * (float(j == top) - p[j]) ** 2 / len(images)
    assert torch.allclose(fisher["1.bias"], expected)


def moved(method, classifier, forget, anchors):
    after = dict(method(classifier, forget, anchors=anchors, seed=3).classifier.named_parameters())
    return {name: after[name].detach() - p.detach() for name, p in classifier.named_parameters()}


def test_the_noise_is_standard_normal_but_for_its_variance(classifier, forget, anchors):
    noise = moved(Fisher(alpha=1e-4, alpha_max=1e-4), classifier, forget, anchors)
    fisher = fisher_diagonal(dict(classifier.named_parameters()), classifier, forget.images, 4)
    standard = torch.cat([
        (value / (1e-4 * inverse(fisher[name], in_head=name.startswith("head."))).sqrt()).flatten()
        for name, value in noise.items()
    ])  # fmt: skip
    assert len(standard) > 800
    assert abs(float(standard.mean())) < 0.15
    assert float(standard.std()) == pytest.approx(1, abs=0.1)


def test_one_noise_is_turned_up_by_the_root_of_alpha(classifier, forget, anchors):
    weak = moved(Fisher(alpha=1e-6, alpha_max=1e-6, max_steps=1), classifier, forget, anchors)
    strong = moved(Fisher(alpha=1e-4, alpha_max=1e-4, max_steps=1), classifier, forget, anchors)
    for name, value in weak.items():
        assert torch.allclose(10 * value, strong[name], atol=1e-4), name


def test_the_least_alpha_that_is_enough_is_chosen(classifier, forget, anchors):
    method = Fisher(alpha=1e-4, alpha_max=1e0, max_steps=9)
    result = method(classifier, forget, anchors=anchors, seed=0)
    assert result.ending == FORGOTTEN
    tried = [row["strength"] for row in result.history[1:]]
    assert tried == pytest.approx([10 ** (-4 + n / 2) for n in range(len(tried))])
    assert all(row["forget_accuracy"] > 0 for row in result.history[:-1])
    assert result.chosen == {"alpha": tried[-1]}


def test_it_stays_at_the_end_of_the_range_where_nothing_is_enough(classifier, forget, anchors):
    method = Fisher(alpha=1e-12, alpha_max=1e-10, max_steps=3)
    result = method(classifier, forget, anchors=anchors, seed=0)
    assert result.stop_reason.startswith("limit: 3 strengths up to 1e-10 tried")
    assert result.chosen == {"alpha": pytest.approx(1e-10)}
    assert set(result.seconds) == {"importance", "unlearn"}


@pytest.mark.parametrize(("settings", "message"), [
    ({"alpha": 1e-3}, "alpha=0.001: give a number of at most alpha_max=1e-06"),
    ({"alpha": 0.0}, "alpha=0.0: give a number above 0"),
])  # fmt: skip
def test_settings_without_a_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Fisher(**settings)
