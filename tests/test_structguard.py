"""The parts of the default method that no other method has."""

import dataclasses

import pytest
import torch

from stakes import ForgetSet, InputError, StructGuard
from stakes.data.views import mirror, random_view
from stakes.methods import probing, task
from stakes.methods.structguard import default, objective
from stakes.methods.structguard.objective import Objective
from stakes.rows import Outcome
from stakes.training.depth import shallow
from stakes.training.losses import STRUCTURAL, deletion_hinge, feature_shift, margins
from stakes.training.monitor import Monitor
from stakes.training.pgd import Probes

pytestmark = pytest.mark.slow

QUICK = {
    "lr": 5e-3, "depth": 1.0, "feature_weight": 1, "probe_batch": 32, "patience": 4, "settle": 0.2,
}  # fmt: skip


VIEWS = QUICK | {
    "criterion": "views", "retention_weight": 0.3, "feature_weight": 0.3, "align_weight": 0,
    "max_drift": 2.0,
}  # fmt: skip


@pytest.fixture
def run(classifier, forget, anchors) -> task.Task:
    return task.Task(classifier, forget, anchors)


def known(classifier, forget, views) -> float:
    """Share of the views, each (k, 3, h, w), that keep the class of their image."""
    right = [classifier(view).argmax(1) == forget.labels for view in views]
    return torch.cat(right).float().mean().item()


def copies(forget, count: int = 20) -> list[torch.Tensor]:
    """Fresh views of the forget images that no run has seen."""
    generator = torch.Generator().manual_seed(99)
    return [random_view(forget.images, generator) for _ in range(count)]


def test_with_the_criterion_of_views_copies_are_forgotten_too(
    classifier, forget, anchors, monkeypatch
):
    monkeypatch.setattr(probing, "INVERTED", 64)
    monkeypatch.setattr(probing, "INVERSION_STEPS", 10)
    views = StructGuard(max_steps=600, **VIEWS | {"lr": 2e-2, "probe_batch": 16})
    exact = StructGuard(criterion="exact", max_steps=600, **QUICK)
    first, second = (m(classifier, forget, anchors=anchors, seed=0) for m in (exact, views))
    for result in (first, second):
        assert result.ending.outcome is Outcome.FORGOTTEN
        assert known(result.classifier, forget, [forget.images]) == 0
    assert known(first.classifier, forget, copies(forget)) > 0.3
    assert known(second.classifier, forget, copies(forget)) < 0.2
    assert known(second.classifier, forget, mirror(forget.images)) < 0.2
    assert "views_accuracy" not in first.history[-1]
    assert "term_views" not in first.history[-1]
    assert second.history[-1]["views_accuracy"] <= 7
    assert second.history[0]["views_accuracy"] > 50
    assert second.history[-1]["term_views"] >= 0


def test_with_views_it_looks_no_more_often(classifier, forget, anchors, monkeypatch):
    monkeypatch.setattr(objective, "VIEWS_WEIGHT", 0)
    slow = {"probes": "mixed", "views_needed": 1.0, "lr": 1e-2, "precision": "float32"}
    method = StructGuard(max_steps=60, **VIEWS | slow)
    history = method(classifier, forget, anchors=anchors, seed=0).history
    looks = [row for row in history if "drift" in row]
    assert [row["step"] for row in looks] == [*range(0, 61, 10)]
    # The images without their copies: the reason to look at every step otherwise.
    assert any(row["forget_accuracy"] == 0 < row["views_accuracy"] for row in looks)


def test_a_pool_is_mixed_once_and_drawn_from_in_turn(run):
    probes = Objective(StructGuard(pool=8, **QUICK | {"probe_batch": 4}), run).probes
    first, second, third = (probes.draw().images for _ in range(3))
    pool = torch.cat([first, second])
    assert len(pool.flatten(1).unique(dim=0)) == 8
    assert all((pool == image).flatten(1).all(1).any() for image in third)


def test_of_both_kinds_of_probes_half_are_adversarial(run, monkeypatch):
    grey = Probes(torch.full((20, 3, 8, 8), 0.5), torch.zeros(20).long(), torch.ones(20).bool())
    monkeypatch.setattr(probing, "attacked", lambda *_, **__: grey)
    batch = Objective(StructGuard(probes="both", **QUICK | {"probe_batch": 16}), run).probes.draw()
    assert int((batch.images == 0.5).flatten(1).all(1).sum()) == 8
    assert len(batch.labels) == 16


