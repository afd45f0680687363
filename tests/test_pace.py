"""The learning rate over time, and what is undone where it was too large."""

import copy
import math

import pytest
import torch
from torch import nn

from checks import found
from stakes.data.augment import mixed
from stakes.training.loop import FORGOTTEN, minimise
from stakes.training.losses import deletion_ce, deletion_hinge
from stakes.training.monitor import Check, Monitor
from stakes.training.schedule import Decision, OneCycle, Schedule
from stakes.training.structure import place_anchors

GO_ON, ROLLED_BACK, DONE = Decision


@pytest.fixture
def layer() -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, 3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
        layer.bias.zero_()
    return layer


@pytest.fixture
def optimizer(layer) -> torch.optim.Optimizer:
    """Adam with a learning rate for the weight and another for the bias."""
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.5}]
    return torch.optim.Adam(groups, lr=0.1)


def sizes(schedule: Schedule, optimizer: torch.optim.Optimizer, *steps: int) -> list[float]:
    """The first group's learning rate at these steps; the second's is always five times it."""
    found = []
    for step in steps:
        schedule.set(step)
        one, two = (group["lr"] for group in optimizer.param_groups)
        assert two == pytest.approx(5 * one)
        found.append(one)
    return found


def descend(layer: nn.Linear, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()


def test_by_default_the_step_size_stays_and_the_first_success_ends_it(optimizer):
    schedule = Schedule(optimizer)
    assert sizes(schedule, optimizer, 1, 2, 1000) == pytest.approx([0.1, 0.1, 0.1])
    assert schedule.after(1, found(False)) is GO_ON
    assert schedule.after(2, found(True)) is DONE
    assert schedule.after(3, found(False, drift=2.0)) is GO_ON


def test_the_learning_rate_is_that_of_the_given_function(layer):
    optimizer = torch.optim.SGD(
        [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 9.0}], 7.0
    )
    schedule = Schedule(optimizer, size=lambda step: 10.0**-step, warmup=2)
    found = []
    for step in (1, 2, 3):
        schedule.set(step)
        found.append([group["lr"] for group in optimizer.param_groups])
    assert found == [[0.05, 0.05], [0.01, 0.01], [0.001, 0.001]]


def test_one_cycle_is_that_of_pytorch_and_resumes(layer):
    def begin() -> tuple[torch.optim.Optimizer, OneCycle]:
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        return optimizer, OneCycle(optimizer, 0.3, 10)

    def now(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
        return optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]

    plain = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    policy = torch.optim.lr_scheduler.OneCycleLR(plain, 0.3, total_steps=10)
    optimizer, schedule = begin()
    for step in range(1, 11):
        if step == 6:
            state, group = schedule.state_dict(), optimizer.state_dict()
            optimizer, schedule = begin()
            optimizer.load_state_dict(group)
            schedule.load_state_dict(state)
        schedule.set(step)
        assert now(optimizer) == now(plain)
        descend(layer, optimizer, 1)
        plain.step()
        policy.step()


def test_the_step_size_grows_over_the_warm_up(optimizer):
    schedule = Schedule(optimizer, warmup=4)
    expected = [0.025, 0.05, 0.075, 0.1, 0.1]
    assert sizes(schedule, optimizer, 1, 2, 3, 4, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settle", "least", "step", "length"),
    [(0.5, 0, 10, 5), (0.5, 0, 3, 2), (1.0, 30, 10, 30), (1.0, 30, 40, 40)],
)
def test_settling_is_a_share_of_the_steps_done_and_falls_to_nothing(
    settle, least, step, length, optimizer
):
    schedule = Schedule(optimizer, settle=settle, settle_least=least)
    assert schedule.after(step, found(True)) is GO_ON
    assert schedule.settling
    end = step + length
    falling = sizes(schedule, optimizer, *range(step + 1, end + 1))
    assert falling == pytest.approx([0.1 * (length - i) / (length + 1) for i in range(length)])
    assert [schedule.ends(s) for s in (step + 1, end - 1, end)] == [False, False, True]
    assert schedule.after(end - 1, found(True)) is GO_ON
    assert schedule.after(end, found(True)) is DONE


