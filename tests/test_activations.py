"""Activations that a sidecar describes: the distribution fitted, draws from it, and their use."""

import math
from dataclasses import replace

import pytest
import torch

from stakes.data.activations import Activations, as_given, planes
from stakes.sidecar import fit

LAYERS = (("conv", (3, 4, 4)), ("tokens", (5, 2)))
WIDTH = 3 * 16 + 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(classes: int = 2, each: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with a mean for each class, two directions, related places, and heavy tails."""
    generator = seeded(4)
    labels = torch.arange(classes).repeat_interleave(each)
    means = 3 * torch.randn(classes, WIDTH, generator=generator)
    along = torch.randn(classes, 2, WIDTH, generator=generator)
    rows = means[labels]
    rows += torch.einsum(
        "nr,nrd->nd", torch.randn(len(labels), 2, generator=generator), along[labels]
    )
    noise = torch.randn(len(labels), 3, 4, 4, generator=generator).cumsum(3)
    rows[:, :48] += (noise.sign() * noise.abs() ** 2).flatten(1) / 8
    return rows, labels


def fitted(rows: torch.Tensor, labels: torch.Tensor, room: int = 10**6) -> Activations | None:
    return fit.fitted(rows, labels, LAYERS, room=room, generator=seeded())


@pytest.fixture(scope="module")
def described() -> Activations:
    return fitted(*sample())


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 4, 6), (7, 2), (9,)])
def test_channels_and_places_go_back_to_where_they_were(shape):
    rows = torch.arange(2.0 * math.prod(shape)).view(2, -1)
    (parts,) = planes(rows, (("one", shape),))
    assert torch.equal(as_given(parts, shape), rows)
    channels = {(3, 4, 5): 3, (4, 4, 6): 6, (7, 2): 2, (9,): 9}[shape]
    assert parts.shape == (2, channels, math.prod(shape) // channels)
    if shape == (7, 2):
        assert torch.equal(parts[0, 1], rows[0].view(7, 2)[:, 1])


def test_draws_are_like_the_data(described):
    rows, labels = sample()
    parts = described.draw(4000, seeded(1), torch.ones(2))
    assert [part.shape for part in parts] == [(4000, 3, 4, 4), (4000, 5, 2)]
    drawn = torch.cat([part.flatten(1) for part in parts], dim=1)
    # of all classes alike, each with its own mean
    nearest = torch.cdist(drawn, described.means).argmin(1)
    assert 0.45 < nearest.double().mean() < 0.55
    for label in range(2):
        own, real = drawn[nearest == label], rows[labels == label]
        assert (own.mean(0) - real.mean(0)).norm() < 0.15 * real.mean(0).norm()
        directions = torch.linalg.svd(real - real.mean(0), full_matrices=False).Vh[:2]
        for direction in directions:
            ratio = (own @ direction).std() / (real @ direction).std()
            assert 0.8 < ratio < 1.2
        # the residual's places are related as those of the data are
        apart = [(part - part.mean(0))[:, :48].view(-1, 3, 4, 4) for part in (own, real)]
        ahead = [float((x[..., 2] * x[..., 3]).mean() / x[..., 2].square().mean()) for x in apart]
        assert ahead[0] == pytest.approx(ahead[1], abs=0.15)


def test_classes_are_drawn_as_often_as_their_shares_say(described):
    parts = described.draw(2000, seeded(1), torch.tensor([0.2, 0.8]))
    drawn = torch.cat([part.flatten(1) for part in parts], dim=1)
    nearest = torch.cdist(drawn, described.means).argmin(1)
    assert nearest.double().mean() == pytest.approx(0.8, abs=0.04)


def test_the_centres_are_the_means_layer_by_layer(described):
    conv, tokens = described.centres()
    assert (conv.shape, tokens.shape) == ((2, 3, 4, 4), (2, 5, 2))
    assert torch.equal(torch.cat([conv.flatten(1), tokens.flatten(1)], dim=1), described.means)


def test_draws_have_the_tails_of_the_data():
    generator = seeded(2)
    labels = torch.arange(2).repeat_interleave(300)
    rows = torch.randn(600, WIDTH, generator=generator) ** 3
    rows = torch.where(rows < 0, 0.0, rows)  # as after a ReLU: never below 0, most of them 0
    drawn = torch.cat(
        [p.flatten(1) for p in fitted(rows, labels).draw(600, seeded(), torch.ones(2))], dim=1
    )
    assert drawn.min() == 0
    assert float((drawn == 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    for level in (0.9, 0.99, 0.999):
        real, made = (
            float(values.flatten().quantile(level)) for values in (rows[:, :48], drawn[:, :48])
        )
        assert made == pytest.approx(real, rel=0.15)


def test_nothing_is_kept_of_few_images():
    rows, labels = sample(classes=3)
    few = torch.cat([torch.arange(400), torch.arange(400, 655), torch.arange(800, 1099)])
    found = fitted(rows[few], labels[few])
    assert len(found.means) == 2  # of 255 images none
    assert torch.allclose(found.means[1], rows[800:1099].mean(0), atol=1e-5)
    lengths = found.directions.norm(dim=2)
    assert (lengths > 0).sum(1).tolist() == [4, 2]  # one for a hundred images
    assert fitted(rows[400:655], labels[400:655]) is None
    assert len(fitted(rows[400:656], labels[400:656]).means) == 1


def test_a_class_of_too_few_images_changes_nothing_for_the_others():
    rows, labels = sample(classes=3)
    alone, beside = fitted(rows[:800], labels[:800]), fitted(rows[:1055], labels[:1055])
    for name, tensor in alone.tensors().items():
        assert torch.equal(beside.tensors()[name], tensor), name


def test_draws_vary_as_much_as_the_data_before_their_values_are_mapped(described):
    rows, labels = sample()
    drawn = described.unmapped(torch.arange(2).repeat_interleave(2000), seeded(1))
    for label in range(2):
        own, real = drawn[2000 * label :][:2000], rows[labels == label]
        for part in (slice(0, 48), slice(48, WIDTH)):
            spread = [float(values[:, part].var(0).sum()) for values in (own, real)]
            assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_it_has_no_more_directions_than_it_may(monkeypatch):
    monkeypatch.setattr(fit, "DIRECTIONS", 1)
    assert fitted(*sample()).directions.shape[1] == 1


def test_a_narrow_layer_has_as_many_directions_as_values():
    rows, labels = torch.randn(1200, 5, generator=seeded()), torch.zeros(1200).long()
    found = fit.fitted(rows, labels, (("fc", (5,)),), room=10**6, generator=seeded())
    assert found.directions.shape == (1, 5, 5)
    covariance = found.directions[0].T @ found.directions[0]
    assert torch.allclose(covariance, torch.cov(rows.T, correction=0), atol=1e-4)


def test_it_takes_no_more_room_than_it_may():
    rows, labels = sample()
    whole = fitted(rows, labels)
    values = {name: tensor.numel() for name, tensor in whole.tensors().items()}
    needed = 2 * sum(values.values()) - values["directions"]  # directions at 8 bits
    assert fitted(rows, labels, room=needed).directions.shape == whole.directions.shape
    less = fitted(rows, labels, room=needed - 1)
    assert less.directions.shape[1] == whole.directions.shape[1] - 1
    least = needed - values["directions"]
    assert fitted(rows, labels, room=least).directions.shape[1] == 0
    assert fitted(rows, labels, room=least - 1) is None


def test_parts_that_do_not_fit_together_are_refused(described):
    for change in (
        {"layers": LAYERS[:1]},
        {"directions": described.directions[:1]},
        {"seen": described.seen[:, :2]},
        {"roots": described.roots[::-1]},
    ):
        with pytest.raises(ValueError, match="fit"):
            replace(described, **change)


def test_the_distance_of_a_class_leaves_its_directions_out(described):
    place = described.means[1] + 5 * described.directions[1, 0]
    from_means, from_spans = described.distances(torch.stack([place, described.means[0]]))
    assert from_spans[0, 1] < 1e-3 < from_spans[0, 0]
    assert from_spans[1, 0] < 1e-3
    assert from_means[0, 1] == pytest.approx(5 * float(described.directions[1, 0].norm()), rel=1e-4)
    assert from_means[1, 0] < 1e-3