def test_adversarial_probes_lead_clearly_and_lie_near_their_images(run):
    made = Objective(StructGuard(probes="pgd", **QUICK), run).probes.fixed
    assert len(made.labels) == 20 * len(run.forget)
    lead = margins(run.original(made.images), made.labels)
    assert (lead >= 0.5 - 1e-3).float().mean() > 0.95
    away = (made.images - run.forget.images.repeat(20, 1, 1, 1)).flatten(1).norm(dim=1)
    assert 3 < away.max() <= 4 + 1e-3


def probes_of(images, criterion, classifier, anchors, count=1000) -> torch.Tensor:
    """Mixtures that a run with this criterion draws from the images, each of a class of its own."""
    forget = ForgetSet(images, torch.arange(len(images)), [f"{i}.png" for i in range(len(images))])
    settings = {"probes": "mixed", "probe_batch": count, "precision": "float32"}
    made = StructGuard(criterion=criterion, **settings)
    return Objective(made, task.Task(classifier, forget, anchors)).probes.draw().images


@pytest.mark.parametrize(("criterion", "low", "high"), [("deep", 0.2, 0.4), ("views", 0, 0.05)])
def test_mixtures_are_even_where_copies_are_to_be_forgotten(
    criterion, low, high, classifier, anchors, monkeypatch
):
    """Of a black and a white image, the mean is the share of the white one."""
    monkeypatch.setattr(probing, "perturb_pixels", lambda images, _: images)
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    share = probes_of(images, criterion, classifier, anchors)[:500].mean((1, 2, 3))
    of_both = share[(share > 0.01) & (share < 0.99)]
    uneven = ((of_both - 0.5).abs() > 0.25).float().mean()
    assert low <= float(uneven) <= high


@pytest.mark.parametrize(("criterion", "low", "high"), [("deep", 0, 0), ("views", 0.3, 0.6)])
def test_probes_are_altered_as_copies_are_where_these_are_to_be_forgotten(
    criterion, low, high, classifier, anchors
):
    made = probes_of(torch.full((2, 3, 8, 8), 0.4), criterion, classifier, anchors)
    altered = (made - 0.4).abs().flatten(1).amax(1) > 1e-3
    assert low <= float(altered.float().mean()) <= high


@pytest.mark.parametrize(("k", "each"), [(1, 32), (5, 8)])
def test_of_few_images_more_copies_are_watched(k, each, classifier, forget, anchors, monkeypatch):
    seen = []
    check = Monitor.check

    def watched(self, live):
        seen.append(check(self, live))
        return seen[-1]

    monkeypatch.setattr(Monitor, "check", watched)
    some = ForgetSet(forget.images[:k], forget.labels[:k], forget.names[:k])
    method = StructGuard(max_steps=1, **VIEWS | {"probes": "mixed", "probe_batch": 16})
    method(classifier, some, anchors=anchors, seed=0)
    assert {len(found.view_leads) for found in seen} == {k * each}


@pytest.mark.parametrize("name", STRUCTURAL)
def test_every_comparison_of_structures_can_be_held(name, classifier, forget, anchors):
    strong = QUICK | {"feature_weight": 0, "align_weight": 100.0, "batch_norm": "eval"}
    method = StructGuard(align_loss=name, max_steps=12, **strong)
    history = method(classifier, forget, anchors=anchors, seed=0).history
    first = history[1]["term_alignment"]  # nothing has changed yet: the least there is
    assert first == pytest.approx(-100 if name == "cosine" else 0, abs=1e-2)
    assert history[-1]["term_alignment"] > first
    other = dataclasses.replace(method, align_loss="mse" if name != "mse" else "kl")
    again = other(classifier, forget, anchors=anchors, seed=0).history
    assert again[-1]["term_alignment"] != history[-1]["term_alignment"]


@pytest.mark.parametrize("few", [6, 1])
def test_muon_moves_hidden_layers_and_adam_the_head(few, classifier, forget, anchors, monkeypatch):
    """Adam's first step is as long in every entry, Muon's in every direction.

    Where more than a few layers are trained, Muon's is shorter by the root of their number.
    """
    monkeypatch.setattr(default, "FEW_LAYERS", few)
    asked = StructGuard(max_steps=1, **QUICK | {"lr": 1e-3})
    made = asked(classifier, forget, anchors=anchors).classifier
    rate = 1e-3 / default.WARMUP
    before, after = (dict(network.named_parameters()) for network in (classifier, made))
    moved = {n: after[n].detach() - before[n].detach() for n in after}
    head = moved.pop("head.weight").abs()
    assert [float(head.median()), float(head.max())] == pytest.approx([rate, rate], rel=0.02)
    kernels = [change for change in moved.values() if change.ndim > 1 and change.any()]
    assert 1 < len(kernels) <= 6
    step = 0.6 * rate / (len(kernels) ** 0.5 if few == 1 else 1)
    for change in kernels:
        assert float(change.square().mean().sqrt()) == pytest.approx(step, rel=0.2)


