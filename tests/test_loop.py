import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from stakes.data.augment import mixed
from stakes.errors import InputError
from stakes.models.projector import Projector
from stakes.rows import Outcome
from stakes.training.batches import Batches
from stakes.training.criteria import Goal, deep_lead
from stakes.training.loop import FORGOTTEN, minimise
from stakes.training.losses import deletion_ce, deletion_hinge, margins
from stakes.training.monitor import Check, Monitor
from stakes.training.schedule import Schedule
from stakes.training.search import pull_back
from stakes.training.steps import take_steps
from stakes.training.structure import affinities, place_anchors


@pytest.fixture
def monitor(trained, forget, anchors):
    stakes = place_anchors(anchors.vectors, trained.head.weight.detach())
    probes = mixed(forget.images, 16, torch.Generator().manual_seed(0))
    return Monitor(trained, forget, stakes, probes)


def ascent(classifier, forget):
    return lambda step: {"deletion": deletion_ce(classifier(forget.images), forget.labels)}


def test_an_epoch_visits_everything_once_and_the_next_in_another_order():
    batches = Batches(10, 4, torch.Generator().manual_seed(0))
    assert (batches.per_epoch, Batches(8, 4).per_epoch) == (3, 2)
    first = torch.cat([next(batches) for _ in range(3)])
    second = torch.cat([next(batches) for _ in range(3)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_it_stops_when_every_image_is_misclassified_and_not_before(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.003)
    history, ending = minimise(
        classifier, ascent(classifier, forget), optimizer, monitor, max_steps=500
    )
    assert ending == FORGOTTEN
    assert (margins(classifier(forget.images), forget.labels) < 0).all()
    assert history[0] == {"step": 0, "forget_accuracy": 100.0, "drift": pytest.approx(0, abs=1e-5)}
    assert history[-1]["forget_accuracy"] == 0
    assert all(row["forget_accuracy"] > 0 for row in history[:-1])
    assert [row["step"] for row in history] == list(range(len(history)))
    assert history[-1]["loss"] == pytest.approx(history[-1]["term_deletion"])
    assert history[-1]["drift"] > 0


def test_the_budget_ends_it_and_the_reason_says_so(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-9)
    notes = []
    history, ending = minimise(
        classifier,
        ascent(classifier, forget),
        optimizer,
        monitor,
        max_steps=4,
        check_every=3,
        progress=lambda phase, done, total, note="": notes.append((done, total)),
    )
    assert ending.sentence.startswith("step budget: 4 steps")
    assert ending.outcome is Outcome.BUDGET
    assert [row["step"] for row in history if "drift" in row] == [0, 3, 4]
    assert notes == [(step, 4) for step in range(5)]  # from before the first check on


def test_the_step_size_grows_and_then_falls_while_it_settles(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.003)
    sizes = []

    def terms(step):
        sizes.append(optimizer.param_groups[0]["lr"])  # as the step before left it
        logits = classifier(forget.images)
        return {"deletion": deletion_hinge(logits, forget.labels, margin=1.0)}

    schedule = Schedule(optimizer, warmup=4, settle=0.5)
    history, ending = minimise(
        classifier, terms, optimizer, monitor, max_steps=500, schedule=schedule
    )
    assert ending == FORGOTTEN
    first = next(int(row["step"]) for row in history if row["forget_accuracy"] == 0)
    assert len(history) - 1 == first + math.ceil(first / 2)
    assert sizes[1:5] == pytest.approx([0.003 * share / 4 for share in (1, 2, 3, 4)])
    settling = [*sizes[first + 1 :], optimizer.param_groups[0]["lr"]]
    assert all(a > b > 0 for a, b in pairwise(settling))
    assert history[-1]["forget_accuracy"] == 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoiled(
    classifier, forget, monitor
):
    def terms(step):
        value = classifier(forget.images).sum()
        return {"deletion": value * (math.nan if step == 2 else 1.0)}

    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-3)
    history, ending = minimise(classifier, terms, optimizer, monitor, max_steps=5)
    assert ending.sentence == "diverged: the loss is not finite at step 2"
    assert ending.outcome is Outcome.DIVERGED
    assert len(history) == 2
    assert all(p.isfinite().all() for p in classifier.parameters())


def test_the_gradients_of_a_loss_that_is_not_finite_are_not_used():
    x = torch.tensor([4.0], requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    prepared, found = [], []

    def terms(step):
        return {"square": x.square().sum() * (math.inf if step in (1, 3) else 1.0)}

    for step in take_steps(terms, optimizer, range(1, 5), before_step=prepared.append):
        state = optimizer.state.get(x, {"step": 0})
        found.append((step.finite, x.item(), float(state["step"])))
    assert prepared == [2, 4]
    assert [taken for taken, _, _ in found] == [False, True, False, True]
    assert [count for _, _, count in found] == [0, 1, 1, 2]
    weights = [weight for _, weight, _ in found]
    assert weights[0] == 4 > weights[1] == weights[2] > weights[3]


def test_the_loss_is_the_plain_sum_of_its_terms(classifier, forget, monitor):
    def terms(step):
        one = deletion_ce(classifier(forget.images), forget.labels)
        return {"one": one, "two": 2 * one, "three": 0.5 * one}

    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-3)
    before = classifier.head.bias.detach().clone()
    (gradient,) = torch.autograd.grad(terms(1)["one"], classifier.head.bias)
    history, _ = minimise(classifier, terms, optimizer, monitor, max_steps=1)
    step = history[1]
    assert step["loss"] == pytest.approx(3.5 * step["term_one"])
    assert step["term_two"] == pytest.approx(2 * step["term_one"])
    assert step["term_three"] == pytest.approx(step["term_one"] / 2)
    torch.testing.assert_close(classifier.head.bias.detach(), before - 1e-3 * 3.5 * gradient)


def test_the_end_of_the_settling_is_checked_though_no_check_is_due(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.003)
    schedule = Schedule(optimizer, settle=0.01, settle_least=3)
    history, ending = minimise(
        classifier,
        ascent(classifier, forget),
        optimizer,
        monitor,
        max_steps=500,
        check_every=5,
        schedule=schedule,
    )
    assert ending == FORGOTTEN
    checked = [row["step"] for row in history if "drift" in row]
    assert checked[-2] % 5 == 0
    assert checked[-1] == checked[-2] + 3


@pytest.mark.parametrize("norm", [False, True])
def test_looking_moves_nothing(norm, classifier, trained, forget, anchors):
    stakes = place_anchors(anchors.vectors, trained.head.weight.detach())
    seeded = torch.Generator().manual_seed(0)
    projector = Projector(trained.feature_width, batch_norm=norm, generator=seeded)
    monitor = Monitor(trained, forget, stakes, forget.images, projector)
    live = nn.ModuleList([classifier, projector]).train()
    before = {name: value.clone() for name, value in live.state_dict().items()}
    monitor.check(classifier)
    assert classifier.training
    assert projector.training
    assert all(torch.equal(value, before[name]) for name, value in live.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "views", "needed", "forgotten"),
    [(19, 20, 0.95, True), (18, 20, 0.95, False), (7, 100, 0.07, True), (20, 20, 1.0, True)],
)
def test_the_share_of_views_that_is_needed_is_counted_exactly(wrong, views, needed, forgotten):
    lead = torch.where(torch.arange(views) < wrong, -1.0, 1.0)
    far, mixed = torch.tensor([-1.0]), torch.tensor([1.0, -1.0])
    check = Check(far, far, 0.0, lead, lead, needed)
    assert check.forgotten is forgotten
    assert check.views_accuracy == pytest.approx(100 * (1 - wrong / views))
    assert str(check) == f"0 % still recognised ({100 * (1 - wrong / views):.0f} % of copies)"
    assert not Check(mixed, mixed, 0.0, lead, lead, 0.0).forgotten