def test_an_image_that_comes_back_breaks_the_settling_off_at_its_end(optimizer):
    schedule = Schedule(optimizer, settle=0.5)
    schedule.after(10, found(True))
    assert schedule.after(12, found(False)) is GO_ON  # it may yet be forgotten again
    assert schedule.settling
    assert schedule.after(15, found(False)) is GO_ON
    assert not schedule.settling
    assert sizes(schedule, optimizer, 16) == pytest.approx([0.1])
    assert schedule.after(20, found(True)) is GO_ON
    assert not schedule.ends(29)
    assert schedule.after(30, found(True)) is DONE


def test_what_comes_back_at_the_end_of_the_settling_is_undone(layer, optimizer):
    schedule = Schedule(optimizer, settle=1.0)
    assert schedule.total(600) == 600
    schedule.after(10, found(True))  # settles in steps 11 to 20
    assert (schedule.total(600), schedule.total(15)) == (20, 15)
    for step in (12, 14):
        descend(layer, optimizer)
        assert schedule.after(step, found(True)) is GO_ON
    descend(layer, optimizer)
    assert schedule.after(16, found(True)) is GO_ON
    matrix, bias = layer.weight.clone(), layer.bias.clone()
    for step in (18, 19):
        descend(layer, optimizer)
        assert schedule.after(step, found(False)) is GO_ON
    assert not torch.equal(layer.weight, matrix)
    assert schedule.after(20, found(False)) is DONE
    assert torch.equal(layer.weight, matrix)
    assert torch.equal(layer.bias, bias)


def test_the_first_half_of_the_settling_is_not_gone_back_to(layer, optimizer):
    schedule = Schedule(optimizer, settle=1.0)
    for step, forgotten in ((10, True), (14, True), (15, False)):
        descend(layer, optimizer)
        assert schedule.after(step, found(forgotten)) is GO_ON
    end = layer.weight.clone()
    assert schedule.after(20, found(False)) is GO_ON
    assert torch.equal(layer.weight, end)
    assert not schedule.settling


def test_backing_off_restores_the_last_sound_weights_bit_for_bit(layer, optimizer):
    buffer = torch.tensor([1.0, 2.0])
    schedule = Schedule(optimizer, warmup=2, max_drift=0.2, backoffs=2, buffers=[buffer])
    start = layer.weight.clone()
    descend(layer, optimizer)
    assert schedule.after(5, found(False, drift=0.1)) is GO_ON  # sound: kept
    matrix, bias = layer.weight.clone(), layer.bias.clone()
    descend(layer, optimizer)
    buffer += 1
    assert schedule.after(6, found(False, drift=0.15)) is GO_ON  # neither too far nor sound
    assert schedule.after(6, found(False, drift=0.2)) is GO_ON  # as far as it may
    assert not torch.equal(layer.weight, matrix)
    buffer.fill_(math.nan)
    assert schedule.after(7, found(True, drift=0.3)) is ROLLED_BACK
    assert torch.equal(layer.weight, matrix)
    assert torch.equal(layer.bias, bias)
    assert buffer.tolist() == [1, 2]
    assert not torch.equal(matrix, start)
    assert not optimizer.state
    assert schedule.halved_at == [7]
    assert sizes(schedule, optimizer, 8, 9, 10) == pytest.approx(
        [0.025, 0.05, 0.05]
    )  # warms up again


def test_before_any_sound_check_it_goes_back_to_the_start(layer, optimizer):
    schedule = Schedule(optimizer, max_drift=0.2, backoffs=1)
    start = layer.weight.clone()
    descend(layer, optimizer)
    assert schedule.after(3, found(False, drift=math.nan)) is ROLLED_BACK
    assert torch.equal(layer.weight, start)


