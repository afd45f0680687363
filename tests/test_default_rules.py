"""Each rule by which the default adapts to a run, where it acts: in the loss, or in what follows.

The rules by themselves are tested in test_balance.py and test_pace.py.
"""

import dataclasses
import math

import pytest
import torch

from stakes import StructGuard
from stakes.methods.structguard import default
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task
from stakes.training.criteria import deep_lead
from stakes.training.loop import FORGOTTEN
from stakes.training.losses import deletion_hinge

QUICK = {
    "lr": 5e-3, "depth": 1.0, "feature_weight": 1, "probe_batch": 32, "patience": 4, "settle": 0.2,
    "precision": "float32",
}  # fmt: skip
EXACT = QUICK | {"criterion": "exact"}
VIEWS = QUICK | {"criterion": "views", "probes": "mixed", "cohorts": 1}


@pytest.fixture
def task(classifier, forget, anchors) -> Task:
    return Task(classifier, forget, anchors)


def moved(task: Task) -> None:
    """Move the live network, so that every term has something to say."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.live.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def terms(objective: Objective, task: Task) -> dict[str, float]:
    """The terms of the first step; the same draws every time."""
    task.generator.manual_seed(0)
    return {name: float(value.detach()) for name, value in objective.terms(1).items()}


def answers_all(task: Task, label: int) -> None:
    """Let the live network give every image this class."""
    with torch.no_grad():
        task.live.head.weight.zero_()
        task.live.head.bias.copy_(10.0 * torch.nn.functional.one_hot(torch.tensor(label), 4))


def test_the_hinge_asks_of_each_image_its_margin_of_the_moment(task):
    objective = Objective(StructGuard(**EXACT), task)
    with torch.no_grad():
        logits = task.live(task.forget.images)
    k = len(logits)
    for margin in (torch.full((k,), 0.3), torch.linspace(0.1, 30.0, k)):
        objective.balance.margin = margin
        expected = deletion_hinge(logits, task.forget.labels, margin)
        assert terms(objective, task)["deletion"] == pytest.approx(float(expected), rel=1e-4)


def test_the_balance_sees_every_step(task):
    objective = Objective(StructGuard(**EXACT), task)
    answers_all(task, 3)  # a class of none of them
    objective.terms(1)
    assert objective.balance.known == 0
    answers_all(task, 0)
    objective.terms(2)
    assert objective.balance.known == float((task.forget.labels == 0).float().mean())


def test_an_image_is_pushed_to_where_it_is_sent_and_not_to_what_is_strongest_by_then(task):
    objective = Objective(StructGuard(towards="second", **EXACT), task)
    with torch.no_grad():
        logits = task.live(task.forget.images)
    labels = task.forget.labels
    sent = torch.full_like(labels, int(logits.mean(0)[2:].argmin()) + 2)  # wrong, and weakest
    objective.targets = sent
    there, elsewhere = (deletion_hinge(logits, labels, 0.3, to) for to in (sent, None))
    assert terms(objective, task)["deletion"] == pytest.approx(float(there), rel=1e-4)
    assert there > 1.05 * elsewhere


def test_all_but_the_features_grow_where_these_are_to_count_for_less(task):
    objective = Objective(StructGuard(**QUICK), task)
    moved(task)
    whole = terms(objective, task)
    objective.balance.feature_scale = torch.tensor(0.25)
    part = terms(objective, task)
    assert part["features"] == whole["features"] > 0
    others = {name: 4 * value for name, value in whole.items() if name != "features"}
    assert {name: part[name] for name in others} == pytest.approx(others, rel=1e-5)
    assert others["deletion"] > 0


def test_copies_are_pushed_at_the_scale_of_the_moment(task):
    objective = Objective(StructGuard(**VIEWS), task)
    whole = terms(objective, task)
    objective.views_scale.value = torch.tensor(3.0)
    assert terms(objective, task)["views"] == pytest.approx(3 * whole["views"], rel=1e-5)
    assert whole["views"] > 0


def test_each_copy_is_asked_the_margin_of_its_own_image(task, monkeypatch):
    monkeypatch.setattr(
        "stakes.methods.structguard.objective.random_view", lambda images, _: images
    )
    objective = Objective(StructGuard(**VIEWS | {"patience": 0}), task)
    with torch.no_grad():
        leads = deep_lead(task.live(task.forget.images), task.forget.labels)
    k = len(leads)
    for i, lead in enumerate(leads.tolist()):  # of three copies each, those of one image are pushed
        objective.balance.margin = torch.full((k,), -1e3).index_fill(0, torch.tensor([i]), 30.0)
        expected = 3 * (lead + 30) / math.sqrt(3 * k * 3)
        assert terms(objective, task)["views"] == pytest.approx(expected, rel=1e-4)


def test_the_views_scale_sees_every_step(classifier, forget, anchors):
    still = StructGuard(**VIEWS | {"lr": 1e-12, "patience": 2}, max_steps=4)
    assert still(classifier, forget, anchors=anchors).chosen["views_scale"] == 1.5
    content = dataclasses.replace(still, views_needed=0.0)  # all copies may stay recognised
    assert content(classifier, forget, anchors=anchors).chosen["views_scale"] == 1


def test_no_progress_grows_the_margin_or_loosens_the_features(classifier, forget, anchors):
    still = {"lr": 1e-12, "patience": 2, "max_steps": 6}
    found = StructGuard(**QUICK | still)(classifier, forget, anchors=anchors).chosen
    assert (found["feature_scale"], found["margin"]) == (0.125, 0.3)  # after 4, 5 and 6 steps
    never = StructGuard(**QUICK | still | {"patience": 0})(classifier, forget, anchors=anchors)
    assert never.chosen["feature_scale"] == 1


@pytest.mark.parametrize(
    ("settle", "cohorts", "share", "least"),
    [(0.5, 1, 0.5, 0), (0.0, 1, 0.0, 0), (0.1, 1, 0.1, 25), (0.8, 2, 0.4, 0)],
)
def test_the_run_settles_once_all_is_forgotten(
    settle, cohorts, share, least, classifier, forget, anchors, monkeypatch
):
    monkeypatch.setattr(default, "SETTLE_LEAST", least)
    calm = {"lr": 1e-2, "patience": 20, "pull_back": False, "max_steps": 300}  # all stays forgotten
    method = StructGuard(**EXACT | {"settle": settle, "cohorts": cohorts} | calm)
    result = method(classifier, forget, anchors=anchors, seed=0)
    assert result.ending == FORGOTTEN
    checks = [row for row in result.history if row.get("forget_accuracy") == 0]
    first = int(checks[0]["step"])
    length = max(least, math.ceil(share * first)) if settle else 0
    assert result.history[-1]["step"] == first + length


def test_it_is_checked_as_soon_as_a_step_shows_all_forgotten(
    classifier, forget, anchors, monkeypatch
):
    monkeypatch.setattr(default, "CHECK_EVERY", 1000)
    method = StructGuard(**QUICK | {"settle": 0, "max_steps": 299})
    result = method(classifier, forget, anchors=anchors, seed=0)
    assert result.stop_reason == "forgotten: no forget image's class is first or second choice"
    assert result.history[-1]["step"] < 299


@pytest.mark.slow
def test_at_the_end_it_goes_back_as_far_as_all_stays_forgotten(classifier, forget, anchors):
    calm = QUICK | {"lr": 1e-2, "patience": 20, "max_steps": 300}
    method, whole = StructGuard(**calm), StructGuard(**calm | {"pull_back": False})
    near, far = (m(classifier, forget, anchors=anchors, seed=0) for m in (method, whole))
    share = near.chosen["pulled_back_to"]
    assert 0 < share < 1
    assert "pulled_back_to" not in far.chosen
    for name, parameter in near.classifier.named_parameters():
        ends = (dict(network.named_parameters())[name] for network in (classifier, far.classifier))
        assert torch.allclose(parameter, torch.lerp(*ends, share), atol=1e-6), name
    assert (near.classifier(forget.images).argmax(1) != forget.labels).all()
    assert near.history[-1]["forget_accuracy"] == 0
    assert near.history[-1]["drift"] < far.history[-1]["drift"]


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_a_structure_that_drifts_too_far_is_gone_back_from(
    batch_norm, classifier, forget, anchors, monkeypatch
):
    monkeypatch.setattr(default, "CHECK_EVERY", 1)
    strict = QUICK | {"max_drift": 1e-9, "batch_norm": batch_norm}
    result = StructGuard(**strict, max_steps=3)(classifier, forget, anchors=anchors)
    assert result.chosen["lr"] == 5e-3 / 8
    assert result.chosen["lr_why"].endswith("at step 1, 2, 3")
    assert result.classifier.digest() == classifier.digest()
    result = StructGuard(**strict, max_steps=7)(classifier, forget, anchors=anchors)
    assert result.chosen["lr"] == 5e-3 / 2**default.BACKOFFS
    assert result.classifier.digest() != classifier.digest()


def test_the_learning_rate_grows_over_the_warm_up(classifier, forget, anchors, monkeypatch):
    def largest_step(warmup: int) -> float:
        monkeypatch.setattr(default, "WARMUP", warmup)
        result = StructGuard(optimizer="adam", **QUICK | {"max_steps": 1})(
            classifier, forget, anchors=anchors
        )
        pairs = zip(result.classifier.parameters(), classifier.parameters(), strict=True)
        return max(float((a - b).detach().abs().max()) for a, b in pairs)

    assert largest_step(0) == pytest.approx(5e-3, rel=1e-2)  # Adam's first step
    assert largest_step(10) == pytest.approx(5e-4, rel=1e-2)