def test_a_check_says_what_is_left_of_images_and_of_views():
    leads = torch.tensor(
        [-1.0, 0.0, -2.0, math.nan]
    )  # a tie is not forgotten, nor what is no number
    views = torch.tensor([-1.0, -2.0, 0.5, -3.0, -4.0])
    shallow = torch.tensor([-1.0, 0.0, 0.5, -3.0, -4.0])
    check = Check(torch.tensor([-3.0, 0.0, -2.0, -1.0]), leads, 0.5, views, shallow, needed=0.5)
    assert check.row() == pytest.approx(
        {"forget_accuracy": 25, "drift": 0.5, "views_accuracy": 20, "views_left": 40}
    )
    assert str(check) == (
        "25 % still recognised, 50 % not deep enough (20 % of copies, 40 % not deep)"
    )
    assert not check.forgotten
    assert not check.nearly
    images = replace(check, view_margins=views[:0], view_leads=views[:0], leads=check.margins)
    assert images.row() == {"forget_accuracy": 25, "drift": 0.5}
    assert str(images) == "25 % still recognised"
    gone = replace(check, margins=-views.abs(), leads=-views.abs())
    assert (gone.forgotten, gone.nearly) == (True, True)  # 3 of 5 views, of half
    assert (replace(gone, needed=0.65).forgotten, replace(gone, needed=0.65).nearly) == (
        False,
        True,
    )
    assert not replace(gone, needed=0.75).nearly
    alone = replace(gone, view_margins=views[:0], view_leads=views[:0])
    assert (alone.forgotten, alone.nearly) == (True, True)
    for left, k, nearly in ((1, 20, True), (1, 19, False), (3, 60, True), (math.nan, 19, False)):
        some = torch.full((k,), -1.0)
        some[: 1 if math.isnan(left) else left] = left
        few = replace(alone, margins=some, leads=some)
        assert (few.forgotten, few.nearly) == (False, nearly)
        assert not replace(few, view_margins=some - 2, view_leads=some - 2).nearly


