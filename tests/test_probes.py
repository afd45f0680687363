import itertools

import pytest
import torch
from torch.nn import functional as F

from stakes import Classifier, ForgetSet
from stakes.data.augment import jitter, mixed, rotate_recolour
from stakes.training.losses import margins
from stakes.training.pgd import pgd
from stakes.training.targets import wrong_labels

ATTACK = {"eps": 2.0, "step": 0.2, "iterations": 40}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pairs(forget: ForgetSet) -> tuple[torch.Tensor, torch.Tensor]:
    images = forget.images.repeat_interleave(3, 0)
    return images, wrong_labels(forget.labels.repeat_interleave(3), 4, seeded())


def test_targets_are_never_the_true_class_and_reach_every_other():
    labels = torch.arange(4).repeat(200)
    targets = wrong_labels(labels, 4, seeded())
    assert not (targets == labels).any()
    for label in range(4):
        assert set(targets[labels == label].tolist()) == set(range(4)) - {label}


def test_probes_stay_in_the_ball_and_in_range_and_lead_by_the_margin(trained, pairs):
    images, targets = pairs
    probes = pgd(trained, images, targets, margin=0.5, generator=seeded(), **ATTACK)
    distance = (probes.images - images).flatten(1).norm(dim=1)
    assert distance.max() <= ATTACK["eps"] + 1e-4
    assert probes.images.min() >= 0
    assert probes.images.max() <= 1
    lead = margins(trained(probes.images), probes.labels)
    assert probes.reached.float().mean() > 0.8
    assert (lead[probes.reached] >= 0.5 - 1e-3).all()
    assert (lead[~probes.reached] < 0.5).all()


def away(logit: float):
    """A network of two classes whose second logit falls with every pixel, from ``logit``."""
    return lambda x: torch.stack([torch.zeros(len(x)), logit - x.flatten(1).sum(1)], 1)


def test_it_starts_in_a_random_direction_at_a_length_up_to_the_radius():
    images = torch.full((200, 3, 8, 8), 0.5)
    attack = {"eps": 1.0, "step": 0.2, "iterations": 0, "generator": seeded()}
    probes = pgd(away(0.0), images, torch.ones(200).long(), **attack)
    moved = (probes.images - images).flatten(1)
    lengths = moved.norm(dim=1)
    assert 0.4 < lengths.mean() < 0.6
    assert lengths.min() < 0.1
    assert 0.9 < lengths.max() <= 1.0
    cosines = F.normalize(moved, dim=1) @ F.normalize(moved, dim=1).T - torch.eye(200)
    assert cosines.abs().max() < 0.4


def test_from_noise_it_starts_at_the_edge_towards_an_image_of_noise():
    images, targets = torch.full((3, 3, 8, 8), 0.5), torch.ones(3).long()
    attack = {"eps": 1.0, "step": 0.2, "iterations": 0, "start": "noise"}
    probes = pgd(away(0.0), images, targets, generator=seeded(), **attack)
    way = (torch.rand(images.shape, generator=seeded()) - images).flatten(1)
    moved = (probes.images - images).flatten(1)
    torch.testing.assert_close(moved, F.normalize(way, dim=1))


def test_a_gradient_that_is_nothing_but_rounding_moves_no_image():
    images, targets = torch.full((1, 3, 8, 8), 0.5), torch.tensor([1])
    certain = away(float(images.sum()) + 40)
    attack = {"eps": 1.0, "step": 0.2, "margin": 99.0}
    begun, ended = (
        pgd(certain, images, targets, iterations=n, generator=seeded(), **attack).images
        for n in (0, 9)
    )
    torch.testing.assert_close(ended, begun, rtol=0, atol=1e-6)


def test_it_makes_as_many_moves_as_it_is_given_and_looks_after_the_last():
    images, targets = torch.full((1, 3, 8, 8), 0.5), torch.tensor([1])
    attack = {"eps": 0.01, "step": 0.2, "batch_size": 1}
    far = [
        pgd(away(-9.0), images, targets, iterations=n, generator=seeded(), **attack) for n in (0, 1)
    ]
    assert not any(probes.reached for probes in far)
    fallen = (images - far[1].images).flatten(1)
    torch.testing.assert_close(fallen, torch.full_like(fallen, 0.01 / 192**0.5), rtol=0.1, atol=0)
    assert not torch.equal(far[0].images, far[1].images)
    near = float(images.sum()) - 0.5 * 0.01 * 192**0.5  # half of the way to the edge of the ball
    assert pgd(away(near), images, targets, iterations=1, generator=seeded(), **attack).reached


