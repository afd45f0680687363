"""Muon against PyTorch's own, against singular values by hand, and against Adam for vectors."""

import math

import pytest
import torch
from torch import Tensor

from stakes.training.muon import Muon, orthogonalised


def by_singular_values(matrix: Tensor) -> Tensor:
    """The same polynomial five times over, of the singular values alone."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return ((u * s) @ v).to(matrix.dtype)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 5), (6, 6)])
def test_singular_values_become_alike_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalised(matrix)
    torch.testing.assert_close(made, by_singular_values(matrix), atol=1e-4, rtol=1e-4)
    values = torch.linalg.svdvals(made)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_nothing_is_made_of_nothing() -> None:
    assert not orthogonalised(torch.zeros(3, 5)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has none before 2.9")
def test_matrices_move_as_by_the_optimiser_of_pytorch() -> None:
    start = torch.randn(12, 20, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([ours], [], lr=0.1)
    other = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.0, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for seed in range(4):
        gradient = torch.randn(12, 20, generator=torch.Generator().manual_seed(10 + seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        other.step()
    # PyTorch's iteration runs in bfloat16.
    moved = (theirs.detach() - start).norm()
    assert float((ours - theirs).detach().norm() / moved) < 0.02


def test_a_kernel_moves_as_its_matrix() -> None:
    start = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    kernel = torch.nn.Parameter(start.clone())
    matrix = torch.nn.Parameter(start.clone().flatten(1))
    kernel.grad, matrix.grad = start.sin(), start.sin().flatten(1)
    Muon([kernel, matrix], [], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)
    step = (kernel.detach() - start).flatten(1)
    assert float(step.square().mean().sqrt()) == pytest.approx(0.02, rel=0.3)  # 0.2 of the rate
    scale = 0.1 * 0.2 * math.sqrt(12)
    gradient = 0.1 * 0.9 * start.sin() + 0.1 * start.sin()  # Nesterov's, of one gradient
    expected = by_singular_values(gradient.flatten(1))
    torch.testing.assert_close(step, -scale * expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_vectors_and_heads_move_as_by_adam_and_what_has_no_gradient_stays(shape) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    ours, theirs, still = (torch.nn.Parameter(start.clone()) for _ in range(3))
    head = [] if len(shape) == 1 else [ours]
    own, adam = Muon([ours, still], head, lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for step in range(5):
        ours.grad = (start * (step + 1)).cos()
        theirs.grad = ours.grad.clone()
        own.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert torch.equal(still, start)


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    def steps(weights: list[torch.nn.Parameter], optimizer: Muon, of: range) -> None:
        for step in of:
            for weight in weights:
                weight.grad = (weight.detach() * (step + 2)).sin()
            optimizer.step()

    def made() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(5)
        return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 4), (4,))]

    straight, first = made(), made()
    steps(straight, Muon(straight, [], lr=0.1), range(6))
    before = Muon(first, [], lr=0.1)
    steps(first, before, range(3))
    after = Muon(first, [], lr=0.7)
    after.load_state_dict(before.state_dict())
    steps(first, after, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(straight, first, strict=True))


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert Muon([weight], [], lr=0.1).step(closure) == 4.0
    assert not torch.equal(weight, torch.ones(2, 2))
