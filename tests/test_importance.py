import torch

from stakes.training.importance import mean_gradient_magnitude, min_max


def test_magnitudes_are_taken_per_sample_before_the_mean():
    weight = torch.tensor([1.0, -1.0], requires_grad=True)
    samples = torch.tensor([[2.0, 0.0], [-4.0, 1.0]])
    seen = []
    importance = mean_gradient_magnitude(
        {"w": weight},
        lambda x: (x @ weight).sum(),
        samples,
        lambda done, total: seen.append((done, total)),
    )
    assert importance["w"].tolist() == [3.0, 0.5]
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert weight.grad is None


def test_a_parameter_that_the_loss_does_not_touch_has_none():
    used, unused = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    importance = mean_gradient_magnitude(
        {"used": used, "unused": unused}, lambda x: (x * used).sum(), torch.ones(3, 1)
    )
    assert importance["unused"].tolist() == [0, 0]


def test_scaling_spans_zero_to_one_and_never_nan():
    scaled = min_max({"a": torch.tensor([2.0, 4.0, 6.0]), "b": torch.full((3,), 7.0)})
    assert scaled["a"].tolist() == [0, 0.5, 1]
    assert scaled["b"].tolist() == [0, 0, 0]
