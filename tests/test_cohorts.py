"""Whose turn it is: by the clock, or once the images before are forgotten."""

import pytest
import torch

from stakes.methods import StructGuard
from stakes.methods.structguard.cohorts import Cohorts
from stakes.training.adaptive import AdaptiveMargin

PACE = 30


def starts(cohorts: Cohorts, left, steps: range) -> list[int]:
    """The steps at which more images have had their turn than before."""
    found, before = [], 0
    for step in steps:
        now = cohorts.started(step, left)
        if now > before:
            found.append(step)
        before = now
    return found


def nobody_is_asked(first: int) -> int:
    raise AssertionError(first)


@pytest.mark.parametrize(("budget", "pace"), [(3000, PACE), (480, PACE), (160, 10), (8, 1)])
def test_by_the_clock_all_have_started_by_half_of_the_budget(budget, pace):
    cohorts = Cohorts(80, 8, max_steps=budget, pace=PACE)
    found = starts(cohorts, nobody_is_asked, range(1, budget + 1))
    assert found == [1 + pace * turn for turn in range(8)]
    assert budget < 16 or found[-1] <= budget // 2


def test_a_cohort_that_waits_starts_at_a_look_with_a_twentieth_left():
    cohorts = Cohorts(80, 2, max_steps=3000, pace=None)
    gone = {step: 3 if step < 55 else 2 for step in range(1, 100)}  # of 40, a twentieth is 2
    seen = []
    for step in range(1, 100):

        def left(first: int, step: int = step) -> int:
            seen.append((step, first))
            return gone[step]

        assert cohorts.started(step, left) == (40 if step < 61 else 80)
    assert seen == [(step, 40) for step in (11, 21, 31, 41, 51, 61)]


def test_one_that_waits_in_vain_starts_all_the_same():
    cohorts = Cohorts(9, 3, max_steps=240, pace=None)
    assert starts(cohorts, lambda first: first, range(1, 241)) == [1, 41, 81]


def test_turns_go_on_where_they_were():
    whole, first, rest = (Cohorts(9, 3, max_steps=240, pace=None) for _ in range(3))
    asked = starts(whole, lambda first: first, range(1, 100))
    before = starts(first, lambda first: first, range(1, 60))
    rest.load_state_dict(first.state_dict())
    after = [step for step in range(60, 100) if rest.started(step, lambda first: first) == 9]
    assert [*before, after[0]] == asked


def test_of_turns_each_brings_patience():
    balance = AdaptiveMargin(20, 0.4, patience=3, turns=4)
    lead = torch.where(torch.arange(20) < 10, 1.0, -1.0)
    scales = []
    for _ in range(1 + 24 + 24):
        balance.see(torch.arange(20), lead)
        scales.append(float(balance.feature_scale))
    assert scales == [1.0] * 24 + [0.5] * 24 + [0.25]
    assert balance.known_among(5) == 5
    assert balance.known_among(15) == 10


@pytest.mark.parametrize(("criterion", "second"), [("exact", 16), ("views", 31), ("deep", 51)])
def test_deep_images_wait_for_those_before_them(criterion, second, classifier, forget, anchors):
    stuck = {"lr": 1e-12, "precision": "float32", "probe_batch": 16, "max_steps": 200}
    method = StructGuard(criterion=criterion, cohorts=2, towards="second", patience=0, **stuck)
    history = method(classifier, forget, anchors=anchors, seed=0).history
    pushed = [row["term_deletion"] for row in history[1:]]
    changes = [step for step in range(2, 201) if abs(pushed[step - 1] - pushed[step - 2]) > 1e-3]
    assert changes == [second]