def test_it_backs_off_so_many_times_and_not_once_more(layer, optimizer):
    schedule = Schedule(optimizer, max_drift=0.2, backoffs=2)
    assert schedule.back_off(1)
    assert schedule.back_off(2)
    descend(layer, optimizer)
    end, state = layer.weight.clone(), len(optimizer.state)
    assert not schedule.back_off(3)
    assert torch.equal(layer.weight, end)
    assert len(optimizer.state) == state > 0
    assert schedule.halved_at == [1, 2]
    assert sizes(schedule, optimizer, 3) == pytest.approx([0.025])


def test_from_the_middle_of_the_settling_on_it_is_gone_back_to(layer, optimizer):
    schedule = Schedule(optimizer, settle=1.0)
    for step in (10, 15):  # settles in steps 11 to 20
        descend(layer, optimizer)
        assert schedule.after(step, found(True)) is GO_ON
    middle = layer.weight.clone()
    descend(layer, optimizer)
    assert schedule.after(20, found(False)) is DONE
    assert torch.equal(layer.weight, middle)


def test_what_settled_before_backing_off_is_not_gone_back_to(layer, optimizer):
    schedule = Schedule(optimizer, settle=1.0, max_drift=0.2, backoffs=1)
    for step in (10, 18):
        descend(layer, optimizer)
        assert schedule.after(step, found(True)) is GO_ON
    assert schedule.after(19, found(True, drift=0.3)) is ROLLED_BACK
    assert schedule.after(20, found(True)) is GO_ON  # settles in steps 21 to 40
    descend(layer, optimizer)
    end = layer.weight.clone()
    assert schedule.after(40, found(False)) is GO_ON
    assert torch.equal(layer.weight, end)


def test_the_first_settling_alone_begins_where_nearly_all_views_are_forgotten(optimizer):
    def check(missing: int) -> Check:
        gone, views = torch.tensor([-1.0]), torch.ones(20)
        views[missing:] = -1.0
        return Check(gone, gone, 0.0, views, views, needed=0.9)

    schedule = Schedule(optimizer, settle=0.5)
    assert schedule.after(10, check(5)) is GO_ON
    assert not schedule.settling
    assert schedule.after(20, check(4)) is GO_ON  # a tenth of the views less than are needed
    assert schedule.settling
    assert schedule.after(30, check(4)) is GO_ON  # the end: what settling did not bring
    assert not schedule.settling
    assert schedule.after(40, check(3)) is GO_ON
    assert not schedule.settling
    assert schedule.after(50, check(2)) is GO_ON
    assert schedule.settling


def test_a_schedule_resumes_wherever_it_was_interrupted():
    """It backs off once, cannot again, warms up, settles, and goes back to what had settled."""
    checks = {2: found(False, drift=0.3), 4: found(False, drift=0.3), 10: found(True)}
    checks |= {16: found(True), 18: found(False), 20: found(False)}

    def begin(weight: float) -> tuple[nn.Parameter, torch.optim.Optimizer, Schedule]:
        parameter = nn.Parameter(torch.tensor([weight]))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        pace = {"warmup": 3, "settle": 1.0, "max_drift": 0.2, "backoffs": 1}
        return parameter, optimizer, Schedule(optimizer, **pace)

    def run(cut: int) -> list[tuple[float, float, Decision | None]]:
        parameter, optimizer, schedule = begin(0.0)
        seen = []
        for step in range(1, 21):
            if step == cut:
                state = copy.deepcopy(schedule.state_dict())
                parameter, optimizer, schedule = begin(parameter.item())
                schedule.load_state_dict(state)
            schedule.set(step)
            with torch.no_grad():
                parameter += step
            decision = schedule.after(step, checks[step]) if step in checks else None
            seen.append((optimizer.param_groups[0]["lr"], parameter.item(), decision))
        assert schedule.halved_at == [2]
        return seen

    whole = run(0)
    assert [whole[step - 1][2] for step in checks] == [
        ROLLED_BACK,
        GO_ON,
        GO_ON,
        GO_ON,
        GO_ON,
        DONE,
    ]
    assert whole[19][1] == whole[15][1]
    for cut in range(2, 21):
        assert run(cut) == whole, cut