def test_views_are_watched_beside_the_images(trained, forget, anchors):
    stakes = place_anchors(anchors.vectors, trained.head.weight.detach())
    views = [forget.images.flip(-1), forget.images.flip(-2)]
    goal = Goal(deep_lead)
    monitor = Monitor(trained, forget, stakes, forget.images, views=views, needed=0.7, goal=goal)
    check = monitor.check(trained)
    logits, labels = trained(torch.cat(views)), forget.labels.repeat(2)
    torch.testing.assert_close(check.view_margins, margins(logits, labels))
    torch.testing.assert_close(check.view_leads, deep_lead(logits, labels))
    torch.testing.assert_close(check.margins, margins(trained(forget.images), forget.labels))
    assert check.needed == 0.7


def test_the_watch_scores_the_deployed_path(trained, forget, anchors):
    stakes = place_anchors(anchors.vectors, trained.head.weight.detach())
    projector = Projector(trained.feature_width)
    with torch.no_grad():
        projector.contract.weight.neg_()
    probes = forget.images
    check = Monitor(trained, forget, stakes, probes, projector).check(trained)
    expected = margins(trained.head(projector(trained.features(forget.images))), forget.labels)
    assert torch.allclose(check.margins, expected, atol=1e-5)
    assert check.drift == pytest.approx(2, abs=1e-4)
    before = affinities(trained.features(probes), stakes)
    moved = affinities(projector(trained.features(probes)), stakes)
    assert torch.allclose(before, -moved, atol=1e-5)


def test_pulling_back_keeps_the_last_share_that_holds(classifier, trained):
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(1.0)
    first = next(iter(classifier.parameters()))
    origin = next(iter(trained.parameters()))
    share = pull_back(
        classifier, trained, lambda: bool((first - origin).mean() >= 0.3), bisections=10
    )
    assert share == pytest.approx(0.3, abs=2e-3)
    assert (first - origin).mean().item() == pytest.approx(share, abs=1e-4)
    assert share >= 0.3


def test_nothing_is_pulled_back_where_nothing_less_holds(classifier, trained):
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(1.0)
    end = [p.clone() for p in classifier.parameters()]
    assert pull_back(classifier, trained, lambda: False) == 1.0
    assert all(torch.equal(p, e) for p, e in zip(classifier.parameters(), end, strict=True))


def test_a_loss_that_no_weight_moves_is_refused_in_one_line(classifier, forget):
    """As one that was computed from the original by mistake."""
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    original = classifier.copy().requires_grad_(False)
    with pytest.raises(InputError, match=r"step 1: .*task\.live"):
        next(take_steps(ascent(original, forget), optimizer, range(1, 3)))