def test_without_a_margin_a_tie_is_not_reached_and_any_lead_is():
    images, targets = torch.full((1, 3, 8, 8), 0.5), torch.tensor([1])
    attack = {"eps": 0.1, "step": 0.1, "iterations": 2}
    for lead, reached in ((0.0, False), (0.01, True)):

        def level(x: torch.Tensor, lead: float = lead) -> torch.Tensor:
            flat = 0 * x.flatten(1).sum(1)
            return torch.stack([flat, flat + lead], 1)

        probes = pgd(level, images, targets, generator=seeded(), **attack)
        assert probes.reached.tolist() == [reached]


def test_finished_samples_leave_the_batch_and_do_not_move_again(trained, pairs):
    images, targets = pairs
    sizes = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return trained(x)

    pgd(counting, images, targets, generator=seeded(), **ATTACK)
    assert sizes[0] == len(images)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) < len(images) * ATTACK["iterations"] / 2


def test_no_gradient_reaches_the_parameters(classifier, pairs):
    images, targets = pairs
    pgd(classifier, images, targets, generator=seeded(), **ATTACK)
    assert all(p.grad is None for p in classifier.parameters())


def test_batches_do_not_change_who_is_attacked_and_progress_is_told(trained, pairs):
    images, targets = pairs
    notes = []
    probes = pgd(
        trained,
        images,
        targets,
        batch_size=5,
        generator=seeded(),
        progress=lambda done, total: notes.append((done, total)),
        **ATTACK,
    )
    assert len(probes) == len(images)
    assert notes[0] == (0, len(images))  # before the first move, which may take long
    assert notes[-1] == (len(images), len(images))
    assert notes == sorted(notes)
    assert len(notes) > 2 * -(-len(images) // 5)


def test_against_foolbox(trained: Classifier, pairs):
    """An independent attack with the same steps: as many succeed, and from the same distance."""
    foolbox = pytest.importorskip("foolbox")
    images, targets = pairs
    model = foolbox.PyTorchModel(trained, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(
        abs_stepsize=ATTACK["step"], steps=ATTACK["iterations"], random_start=False
    )
    for eps in (0.3, 0.6, 1.2):
        criterion = foolbox.criteria.TargetedMisclassification(targets)
        _, clipped, theirs = attack(model, images, criterion, epsilons=eps)
        settings = ATTACK | {"eps": eps}
        ours = pgd(trained, images, targets, generator=seeded(), **settings)
        assert abs(int(ours.reached.sum()) - int(theirs.sum())) <= 2
        assert (trained(clipped).argmax(1) == targets).sum() <= ours.reached.sum() + 2


def test_mixtures_are_seeded_fresh_and_in_range(forget):
    first = mixed(forget.images, 40, seeded(1))
    assert torch.equal(first, mixed(forget.images, 40, seeded(1)))
    assert not torch.equal(first, mixed(forget.images, 40, seeded(2)))
    assert first.min() >= 0
    assert first.max() <= 1
    assert len({tuple(m.flatten().tolist()) for m in first}) == 40


def test_mixtures_of_one_image_differ_from_it():
    image = torch.rand(1, 3, 16, 16, generator=seeded())
    mixtures = mixed(image, 20, seeded())
    assert ((mixtures - image).flatten(1).norm(dim=1) > 0.5).all()


def test_half_the_mixtures_hold_an_unblended_box():
    """Of a black and a white image, CutMix leaves both colours pure, mixup neither."""
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    mixtures = mixed(images, 400, seeded())
    spans = mixtures.flatten(1).amax(1) - mixtures.flatten(1).amin(1)
    boxed, blended = (spans > 0.99).sum(), ((mixtures > 0.1) & (mixtures < 0.9)).flatten(1).all(1)
    assert 60 < boxed < 140  # a half of the half that draws two different images
    assert 60 < blended.sum() < 140


def test_half_of_what_mixtures_are_made_of_is_as_sharp_as_the_images():
    """Of images of black and white pixels, a box leaves nothing grey; to interpolate does."""
    images = torch.rand(6, 3, 16, 16, generator=seeded()).round()
    mixtures = mixed(images, 800, seeded())
    grey = ((mixtures != 0) & (mixtures != 1)).flatten(1).float().mean(1)
    assert 70 < (grey == 0).sum() < 130  # a box in half of them, both images sharp in a quarter
    assert ((grey > 0) & (grey < 0.9)).sum() > 150  # a box, one or both images interpolated


@pytest.mark.parametrize(("least", "low", "high"), [(0.15, 0.15, 0.85), (0.35, 0.35, 0.65)])
def test_both_images_of_a_mixture_have_the_least_share(least, low, high):
    """Of a black and a white image, the mean is the share of the white one."""
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    shares = mixed(images, 600, seeded(), least).mean((1, 2, 3))
    unlike = shares[(shares > 0.01) & (shares < 0.99)]  # two different images were drawn
    assert 240 < len(unlike) < 360
    assert low - 0.05 < unlike.min() < low + 0.05  # a box has whole pixels
    assert high - 0.05 < unlike.max() < high + 0.05


def test_jitter_mirrors_about_half(forget):
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    moved = jitter(ramp, torch.zeros(300, dtype=torch.long), seeded())
    slopes = (moved[:, 0, 8, 9] - moved[:, 0, 8, 7]).sign()
    assert 100 < (slopes < 0).sum() < 200


def test_an_image_already_at_its_target_is_done_at_once(trained, forget):
    calls = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return trained(x)

    start = forget.images
    probes = pgd(
        counting, start, forget.labels, eps=0.01, step=0.1, iterations=9, generator=seeded()
    )
    assert calls[0] == len(start)
    assert probes.reached.float().mean() > 0.5
    assert F.mse_loss(probes.images, start) < 1e-4


def test_with_labels_half_of_the_partners_are_of_the_same_class():
    labels = torch.arange(40) % 4
    # An image is of one colour, its class's: a mixture within a class is of that colour again.
    colours = torch.eye(4)[labels][:, :3, None, None].expand(40, 3, 8, 8)
    pure = {}
    for given in (None, labels):
        made = mixed(colours, 4000, torch.Generator().manual_seed(1), labels=given).flatten(2)
        whole = (made.amax(2) - made.amin(2) < 1e-5).all(1)
        clear = ((made < 1e-5) | (made > 1 - 1e-5)).all(2).all(1)
        pure[given is not None] = float((whole & clear).float().mean())
    assert pure[False] == pytest.approx(1 / 4, abs=0.03)
    assert pure[True] == pytest.approx(1 / 2 + 1 / 2 * 1 / 4, abs=0.03)


def test_even_mixtures_are_far_from_either_image():
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    for least in (0.15, 0.35):
        made = mixed(images, 4000, torch.Generator().manual_seed(0), least)
        share = made.mean((1, 2, 3))
        of_both = share[(share > 0.01) & (share < 0.99)]
        # a box is at most a pixel row and column off
        assert float(of_both.min()) == pytest.approx(least, abs=0.12)
        assert float(of_both.max()) == pytest.approx(1 - least, abs=0.12)


@pytest.mark.parametrize(("height", "width", "turns"), [(6, 6, (1, 2, 3)), (4, 6, (2,))])
def test_turned_images_by_hand(height, width, turns):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, height, width, generator=generator)
    made = rotate_recolour(image.expand(300, -1, -1, -1), generator)
    possible = {
        (order, turn): torch.rot90(image[0, list(order)], turn, (1, 2))
        for order in itertools.permutations(range(3))
        for turn in turns
    }
    seen = [key for view in made for key, other in possible.items() if torch.equal(view, other)]
    assert len(seen) == 300
    least = 0.5 * 300 / len(possible)
    assert all(seen.count(key) > least for key in possible)