def test_it_says_what_it_chose_and_why(classifier, forget, anchors, monkeypatch):
    given = StructGuard(max_steps=2, **QUICK)(classifier, forget, anchors=anchors).chosen
    assert given == {
        "probes": "mixed", "probes_why": "the images alone are to be forgotten",
        "cohorts": 1, "cohorts_why": "a step takes all images",
        "probe_batch": QUICK["probe_batch"],
        "towards": "drawn", "towards_why": "new answers are not to be foretold",
        "lr": 5e-3, "lr_why": "as given", "margin": 0.3, "margin_why": "as given",
        "feature_scale": 1.0, "feature_scale_why": "as given",
        "views_scale": 1.0, "views_scale_why": "as given",
    }  # fmt: skip
    monkeypatch.setattr(default, "CHECK_EVERY", 1)
    hurried = StructGuard(max_steps=12, **QUICK | {"lr": 1e2, "patience": 1})
    found = hurried(classifier, forget, anchors=anchors).chosen
    assert found["lr"] == 1e2 / 2**5
    assert found["lr_why"].startswith("drift above 0.2, or no finite loss, at step 1, 2, 3, ")
    held = StructGuard(max_steps=6, **QUICK | {"lr": 1e-9, "patience": 2})
    found = held(classifier, forget, anchors=anchors).chosen
    assert found["feature_scale"] == 0.125  # after 4, 5 and 6 steps
    assert found["feature_scale_why"] == "no progress in forgetting"
    assert (found["lr"], found["margin"]) == (1e-9, 0.3)