def test_backing_off_breaks_the_settling_off(optimizer):
    schedule = Schedule(optimizer, settle=0.5, max_drift=0.2, backoffs=1)
    schedule.after(10, found(True))
    assert schedule.back_off(12)
    assert not schedule.settling
    assert sizes(schedule, optimizer, 13) == pytest.approx([0.05])


@pytest.fixture
def monitor(trained, forget, anchors) -> Monitor:
    stakes = place_anchors(anchors.vectors, trained.head.weight.detach())
    probes = mixed(forget.images, 16, torch.Generator().manual_seed(0))
    return Monitor(trained, forget, stakes, probes)


def hinge(classifier, forget):
    return lambda step: {
        "deletion": deletion_hinge(classifier(forget.images), forget.labels, margin=1.0)
    }


def test_a_step_size_beyond_all_reason_is_halved_until_it_forgets(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e20)
    schedule = Schedule(optimizer, max_drift=0.5, backoffs=90)
    terms = hinge(classifier, forget)
    history, ending = minimise(
        classifier, terms, optimizer, monitor, max_steps=400, schedule=schedule
    )
    assert ending == FORGOTTEN
    assert history[-1]["drift"] <= 0.5
    assert 40 < len(schedule.halved_at) < 90
    assert all(p.isfinite().all() for p in classifier.parameters())
    assert (classifier(forget.images).argmax(1) != forget.labels).all()


def test_without_backing_off_the_same_step_size_is_the_end(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e20)
    terms = hinge(classifier, forget)
    _, ending = minimise(classifier, terms, optimizer, monitor, max_steps=400)
    assert ending.sentence.startswith("diverged: the loss is not finite at step 2")


def test_a_loss_that_is_not_finite_once_is_gone_back_from(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-6)
    schedule = Schedule(optimizer, backoffs=1)
    start = classifier.head.weight.clone()
    seen = []

    def terms(step):
        seen.append(classifier.head.weight.clone())
        loss = deletion_ce(classifier(forget.images), forget.labels)
        return {"deletion": loss * (math.nan if step == 3 else 1.0)}

    history, ending = minimise(
        classifier, terms, optimizer, monitor, max_steps=5, check_every=5, schedule=schedule
    )
    assert ending.sentence.startswith("step budget")
    assert [row["step"] for row in history] == [0, 1, 2, 4, 5]
    assert not torch.equal(seen[2], start)
    assert torch.equal(seen[3], start)  # no look since the start was sound


def test_a_last_step_that_is_taken_back_has_forgotten_nothing(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    schedule = Schedule(optimizer, max_drift=1e-6, backoffs=1)
    before = classifier.digest()
    notes = []
    history, ending = minimise(
        classifier,
        hinge(classifier, forget),
        optimizer,
        monitor,
        max_steps=1,
        schedule=schedule,
        progress=lambda phase, done, total, note="": notes.append(note),
    )
    assert notes[-1] == "0 % still recognised"  # at the look after which the step was taken back
    assert classifier.digest() == before
    assert ending.sentence.startswith("step budget")
    assert history[-1]["forget_accuracy"] == 100
    assert history[-1]["drift"] == pytest.approx(0, abs=1e-5)


def test_a_run_that_ends_where_it_was_put_back_to_says_what_is_there(classifier, forget, monitor):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    schedule = Schedule(optimizer, settle=0.01, settle_least=20)
    origin = [p.detach().clone() for p in classifier.parameters()]
    push, settled = hinge(classifier, forget), []

    def terms(step):
        settled.append(schedule.settling)
        if sum(settled) <= 14:
            return push(step)
        pairs = zip(classifier.parameters(), origin, strict=True)
        return {"back": 10 * torch.stack([(p - o).square().sum() for p, o in pairs]).sum()}

    history, ending = minimise(
        classifier, terms, optimizer, monitor, max_steps=400, schedule=schedule
    )
    assert ending == FORGOTTEN
    assert history[-2]["forget_accuracy"] > 0
    assert history[-1]["forget_accuracy"] == 0
    assert (classifier(forget.images).argmax(1) != forget.labels).all()
    assert history[-1]["drift"] == monitor.check(classifier).drift