def test_images_are_held_until_their_turn(classifier, forget, anchors, monkeypatch):
    held = []

    def noted(before, after):
        held.append(before)
        return feature_shift(before, after)

    monkeypatch.setattr(objective, "feature_shift", noted)
    ordered = forget.in_one_order()
    with torch.no_grad():
        features, logits = classifier.both(ordered.images)
    # Three parts of two images; a turn is cut short so that all come in half of the steps.
    still = QUICK | {"lr": 1e-12, "patience": 0, "precision": "float32"}
    method = StructGuard(criterion="exact", cohorts=3, max_steps=12, **still)
    history = method(classifier, forget, anchors=anchors, seed=0).history
    for step in range(1, 13):
        asked = min(6, 2 * (1 + (step - 1) // 2))
        pushed = deletion_hinge(logits[:asked], ordered.labels[:asked], 0.3)
        assert history[step]["term_deletion"] == pytest.approx(float(pushed), rel=1e-4)
        waiting = held[step - 1][32:]  # behind the probes
        assert len(waiting) == 6 - asked
        distances = torch.cdist(features[asked:], waiting)
        assert asked == 6 or distances.amin(1).max() < 1e-3


@pytest.mark.parametrize("parts", [1, 3])
def test_images_are_pushed_to_the_original_s_second_choice(parts, classifier, forget, anchors):
    ordered = forget.in_one_order()
    with torch.no_grad():
        logits = classifier(ordered.images)
    second = logits.scatter(1, ordered.labels[:, None], -torch.inf).argmax(1)
    quick = QUICK | {"criterion": "exact", "precision": "float32", "max_steps": 600}
    method = StructGuard(towards="second", cohorts=parts, **quick)
    found = method(classifier, forget, anchors=anchors, seed=0)
    asked = 6 // parts
    pushed = deletion_hinge(logits[:asked], ordered.labels[:asked], 0.3, second[:asked])
    assert found.history[1]["term_deletion"] == pytest.approx(float(pushed), rel=1e-4)
    assert found.ending.outcome is Outcome.FORGOTTEN
    with torch.no_grad():
        went = found.classifier(ordered.images).argmax(1)
    assert int((went == second).sum()) >= 5


def test_how_many_parts_is_chosen_by_how_many_images_a_step_takes(classifier, forget, anchors):
    def chosen(**fields) -> dict[str, object]:
        method = StructGuard(**QUICK | {"max_steps": 1} | fields)
        return method(classifier, forget, anchors=anchors).chosen

    def parts(**fields) -> tuple[object, object]:
        found = chosen(**fields)
        return found["cohorts"], found["cohorts_why"]

    assert parts() == (1, "a step takes all images")
    assert parts(forget_batch=5) == (6, "more images than a step takes")  # six images
    assert chosen(forget_batch=5)["towards"] == "drawn"
    assert chosen(forget_batch=5, towards="strongest")["towards_why"] == "as given"
    assert chosen(criterion="exact", forget_batch=5)["towards"] == "second"
    assert chosen(criterion="exact")["towards"] == "strongest"
    assert parts(cohorts=3) == (3, "as given")
    views = {"criterion": "views", "probes": "mixed"}
    assert parts(**views) == (6, "copies are to be forgotten too")


@pytest.mark.parametrize("criterion", ["exact", "deep", "views"])
def test_whole_classes_are_pushed_all_at_once_and_to_whatever_is_next(
    criterion, classifier, train_images, anchors
):
    """Images of a class that wait for their turn would hold the network to that class."""
    settings = {"criterion": criterion, "probes": "mixed", "max_steps": 1, "forget_batch": 4}
    forget = ForgetSet.from_classes(train_images, "red", class_names=classifier.class_names)
    found = StructGuard(**QUICK | settings)(classifier, forget, anchors=anchors).chosen
    why = "whole classes are to be forgotten"
    assert (found["cohorts"], found["cohorts_why"]) == (1, why)
    assert (found["towards"], found["towards_why"]) == ("strongest", why)
    asked = {"cohorts": 2, "towards": "drawn"}
    found = StructGuard(**QUICK | settings | asked)(classifier, forget, anchors=anchors).chosen
    assert (found["cohorts_why"], found["towards_why"]) == ("as given", "as given")


def test_half_width_changes_the_numbers_and_not_the_outcome(classifier, forget, anchors):
    half = StructGuard(precision="bfloat16", max_steps=600, **QUICK)
    first = half(classifier, forget, anchors=anchors, seed=0)
    assert first.ending.outcome is Outcome.FORGOTTEN
    assert all(p.dtype == torch.float32 for p in first.classifier.parameters())
    full = dataclasses.replace(half, precision="float32", max_steps=3)
    second = full(classifier, forget, anchors=anchors, seed=0)
    assert first.history[1]["loss"] != second.history[1]["loss"]
    assert first.history[1]["loss"] == pytest.approx(second.history[1]["loss"], rel=0.1)


LAYERS = ["body.conv1", "body.conv2", "head"]


@pytest.mark.parametrize(("depth", "free"), [(0.01, 1), (1 / 3, 1), (0.34, 2), (2 / 3, 2), (1, 3)])
def test_only_the_layers_nearest_the_head_change(
    depth, free, classifier, forget, anchors, monkeypatch
):
    monkeypatch.setattr("stakes.training.depth.FEWEST_LAYERS", 1)
    method = StructGuard(**QUICK | {"depth": depth}, max_steps=2)
    after = method(classifier, forget, anchors=anchors, seed=0).classifier
    for i, name in enumerate(LAYERS):
        same = torch.equal(after.get_submodule(name).weight, classifier.get_submodule(name).weight)
        assert same == (i < len(LAYERS) - free), name
    norm = torch.equal(after.body.bn1.weight, classifier.body.bn1.weight)
    assert norm == (free < 3)  # it goes with the layer before it
    assert all(p.requires_grad for p in after.parameters())


def test_a_shallow_network_changes_as_a_whole(run):
    with shallow(run.live, 0.01):
        assert all(p.requires_grad for p in run.live.parameters())


def test_what_was_frozen_stays_so_and_counts_as_no_layer(run, monkeypatch):
    monkeypatch.setattr("stakes.training.depth.FEWEST_LAYERS", 1)
    run.live.head.requires_grad_(False)
    run.live.body.bn2.requires_grad_(False)
    before = {name: p.requires_grad for name, p in run.live.named_parameters()}
    with shallow(run.live, 0.5):
        free = {name for name, p in run.live.named_parameters() if p.requires_grad}
        assert free == {"body.conv2.weight", "body.conv2.bias"}
    assert {name: p.requires_grad for name, p in run.live.named_parameters()} == before
    with pytest.raises(ZeroDivisionError), shallow(run.live, 0.5):
        raise ZeroDivisionError
    assert {name: p.requires_grad for name, p in run.live.named_parameters()} == before
    run.live.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"), shallow(run.live, 0.5):
        pass


def test_shares_beyond_the_whole_are_refused():
    with pytest.raises(InputError, match=r"depth=1\.5: give a number from 0 to 1"):
        StructGuard(depth=1.5)
    with pytest.raises(InputError, match=r"views_needed=95.*0 to 1"):
        StructGuard(views_needed=95)
